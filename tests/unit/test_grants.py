"""What is asked of a provider when somebody signs in, and what becomes of each of its answers."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import pytest

from dbward.errors import Misconfigured
from dbward.identity import grants, web
from dbward.identity.discovery import Provider
from dbward.identity.grants import DeviceCode, LoginFailed
from dbward.identity.web import ProviderDown
from dbward.settings.client import Oidc

ISSUER = "https://id.example.com"
OIDC = Oidc(ISSUER, "dbward")
PROVIDER = Provider(
    issuer=ISSUER,
    jwks_uri=f"{ISSUER}/jwks",
    authorization_endpoint=f"{ISSUER}/auth",
    token_endpoint=f"{ISSUER}/token",
    device_authorization_endpoint=f"{ISSUER}/device",
    revocation_endpoint=f"{ISSUER}/revoke",
    scopes_supported=("openid", "offline_access"),
)
GOOD = {"access_token": "a", "token_type": "Bearer", "expires_in": 60, "refresh_token": "r", "id_token": "i"}
DEVICE = DeviceCode("secret", "ABCD", f"{ISSUER}/activate", None, 5.0, 600.0)


class Site:
    """Answers in the order given; `asked` holds path and form of each call."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any] | Exception] = []
        self.asked: list[tuple[str, dict[str, str]]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append((str(request.url), dict(parse_qsl(request.read().decode()))))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, body = answer
        return httpx2.Response(status, stream=httpx2.ByteStream(json.dumps(body).encode()))


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def http(site: Site) -> Iterator[httpx2.Client]:
    with web.open_client(httpx2.MockTransport(site)) as http:
        yield http


def test_an_attempt_is_like_no_other() -> None:
    one, two = grants.new_attempt(), grants.new_attempt()
    assert len({one.state, one.nonce, one.verifier, two.state, two.nonce, two.verifier}) == 6
    assert 43 <= len(one.verifier) <= 128
    expected = urlsafe_b64encode(hashlib.sha256(one.verifier.encode()).digest()).decode().rstrip("=")
    assert one.challenge == expected
    assert one.verifier not in repr(one)


def test_the_page_to_sign_in_on() -> None:
    attempt = grants.new_attempt()
    url = httpx2.URL(grants.authorization_url(PROVIDER, OIDC, attempt, "http://127.0.0.1:9/callback"))
    assert url.path == "/auth"
    assert dict(url.params) == {
        "response_type": "code",
        "client_id": "dbward",
        "redirect_uri": "http://127.0.0.1:9/callback",
        "scope": "openid profile email offline_access",
        "state": attempt.state,
        "nonce": attempt.nonce,
        "code_challenge": attempt.challenge,
        "code_challenge_method": "S256",
    }
    tenant = PROVIDER.model_copy(update={"authorization_endpoint": f"{ISSUER}/auth?p=one", "scopes_supported": ()})
    url = httpx2.URL(grants.authorization_url(tenant, OIDC, attempt, "x"))
    assert (url.params["p"], url.params["scope"]) == ("one", "openid profile email")
    chosen = Oidc(ISSUER, "dbward", scopes=("email", "openid", "groups"))
    assert httpx2.URL(grants.authorization_url(PROVIDER, chosen, attempt, "x")).params["scope"] == "openid email groups"


def test_what_a_provider_does_not_offer(http: httpx2.Client) -> None:
    bare = Provider(issuer=ISSUER, jwks_uri=f"{ISSUER}/jwks")
    with pytest.raises(Misconfigured):
        grants.authorization_url(bare, OIDC, grants.new_attempt(), "x")
    with pytest.raises(Misconfigured):
        grants.start_device(http, bare, OIDC)
    with pytest.raises(Misconfigured):
        grants.refresh(http, bare, OIDC, "r")
    assert grants.revoke(http, bare, OIDC, "r", "refresh_token") is False


def test_a_code_for_tokens(http: httpx2.Client, site: Site) -> None:
    site.answers = [(200, GOOD)]
    attempt = grants.new_attempt()
    tokens = grants.exchange(http, PROVIDER, OIDC, attempt, code="c", redirect_uri="http://127.0.0.1:9/callback")
    assert (tokens.access_token, tokens.refresh_token, tokens.id_token, tokens.expires_in) == ("a", "r", "i", 60)
    assert "'a'" not in repr(tokens)
    assert site.asked == [
        (
            f"{ISSUER}/token",
            {
                "grant_type": "authorization_code",
                "code": "c",
                "redirect_uri": "http://127.0.0.1:9/callback",
                "client_id": "dbward",
                "code_verifier": attempt.verifier,
            },
        )
    ]


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, {"error": "invalid_grant"}, LoginFailed),
        (400, {"error": "strange", "error_description": "a\x1b[31mb" + "x" * 1000}, LoginFailed),
        (401, {}, LoginFailed),
        (302, {}, ProviderDown),
        (500, {"error": "server_error"}, ProviderDown),
        (200, {**GOOD, "token_type": "DPoP"}, ProviderDown),
        (200, {**GOOD, "access_token": 7}, ProviderDown),
        (200, [GOOD], ProviderDown),
    ],
)
def test_answers_that_are_no_tokens(http: httpx2.Client, site: Site, status: int, body: Any, error: Any) -> None:
    site.answers = [(status, body)]
    with pytest.raises(error) as caught:
        grants.refresh(http, PROVIDER, OIDC, "r")
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 500


