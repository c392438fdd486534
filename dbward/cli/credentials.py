"""What `dbward login` leaves behind: a file for each server and provider, which nobody else can read, kept fresh.

A file is bound to everything that decides where its tokens go. A project's `dbward.toml` that names another server, or
another way to the same provider, has no login: it must not be able to call for a token that was given elsewhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import time
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from dbward import keys
from dbward.errors import Misconfigured, Unauthorized
from dbward.identity import grants, oidc, web
from dbward.identity.grants import LoginFailed, Tokens
from dbward.identity.web import ProviderDown
from dbward.settings.client import Oidc

DEFAULT_SECS: Final = 3600
"""How long a token is taken to live that does not say."""
EARLY_SECS: Final = 300.0
EARLY_SHARE: Final = 0.2
"""A token is renewed when this many seconds, or this share of its life, is left, whichever is less."""

Bearer = Literal["access_token", "id_token"]


@dataclass(frozen=True, slots=True)
class Binding:
    """Where the tokens may go."""

    server: str
    issuer: str
    client_id: str
    discovery_url: str | None
    backchannel_url: str | None

    @classmethod
    def of(cls, server: str, oidc: Oidc) -> Binding:
        return cls(server, oidc.issuer, oidc.client_id, oidc.discovery_url, oidc.backchannel_url)

    @property
    def file_name(self) -> str:
        text = json.dumps(list(asdict(self).values()))
        return hashlib.sha256(text.encode()).hexdigest()[:16] + ".json"


@dataclass(frozen=True, slots=True)
class Credentials:
    """One login. Times are seconds since 1970; `bearer` names the token that the server takes."""

    binding: Binding
    bearer: Bearer
    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    id_token: str | None = field(repr=False)
    obtained_at: float
    expires_at: float

    @property
    def token(self) -> str:
        return self.access_token if self.bearer == "access_token" else self.id_token or ""

    def renew_at(self) -> float:
        return self.expires_at - min(EARLY_SECS, (self.expires_at - self.obtained_at) * EARLY_SHARE)


_FILE = TypeAdapter(Credentials)


def from_tokens(binding: Binding, tokens: Tokens, bearer: Bearer, *, now: float) -> Credentials:
    """Credentials that send the token `bearer` names. Raises `LoginFailed` when the provider gave none."""
    text = tokens.access_token if bearer == "access_token" else tokens.id_token
    if text is None:
        raise LoginFailed("the identity provider sent no ID token", hint="run `dbward login` again")
    lasts = tokens.expires_in if bearer == "access_token" else None
    expires_at = oidc.stated_expiry(text) or now + (lasts or DEFAULT_SECS)
    return Credentials(
        binding=binding,
        bearer=bearer,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
        id_token=tokens.id_token,
        obtained_at=now,
        expires_at=expires_at,
    )


class Login:
    """The stored login for one server, as a source of tokens that are valid when they are asked for."""

    def __init__(self, directory: Path, server: str, settings: Oidc) -> None:
        self._settings = settings
        self.binding = Binding.of(server, settings)
        self._path = directory / self.binding.file_name
        self._held: Credentials | None = None

    def load(self) -> Credentials | None:
        """What is stored; None when nobody is logged in. Raises `Misconfigured` when it cannot be read."""
        try:
            found = _FILE.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as e:
            raise Misconfigured(f"{self._path}: cannot be read: {e.strerror}") from None
        except ValidationError:
            raise Misconfigured(f"{self._path}: is not a stored login", hint="run `dbward login` again") from None
        return found if found.binding == self.binding else None

    def save(self, credentials: Credentials) -> None:
        """Store it, for nobody else to read. Only while `locked`, which has made the directory."""
        keys.replace_file(self._path, json.dumps(asdict(credentials)).encode())
        self._held = credentials

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)
        self._held = None

    def token(self) -> str:
        """A token to sign in with, renewed when it has not long to live.

        Raises `Unauthorized` when nobody is logged in or the login is over.
        """
        held = self._held or self.load()
        if held is None:
            raise Unauthorized(
                f"you are not logged in to {self.binding.server}", code=grants.CODE, hint="run `dbward login`"
            )
        if time() >= held.renew_at():
            held = self._renewed(held)
        self._held = held
        return held.token

    def _renewed(self, old: Credentials) -> Credentials:
        """Under a lock: a refresh token is good for one use, and another process may just have used it."""
        with self.locked():
            held = self.load() or old
            if time() < held.renew_at():
                return held
            if held.refresh_token is None:
                return self._still_good(held, LoginFailed("the login has expired", hint="run `dbward login` again"))
            http = web.open_client()
            try:
                provider = grants.find_provider(http, self._settings)
                fresh = grants.refresh(http, provider, self._settings, held.refresh_token)
            except (LoginFailed, ProviderDown) as e:
                return self._still_good(held, e)
            finally:
                http.close()
            # Providers that do not rotate refresh tokens, or give the ID token once, leave them out.
            fresh = replace(fresh, refresh_token=fresh.refresh_token or held.refresh_token)
            renewed = from_tokens(self.binding, fresh, held.bearer, now=time())
            self.save(renewed)
            return renewed

    @staticmethod
    def _still_good(held: Credentials, trouble: LoginFailed | ProviderDown) -> Credentials:
        """What is held, as long as it lives: renewing early is a precaution."""
        if time() < held.expires_at:
            return held
        raise trouble

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold what guards this login among processes. The lock file stays: removing it would let two in."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.parent.chmod(0o700)
            fd = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise Misconfigured(f"{self._path.parent}: cannot keep a login there: {e.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
