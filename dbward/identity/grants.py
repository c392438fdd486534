"""How a person signs in at the provider: in a browser with PKCE, or on another device; how that is kept up or ended.

A public client: there is no client secret, and none would be one on people's machines.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx2

from dbward.errors import Misconfigured, Unauthorized
from dbward.identity import web
from dbward.identity.discovery import WELL_KNOWN, Provider, discover
from dbward.identity.web import ProviderDown
from dbward.settings.client import Oidc

CODE: Final = "auth_error"
OFFLINE: Final = "offline_access"
DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
POLL_SECS: Final = 5.0
"""What the device flow's standard says when the provider says nothing; also what `slow_down` adds."""
_POLL_MOST = 60.0
_DEVICE_MOST = 1800.0
_SHOWN = 300


class LoginFailed(Unauthorized):
    """The provider, or the person there, said no. `error` is the standard's word for why."""

    code = CODE

    def __init__(self, message: str, *, error: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.error = error


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the provider hands out. `expires_in` is seconds of the access token's life, where it says so."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    id_token: str | None = field(repr=False)
    expires_in: int | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """The secrets of one sign-in in a browser. `state` and `nonce` come back with what answers it."""

    state: str
    nonce: str
    verifier: str = field(repr=False)

    @property
    def challenge(self) -> str:
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """Where the person goes and what they type there; `complete` is the address with the code in it."""

    code: str = field(repr=False)
    user_code: str
    address: str
    complete: str | None
    interval: float
    expires_in: float


def new_attempt() -> Attempt:
    return Attempt(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48))


def find_provider(http: httpx2.Client, oidc: Oidc) -> Provider:
    """The provider as it is reached: `backchannel_url` and `browser_url` stand in for the issuer's address."""
    url = oidc.discovery_url or _moved(oidc.issuer.rstrip("/") + WELL_KNOWN, oidc, oidc.backchannel_url)
    found = discover(http, oidc.issuer, url)
    behind = ("jwks_uri", "token_endpoint", "device_authorization_endpoint", "revocation_endpoint")
    moved = {name: _moved(getattr(found, name), oidc, oidc.backchannel_url) for name in behind}
    moved["authorization_endpoint"] = _moved(found.authorization_endpoint, oidc, oidc.browser_url)
    return found.model_copy(update=moved)


def authorization_url(provider: Provider, oidc: Oidc, attempt: Attempt, redirect_uri: str) -> str:
    """The page on which the person signs in."""
    endpoint = _offered(provider.authorization_endpoint, "signing in with a browser")
    query = {
        "response_type": "code",
        "client_id": oidc.client_id,
        "redirect_uri": redirect_uri,
        "scope": _scope(provider, oidc),
        "state": attempt.state,
        "nonce": attempt.nonce,
        "code_challenge": attempt.challenge,
        "code_challenge_method": "S256",
    }
    return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(query)}"