def test_a_device_waits_as_it_is_told(http: httpx2.Client, site: Site) -> None:
    pending = (400, {"error": "authorization_pending"})
    slower = (400, {"error": "slow_down"})
    site.answers = [pending, slower, pending, httpx2.ReadTimeout("late"), pending, slower, (200, GOOD)]
    waited: list[float] = []
    tokens = grants.await_device(http, PROVIDER, OIDC, DEVICE, waited.append)
    assert tokens.access_token == "a"
    assert waited == [5, 5, 10, 10, 20, 20, 25]
    assert {form["device_code"] for _, form in site.asked} == {"secret"}


@pytest.mark.parametrize(
    ("error", "words"),
    [("access_denied", "denied"), ("expired_token", "expired"), ("invalid_client", "invalid_client")],
)
def test_a_device_stops_when_it_is_told(http: httpx2.Client, site: Site, error: str, words: str) -> None:
    site.answers = [(400, {"error": "authorization_pending"}), (400, {"error": error})]
    with pytest.raises(LoginFailed, match=words) as caught:
        grants.await_device(http, PROVIDER, OIDC, DEVICE, lambda secs: None)
    assert (caught.value.error, caught.value.code) == (error, "auth_error")
    assert site.answers == []


def test_a_device_stops_when_time_is_up(http: httpx2.Client, site: Site) -> None:
    def over(secs: float) -> None:
        raise grants.refusal("expired_token", None)

    with pytest.raises(LoginFailed):
        grants.await_device(http, PROVIDER, OIDC, DEVICE, over)
    assert site.asked == []


def test_a_code_for_the_device(http: httpx2.Client, site: Site) -> None:
    body = {"device_code": "d", "user_code": "AB-CD", "verification_uri": f"{ISSUER}/activate", "expires_in": 9}
    site.answers = [(200, body), (200, {**body, "interval": 10**9}), (200, {"device_code": "d"})]
    found = grants.start_device(http, PROVIDER, OIDC)
    assert (found.user_code, found.address, found.complete) == ("AB-CD", f"{ISSUER}/activate", None)
    assert (found.interval, found.expires_in) == (5, 9)
    assert grants.start_device(http, PROVIDER, OIDC).interval == 60
    with pytest.raises(ProviderDown):
        grants.start_device(http, PROVIDER, OIDC)


def test_addresses_that_stand_in_for_the_issuer(http: httpx2.Client, site: Site) -> None:
    document = {name: getattr(PROVIDER, name) for name in Provider.model_fields}
    document["jwks_uri"] = "https://id.example.com.evil.example/jwks"
    site.answers = [(200, document)] * 3
    inside = Oidc(ISSUER, "dbward", backchannel_url="http://keycloak:8080/x/", browser_url="http://localhost:8080")
    found = grants.find_provider(http, inside)
    assert site.asked[0][0] == "http://keycloak:8080/x/.well-known/openid-configuration"
    assert found.issuer == ISSUER
    assert found.token_endpoint == "http://keycloak:8080/x/token"
    assert found.device_authorization_endpoint == "http://keycloak:8080/x/device"
    assert found.revocation_endpoint == "http://keycloak:8080/x/revoke"
    assert found.authorization_endpoint == "http://localhost:8080/auth"
    assert found.jwks_uri == document["jwks_uri"], "another host that only begins alike"
    grants.find_provider(http, Oidc(ISSUER, "dbward", discovery_url="https://meta.example.com/doc"))
    grants.find_provider(http, OIDC)
    assert [url for url, _ in site.asked[1:]] == [
        "https://meta.example.com/doc", f"{ISSUER}/.well-known/openid-configuration",
    ]  # fmt: skip


def test_a_token_is_revoked(http: httpx2.Client, site: Site) -> None:
    site.answers = [(200, {}), (503, {}), (400, {"error": "unsupported_token_type"})]
    assert grants.revoke(http, PROVIDER, OIDC, "r", "refresh_token") is True
    form = {"token": "r", "token_type_hint": "refresh_token", "client_id": "dbward"}
    assert site.asked == [(f"{ISSUER}/revoke", form)]
    with pytest.raises(ProviderDown):
        grants.revoke(http, PROVIDER, OIDC, "r", "refresh_token")
    with pytest.raises(LoginFailed):
        grants.revoke(http, PROVIDER, OIDC, "r", "refresh_token")
