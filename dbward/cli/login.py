"""`dbward login` and `dbward logout`: signing in through the identity provider of `[server.oidc]`."""

from __future__ import annotations

import contextlib
import webbrowser
from datetime import UTC, datetime
from time import monotonic, sleep, time
from typing import Any, Final

import click
import httpx2

from dbward import VERSION
from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.credentials import Bearer, Credentials, Login, from_tokens
from dbward.cli.exits import Outcome
from dbward.cli.loopback import listen
from dbward.client.http import ApiClient
from dbward.errors import Misconfigured, Refused, Unauthorized, Unavailable
from dbward.identity import grants, oidc, web
from dbward.identity.discovery import Provider
from dbward.identity.grants import LoginFailed, Tokens
from dbward.identity.keys import ProviderKeys
from dbward.identity.oidc import BadToken
from dbward.settings.client import Oidc

NOT_CONFIGURED: Final = "no identity provider is configured"
HINT: Final = "write [server.oidc] with issuer and client_id into ~/.config/dbward/config.toml"


@click.command("login", epilog=EPILOG)
@click.option("--device", is_flag=True, help="Sign in on another device, by typing a code there.")
@click.option("--no-browser", is_flag=True, help="Print the address instead of opening a browser.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Wait for the browser on this port of 127.0.0.1, for providers that do not allow any.",
)
@global_options(hidden=True)
@pass_app
def login(app: App, *, device: bool, no_browser: bool, port: int | None) -> Outcome:
    """Sign in through the identity provider, and stay signed in on this machine."""
    settings = _settings(app)
    stored = app.login
    http = web.open_client()
    app.on_close(http.close)
    app.out.say(f"Signing in to {app.settings.url} through {settings.issuer}")
    provider = grants.find_provider(http, settings)
    if device:
        tokens, nonce = _on_a_device(app, http, provider, settings), None
    else:
        tokens, nonce = _in_a_browser(app, http, provider, settings, opens=not no_browser, port=port or 0)
    _check_id_token(tokens, provider, settings, nonce)
    credentials, me, refusal = _introduce(app, stored, tokens)
    with stored.locked():
        stored.save(credentials)
    if app.settings.token is not None:
        app.out.warn("a token is configured too, and is used instead of this login")
    if refusal is not None:
        raise refusal
    until = datetime.fromtimestamp(credentials.expires_at, UTC)
    app.out.say(f"✓ Signed in as {me['subject_id']}" if me else "✓ Signed in")
    roles = [role["name"] for role in me["roles"]] if me else []
    return Outcome(
        {
            "server": app.settings.url,
            "issuer": settings.issuer,
            "subject_id": me["subject_id"] if me else None,
            "roles": roles,
            "expires_at": until.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "renewable": credentials.refresh_token is not None,
        }
    )


@click.command("logout", epilog=EPILOG)
@global_options(hidden=True)
@pass_app
def logout(app: App) -> Outcome:
    """End the login: at the identity provider if it lets us, and on this machine."""
    settings = _settings(app)
    stored = app.login
    with stored.locked():
        try:
            held = stored.load()
        except Misconfigured:
            held = None  # unreadable: all that is left to do is to delete it
        revoked = held is not None and _revoke(app, settings, held)
        stored.forget()
    app.out.say("✓ Signed out" if held is not None else "You were not signed in.")
    return Outcome({"signed_out": held is not None, "revoked": revoked})


def _settings(app: App) -> Oidc:
    settings = app.settings.oidc
    if settings is None:
        raise Misconfigured(NOT_CONFIGURED, hint=HINT)
    return settings


def _in_a_browser(
    app: App, http: httpx2.Client, provider: Provider, settings: Oidc, *, opens: bool, port: int
) -> tuple[Tokens, str]:
    attempt = grants.new_attempt()
    names_issuer = provider.authorization_response_iss_parameter_supported
    with listen(attempt.state, issuer=settings.issuer, names_issuer=names_issuer, port=port) as waiting:
        address = grants.authorization_url(provider, settings, attempt, waiting.redirect_uri)
        if not (opens and _open(app, address)):
            app.out.notice(f"Open this address in a browser on this machine:\n{address}")
        code = waiting.code()
    tokens = grants.exchange(http, provider, settings, attempt, code=code, redirect_uri=waiting.redirect_uri)
    return tokens, attempt.nonce