def exchange(
    http: httpx2.Client, provider: Provider, oidc: Oidc, attempt: Attempt, *, code: str, redirect_uri: str
) -> Tokens:
    """The tokens for the code that came back. Raises `LoginFailed`, `ProviderDown`."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "client_id": oidc.client_id,
        "code_verifier": attempt.verifier,
    }
    return _tokens(*web.post(http, _token_endpoint(provider), form))


def start_device(http: httpx2.Client, provider: Provider, oidc: Oidc) -> DeviceCode:
    """Ask for a code to type on another device. Raises `LoginFailed`, `ProviderDown`."""
    endpoint = _offered(provider.device_authorization_endpoint, "signing in on another device")
    status, body = web.post(http, endpoint, {"client_id": oidc.client_id, "scope": _scope(provider, oidc)})
    if status != 200:
        raise _refused(body)
    code, user_code = _text(body, "device_code"), _text(body, "user_code")
    address = _text(body, "verification_uri") or _text(body, "verification_url")
    if code is None or user_code is None or address is None:
        raise ProviderDown("sent no code for the device")
    complete = _text(body, "verification_uri_complete")
    return DeviceCode(
        code=code,
        user_code=user_code,
        address=_moved(address, oidc, oidc.browser_url) or address,
        complete=_moved(complete, oidc, oidc.browser_url),
        interval=min(_number(body, "interval", POLL_SECS), _POLL_MOST),
        expires_in=min(_number(body, "expires_in", _DEVICE_MOST), _DEVICE_MOST),
    )


def await_device(
    http: httpx2.Client, provider: Provider, oidc: Oidc, device: DeviceCode, wait: Callable[[float], None]
) -> Tokens:
    """Poll until the person has decided. `wait` lets that many seconds pass, and raises when time is up.

    Raises `LoginFailed` when they said no or the code has expired.
    """
    form = {"grant_type": DEVICE_GRANT, "device_code": device.code, "client_id": oidc.client_id}
    interval = device.interval
    while True:
        wait(interval)
        try:
            status, body = web.post(http, _token_endpoint(provider), form)
        except ProviderDown:
            interval = min(interval * 2, _POLL_MOST)  # as the standard asks for when the connection fails
            continue
        error = _text(body, "error")
        if status == 200 or error not in {"authorization_pending", "slow_down"}:
            return _tokens(status, body)
        if error == "slow_down":
            interval += POLL_SECS


def refresh(http: httpx2.Client, provider: Provider, oidc: Oidc, refresh_token: str) -> Tokens:
    """New tokens for an old one. Raises `LoginFailed` when that is over, `ProviderDown`."""
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": oidc.client_id}
    return _tokens(*web.post(http, _token_endpoint(provider), form))


def revoke(http: httpx2.Client, provider: Provider, oidc: Oidc, token: str, kind: str) -> bool:
    """Have the provider forget a token, `kind` being `refresh_token` or `access_token`. False: it offers no such thing.

    Raises `LoginFailed` when it refuses, `ProviderDown`.
    """
    if provider.revocation_endpoint is None:
        return False
    form = {"token": token, "token_type_hint": kind, "client_id": oidc.client_id}
    status, body = web.post(http, provider.revocation_endpoint, form)
    if status >= 300:
        raise _refused(body)
    return True


def refusal(error: str, description: str | None) -> LoginFailed:
    """What the provider's word for a refusal means to a person."""
    said = _MEANINGS.get(error)
    if said is None:
        shown = "".join(c for c in (description or "") if c.isprintable())[:_SHOWN]
        said = f"the identity provider refused: {error[:_SHOWN]!a}" + (f" ({shown})" if shown else "")
    return LoginFailed(said, error=error, hint="run `dbward login` again")


_MEANINGS: Mapping[str, str] = {
    "access_denied": "signing in was denied at the identity provider",
    "expired_token": "the code has expired before somebody signed in with it",
    "invalid_grant": "what was signed in with is not valid any more",
}


def _scope(provider: Provider, oidc: Oidc) -> str:
    """The configured scopes; by default also what gets a refresh token, where the provider knows the word."""
    if oidc.scopes:
        return " ".join(dict.fromkeys(("openid", *oidc.scopes)))
    offline = [OFFLINE] if OFFLINE in provider.scopes_supported else []
    return " ".join(["openid", "profile", "email", *offline])


def _token_endpoint(provider: Provider) -> str:
    return _offered(provider.token_endpoint, "handing out tokens")


def _offered(endpoint: str | None, what: str) -> str:
    if endpoint is None:
        raise Misconfigured(f"the identity provider does not offer {what}", hint="use another way, or another client")
    return endpoint


def _moved(url: str | None, oidc: Oidc, base: str | None) -> str | None:
    """`url` with the issuer's address replaced by `base`, where it begins with it."""
    issuer = oidc.issuer.rstrip("/")
    if url is None or base is None or not url.startswith(f"{issuer}/"):
        return url
    return base.rstrip("/") + url.removeprefix(issuer)


def _tokens(status: int, body: Mapping[str, Any]) -> Tokens:
    if status != 200:
        raise _refused(body)
    access_token = _text(body, "access_token")
    if access_token is None or str(body.get("token_type", "")).lower() != "bearer":
        raise ProviderDown("sent no bearer token")
    expires_in = body.get("expires_in")
    return Tokens(
        access_token=access_token,
        refresh_token=_text(body, "refresh_token"),
        id_token=_text(body, "id_token"),
        expires_in=expires_in if type(expires_in) is int and expires_in > 0 else None,
    )


def _refused(body: Mapping[str, Any]) -> LoginFailed:
    return refusal(_text(body, "error") or "unknown", _text(body, "error_description"))


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) and value else None


def _number(body: Mapping[str, Any], name: str, default: float) -> float:
    value = body.get(name)
    return float(value) if isinstance(value, int | float) and value > 0 else default
