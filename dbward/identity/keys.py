"""A provider's public keys, kept and renewed so that signing in needs no call to it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

import httpx2
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, RSAKey

from dbward.identity import web
from dbward.identity.discovery import discover
from dbward.identity.web import ProviderDown

log = logging.getLogger("dbward.identity")

FRESH: Final = timedelta(hours=1)
"""How long keys are used without asking again."""
LONGEST: Final = timedelta(hours=24)
"""How long they go on being used while the provider cannot be reached."""
AGAIN: Final = timedelta(seconds=30)
"""The least time between two questions: nobody makes us ask by inventing names of keys."""
AFTER_FAILURE: Final = timedelta(seconds=5)
WAIT_SECS: Final = 15.0
_WAITING_MAX: Final = 16
_RSA_BITS_LEAST: Final = 2048
_KEYS_MAX: Final = 100

ALGORITHMS: Final = {"RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "ES256": "P-256", "ES384": "P-384"}
"""What may sign a token, and the kind of key it takes. Nothing symmetric: the key would be public."""

Key: TypeAlias = RSAKey | ECKey


@dataclass(frozen=True, slots=True)
class _Held:
    keys: tuple[Key, ...]
    at: datetime


class ProviderKeys:
    """The keys of one issuer, fetched when first needed. Safe to share between threads; close it.

    Only who brings an unknown key waits for the provider: one at a time asks, and a few wait with it.
    """

    def __init__(
        self, issuer: str, jwks_uri: str | None = None, *, transport: httpx2.BaseTransport | None = None
    ) -> None:
        self._issuer = issuer
        self._jwks_uri = jwks_uri
        self._http = web.open_client(transport)
        self._held: _Held | None = None
        self._asked: datetime | None = None
        self._failed: str | None = None
        self._asking = threading.Lock()
        self._places = threading.BoundedSemaphore(_WAITING_MAX)

    def close(self) -> None:
        self._http.close()

    def find(self, kid: str | None, algorithm: str, now: datetime) -> Key | None:
        """The key of that name for that algorithm; None when the provider has none.

        Raises `ProviderDown` when that cannot be found out.
        """
        held = self._held
        found = _pick(held, kid, algorithm, now)
        if held is not None and found is not None:
            if now - held.at < FRESH:
                return found
            if self._asking.acquire(blocking=False):
                try:
                    self._ask(now)
                finally:
                    self._asking.release()
            return _pick(self._held, kid, algorithm, now)
        return self._wait_for(kid, algorithm, now)

    def _wait_for(self, kid: str | None, algorithm: str, now: datetime) -> Key | None:
        if not self._places.acquire(blocking=False):
            raise ProviderDown("is being asked for its keys")
        try:
            if not self._asking.acquire(timeout=WAIT_SECS):
                raise ProviderDown("is being asked for its keys")
            try:
                found = _pick(self._held, kid, algorithm, now)  # whoever asked before us may have brought it
                if found is None:
                    self._ask(now)
                    found = _pick(self._held, kid, algorithm, now)
                failed = self._failed
            finally:
                self._asking.release()
        finally:
            self._places.release()
        if found is None and failed is not None:
            raise ProviderDown(failed)
        return found

    def _ask(self, now: datetime) -> None:
        """Fetch the keys unless that was done just now. A failure is kept, and leaves what is held as it is."""
        pause = AGAIN if self._failed is None else AFTER_FAILURE
        if self._asked is not None and abs(now - self._asked) < pause:
            return
        self._asked = now
        try:
            uri = self._jwks_uri or discover(self._http, self._issuer).jwks_uri
            self._held = _Held(tuple(_read(web.fetch(self._http, uri))), now)
            self._failed = None
        except ProviderDown as e:
            self._failed = e.what
            log.warning("the keys of the identity provider could not be fetched: %s", e.message)


def _pick(held: _Held | None, kid: str | None, algorithm: str, now: datetime) -> Key | None:
    """A token that names no key is accepted when only one key can be meant."""
    if held is None or abs(now - held.at) >= LONGEST:
        return None
    fit = [key for key in held.keys if _fits(key, algorithm) and kid in (None, key.kid)]
    return fit[0] if len(fit) == 1 or (fit and kid is not None) else None


def _fits(key: Key, algorithm: str) -> bool:
    kind = key.curve_name if isinstance(key, ECKey) else "RSA"
    return ALGORITHMS.get(algorithm) == kind and key.get("alg") in (None, algorithm)


def _read(document: dict[str, Any]) -> Iterable[Key]:
    """The keys of a key set that may sign a token; others are passed over, whatever is wrong with them."""
    listed = document.get("keys")
    if not isinstance(listed, list):
        raise ProviderDown("sent no key set")
    for one in listed[:_KEYS_MAX]:
        if not isinstance(one, dict) or one.get("kty") not in {"RSA", "EC"} or one.get("use", "sig") != "sig":
            continue
        if one["kty"] == "RSA" and len(str(one.get("n"))) * 6 < _RSA_BITS_LEAST:
            continue  # looked at first, since the library warns of such a key on stderr
        public = {name: value for name, value in one.items() if name in _PUBLIC}
        try:
            key = JWKRegistry.import_key(public)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        if isinstance(key, ECKey) or (isinstance(key, RSAKey) and key.public_key.key_size >= _RSA_BITS_LEAST):
            yield key


_PUBLIC = frozenset({"kty", "kid", "alg", "use", "n", "e", "crv", "x", "y"})