def _open(app: App, address: str) -> bool:
    """Whether a browser was told to open it."""
    with contextlib.suppress(webbrowser.Error, OSError):
        if webbrowser.open(address):
            app.out.say("Your browser shows the sign-in page; waiting for it to come back.")
            return True
    return False


def _on_a_device(app: App, http: httpx2.Client, provider: Provider, settings: Oidc) -> Tokens:
    code = grants.start_device(http, provider, settings)
    app.out.notice(f"On any device open {code.address} and enter the code {code.user_code}")
    if code.complete is not None:
        app.out.notice(f"or open {code.complete}")
    deadline = monotonic() + code.expires_in

    def wait(secs: float) -> None:
        if monotonic() + secs > deadline:
            raise grants.refusal("expired_token", None)
        sleep(secs)

    return grants.await_device(http, provider, settings, code, wait)


def _check_id_token(tokens: Tokens, provider: Provider, settings: Oidc, nonce: str | None) -> None:
    """The provider must mean this client and this attempt, or somebody has put an answer of theirs in its place."""
    if tokens.id_token is None:
        if nonce is not None:
            raise LoginFailed("the identity provider sent no ID token", hint="does the client have the scope openid?")
        return
    keys = ProviderKeys(settings.issuer, provider.jwks_uri)
    try:
        claims = oidc.verify(
            keys, tokens.id_token, issuer=settings.issuer, audience=settings.client_id, now=datetime.now(UTC)
        )
    except BadToken as e:
        raise LoginFailed(f"the identity provider's ID token is not good: {e.cause}") from None
    finally:
        keys.close()
    if nonce is not None and claims.get("nonce") != nonce:
        raise LoginFailed("the identity provider answered another sign-in than this one")


def _introduce(app: App, stored: Login, tokens: Tokens) -> tuple[Credentials, dict[str, Any] | None, Refused | None]:
    """Find out which of the tokens the server takes: an access token is often opaque, or meant for somebody else.

    Also what the server says about who it is, and why it lets them do nothing, when it does not. Raises `LoginFailed`
    when it takes none.
    """
    kinds: list[Bearer] = ["access_token"] if oidc.is_jwt(tokens.access_token) else []
    if tokens.id_token is not None:
        kinds.append("id_token")
    tried = [from_tokens(stored.binding, tokens, kind, now=time()) for kind in kinds]
    for credentials in tried:
        try:
            with ApiClient(app.settings.url, credentials.token, version=VERSION, transport=app.env.transport) as client:
                return credentials, client.get("/api/me"), None
        except Unauthorized:
            continue
        except Refused as e:
            return credentials, None, e
        except Unavailable as e:
            app.out.warn(f"{e.message}; whether it accepts the login is not known yet")
            return credentials, None, None
    raise LoginFailed(
        "the server does not accept what the identity provider gave" if tried else "the identity provider gave no JWT",
        hint="do issuer and client_id of its [auth.oidc] and of [server.oidc] here agree?",
    )


def _revoke(app: App, settings: Oidc, held: Credentials) -> bool:
    """Whether the provider has forgotten the login. It is deleted here in any case."""
    http = web.open_client()
    token, kind = (held.refresh_token, "refresh_token") if held.refresh_token else (held.access_token, "access_token")
    try:
        if grants.revoke(http, grants.find_provider(http, settings), settings, token, kind):
            return True
        app.out.warn("the identity provider cannot revoke tokens: they go on until they expire")
    except (LoginFailed, Unavailable) as e:
        app.out.warn(f"the tokens could not be revoked and go on until they expire: {e.message}")
    finally:
        http.close()
    return False
