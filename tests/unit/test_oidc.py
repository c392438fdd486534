"""Every JWT that is refused, with real keys and signatures; only the provider's two documents are served from here."""

from __future__ import annotations

import gzip
import hmac
import json
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from joserfc.util import json_b64encode, urlsafe_b64encode

from dbward.identity import oidc
from dbward.identity.keys import AFTER_FAILURE, AGAIN, FRESH, LONGEST, ProviderKeys
from dbward.identity.oidc import BadToken
from dbward.identity.web import MAX_BYTES, ProviderDown

ISSUER = "https://id.example.com/realms/one"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
EC384 = ECKey.generate_key("P-384", {"kid": "ec384"})
SIGNERS = {"RS256": RSA, "RS384": RSA, "RS512": RSA, "ES256": EC, "ES384": EC384}


@dataclass
class Site:
    """What the provider serves. `asked` holds the paths in order."""

    keys: list[Any] = field(default_factory=lambda: [RSA, EC, EC384])
    broken: Callable[[httpx2.Request], httpx2.Response] | None = None
    asked: list[str] = field(default_factory=list)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.url.path)
        if self.broken is not None:
            return self.broken(request)
        if request.url.path == "/realms/one/.well-known/openid-configuration":
            return answer(200, {"issuer": ISSUER, "jwks_uri": "https://keys.example.com/set"})
        assert str(request.url) == "https://keys.example.com/set"
        return answer(200, {"keys": [k if isinstance(k, dict) else k.as_dict(private=False) for k in self.keys]})


def answer(status: int, body: Any = None) -> httpx2.Response:
    return httpx2.Response(status, stream=httpx2.ByteStream(json.dumps(body).encode()))


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def keys(site: Site):
    found = ProviderKeys(ISSUER, transport=httpx2.MockTransport(site))
    yield found
    found.close()


def claims(**changed: Any) -> dict[str, Any]:
    at = int(NOW.timestamp())
    usual = {"iss": ISSUER, "aud": "dbward", "sub": "alice", "iat": at, "exp": at + 300, **changed}
    return {name: value for name, value in usual.items() if value is not ...}


def sign(key: Any = RSA, alg: str = "RS256", header: dict[str, Any] | None = None, **changed: Any) -> str:
    head = {"alg": alg, "kid": key.kid, **(header or {})}
    head = {name: value for name, value in head.items() if value is not ...}
    registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
    registry.max_payload_length = 100_000
    return jwt.encode(head, claims(**changed), key, registry=registry)


def verify(keys: ProviderKeys, token: str, now: datetime = NOW) -> dict[str, Any]:
    return oidc.verify(keys, token, issuer=ISSUER, audience="dbward", now=now)


def cause(keys: ProviderKeys, token: str, now: datetime = NOW) -> str:
    with pytest.raises(BadToken) as caught:
        verify(keys, token, now)
    return caught.value.cause


@pytest.mark.parametrize("alg", SIGNERS)
def test_what_is_signed_right_is_believed(keys: ProviderKeys, alg: str) -> None:
    token = sign(SIGNERS[alg], alg, groups=["dba"])
    assert oidc.is_jwt(token)
    assert verify(keys, token) == claims(groups=["dba"])


def test_the_keys_are_fetched_once(keys: ProviderKeys, site: Site) -> None:
    for _ in range(3):
        verify(keys, sign())
        verify(keys, sign(EC, "ES256"))
    assert site.asked == ["/realms/one/.well-known/openid-configuration", "/set"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"aud": "other"}, "claim_aud"),
        ({"aud": ["other", "another"]}, "claim_aud"),
        ({"aud": ...}, "claim_aud"),
        ({"aud": ""}, "claim_aud"),
        ({"aud": {"dbward": 1}}, "claim_aud"),
        ({"iss": "https://evil.example.com"}, "claim_iss"),
        ({"iss": ISSUER + "/"}, "claim_iss"),
        ({"iss": [ISSUER]}, "claim_iss"),
        ({"iss": ...}, "claim_iss"),
        ({"sub": ...}, "claim_sub"),
        ({"sub": 7}, "claim_sub"),
        ({"sub": ""}, "claim_sub"),
        ({"exp": ...}, "claim_exp"),
        ({"exp": "9999999999"}, "claim_exp"),
        ({"exp": True}, "claim_exp"),
        ({"exp": float("nan")}, "claim_exp"),
        ({"exp": float("inf")}, "claim_exp"),
        ({"exp": int(NOW.timestamp()) - 30}, "expired"),
        ({"exp": 1}, "expired"),
        ({"nbf": int(NOW.timestamp()) + 31}, "claim_nbf"),
        ({"nbf": "soon"}, "claim_nbf"),
        ({"iat": int(NOW.timestamp()) + 31}, "claim_iat"),
    ],
)
def test_claims_that_are_refused(keys: ProviderKeys, changed: dict[str, Any], expected: str) -> None:
    assert cause(keys, sign(**changed)) == expected


def test_clocks_may_differ_a_little(keys: ProviderKeys) -> None:
    at = int(NOW.timestamp())
    verify(keys, sign(exp=at - 29, nbf=at + 30, iat=at + 30))
    found = verify(keys, sign(aud=["other", "dbward"], exp=at + 60.5))
    assert oidc.expires_at(found, NOW) == NOW + timedelta(seconds=90.5)
    assert oidc.expires_at({"exp": 10**30}, NOW) == NOW + timedelta(days=1)


def test_an_algorithm_that_is_not_allowed_is_refused_before_anything_is_fetched(keys: ProviderKeys, site: Site) -> None:
    shared = OctKey.import_key("x" * 40, {"kid": "rsa"})
    for alg in ("HS256", "HS384", "HS512"):
        assert cause(keys, sign(shared, alg)) == "algorithm"
    assert cause(keys, sign(RSA, "PS256")) == "algorithm"
    assert cause(keys, sign(ECKey.generate_key("P-521", {"kid": "ec"}), "ES512")) == "algorithm"
    for alg in ("none", "None", "rs256", 7, None, ["RS256"]):
        assert cause(keys, unsigned({"alg": alg, "kid": "rsa"})) in {"algorithm", "malformed"}
    assert site.asked == []


def test_the_public_key_as_a_shared_secret(keys: ProviderKeys) -> None:
    for secret in (
        RSA.as_pem(private=False),
        RSA.as_der(private=False),
        json.dumps(RSA.as_dict(private=False)).encode(),
    ):
        head = unsigned({"alg": "HS256", "kid": "rsa"}).rpartition(".")[0]
        signature = urlsafe_b64encode(hmac.digest(secret, head.encode(), "sha256")).decode()
        assert cause(keys, f"{head}.{signature}") == "algorithm"


def test_a_key_serves_only_its_own_algorithm(keys: ProviderKeys, site: Site) -> None:
    assert cause(keys, sign(EC, "ES256", {"kid": "rsa"})) == "unknown_key"
    assert cause(keys, sign(EC384, "ES384", {"kid": "ec"}), NOW + AGAIN) == "unknown_key"
    site.keys = [{**RSA.as_dict(private=False), "alg": "RS512"}]
    later = NOW + AGAIN + FRESH
    assert cause(keys, sign(RSA, "RS256", exp=int(later.timestamp()) + 60), later) == "unknown_key"
    verify(keys, sign(RSA, "RS512", exp=int(later.timestamp()) + 60), later)


def test_a_signature_that_is_not_the_providers(keys: ProviderKeys) -> None:
    forged = RSAKey.generate_key(2048, {"kid": "rsa"})
    assert cause(keys, sign(forged)) == "bad_signature"
    head, body, signature = sign().split(".")
    _, other, _ = sign(sub="admin").split(".")
    assert cause(keys, f"{head}.{other}.{signature}") == "bad_signature"
    assert cause(keys, f"{head}.{body}.") == "bad_signature"
    assert cause(keys, f"{head}.{body}.{signature[:-8]}") == "bad_signature"


@pytest.mark.parametrize(
    "text",
    [
        "eyJ..",
        "eyJhbGciOiJSUzI1NiJ9..",
        "eyJ*.*.*",
        "eyJhbGciOiJSUzI1NiJ9.W10.AAAA",
        "eyJ" + "W" * 5000 + ".x.y",
        "eyJhbGciOiJSUzI1NiJ9.ü.x",
        "dbw_0123",
    ],
)
def test_what_is_no_jwt(keys: ProviderKeys, text: str) -> None:
    cause(keys, text)


def test_headers_that_are_refused(keys: ProviderKeys) -> None:
    own = RSAKey.generate_key(2048)
    assert cause(keys, sign(own, header={"kid": ..., "jwk": own.as_dict(private=False)})) == "bad_signature"
    assert cause(keys, sign(own, header={"kid": "x", "jku": "https://evil.example.com/set"})) == "unknown_key"
    assert cause(keys, unsigned({"alg": "RS256", "kid": 7})) == "malformed"
    assert cause(keys, unsigned({"alg": "RS256", "kid": "rsa", "crit": ["exp"], "exp": 1})) == "malformed"
    verify(keys, sign(header={"x5t": "abc", "typ": "at+jwt", "custom": 1}))


def test_a_huge_token(keys: ProviderKeys, site: Site) -> None:
    verify(keys, sign(pad="x" * 5000))
    asked = list(site.asked)
    assert cause(keys, sign(pad="x" * 9000)) == "malformed"
    assert cause(keys, sign(pad="x" * 90_000)) == "malformed"
    assert site.asked == asked


def test_a_payload_nested_without_end(keys: ProviderKeys) -> None:
    registry = jws.JWSRegistry(algorithms=["RS256"])
    deep = jws.serialize_compact({"alg": "RS256", "kid": "rsa"}, "[" * 5000, RSA, registry=registry)
    assert cause(keys, deep) == "malformed"


def test_a_token_without_a_key_name(keys: ProviderKeys, site: Site) -> None:
    verify(keys, sign(EC, "ES256", {"kid": ...}))
    site.keys.append(RSAKey.generate_key(2048, {"kid": "second"}))
    later = NOW + FRESH
    token = sign(header={"kid": ...}, exp=int(later.timestamp()) + 60)
    assert cause(keys, token, later) == "unknown_key", "two keys could be meant"


def test_keys_that_sign_nothing_here(keys: ProviderKeys, site: Site) -> None:
    with _quietly():
        small = RSAKey.generate_key(1024, {"kid": "small"})
        shared = OctKey.import_key("k" * 40, {"kid": "shared"})
    sealing = RSAKey.generate_key(2048, {"kid": "sealing", "use": "enc"})
    site.keys = [
        small, shared.as_dict(), sealing, RSA, "nonsense", {"kty": "RSA", "kid": "empty"}, {"kty": "EC", "crv": "P-9"},
    ]  # fmt: skip
    site.keys = [k if isinstance(k, dict | RSAKey) else {"kty": k} for k in site.keys]
    verify(keys, sign())
    for key in (small, sealing):
        with _quietly():
            token = sign(RSAKey.import_key({**key.as_dict(private=True), "use": "sig"}))
        assert cause(keys, token) == "unknown_key"


def test_a_new_key_is_fetched_when_it_is_first_seen(keys: ProviderKeys, site: Site) -> None:
    verify(keys, sign())
    new = RSAKey.generate_key(2048, {"kid": "new"})
    site.keys = [new]
    later = NOW + AGAIN
    verify(keys, sign(new), later)
    assert cause(keys, sign(), later) == "unknown_key", "the old one is withdrawn"
    assert site.asked.count("/set") == 2


def test_invented_key_names_do_not_make_us_ask(keys: ProviderKeys, site: Site) -> None:
    verify(keys, sign())
    for number in range(50):
        assert cause(keys, sign(header={"kid": f"k{number}"}), NOW + timedelta(seconds=29)) == "unknown_key"
    assert site.asked.count("/set") == 1
    for _ in range(5):
        assert cause(keys, sign(header={"kid": "k"}), NOW + AGAIN) == "unknown_key"
    assert site.asked.count("/set") == 2


def test_known_keys_outlast_an_outage(keys: ProviderKeys, site: Site) -> None:
    verify(keys, sign())
    site.broken = lambda request: answer(502)
    for after in (timedelta(minutes=59), FRESH, timedelta(hours=23)):
        verify(keys, sign(exp=int((NOW + after).timestamp()) + 60), NOW + after)
        with pytest.raises(ProviderDown):
            verify(keys, sign(header={"kid": "new"}), NOW + after)
    with pytest.raises(ProviderDown):
        verify(keys, sign(exp=int((NOW + LONGEST).timestamp()) + 60), NOW + LONGEST)
    site.broken = None
    after = LONGEST + AFTER_FAILURE
    verify(keys, sign(exp=int((NOW + after).timestamp()) + 60), NOW + after)


def test_nobody_waits_for_a_renewal_but_the_one_who_asks(keys: ProviderKeys, site: Site) -> None:
    verify(keys, sign())
    arrived, go_on = threading.Event(), threading.Event()

    def slow(request: httpx2.Request) -> httpx2.Response:
        arrived.set()
        assert go_on.wait(60)
        return answer(503)

    site.broken = slow
    later = NOW + FRESH
    token = sign(exp=int(later.timestamp()) + 60)
    asking = threading.Thread(target=verify, args=(keys, token, later))
    asking.start()
    assert arrived.wait(60)
    verify(keys, token, later)  # would hang here
    go_on.set()
    asking.join(60)
    assert not asking.is_alive()


def test_only_a_few_wait_for_a_provider_that_hangs(keys: ProviderKeys, site: Site) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def slow(request: httpx2.Request) -> httpx2.Response:
        arrived.set()
        assert go_on.wait(60)
        return answer(503)

    site.broken = slow
    outcomes: list[type[BaseException]] = []
    done = threading.Semaphore(0)

    def call() -> None:
        try:
            verify(keys, sign())
        except BaseException as e:
            outcomes.append(type(e))
        done.release()

    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    assert arrived.wait(60)
    for _ in range(4):  # 16 places
        assert done.acquire(timeout=60)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert outcomes == [ProviderDown] * 20
    assert len(site.asked) == 1, "who waited does not ask the same again"


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (302, {"Location": "https://evil.example.com/set"}, b""),
        (404, {}, b"{}"),
        (200, {}, b"<html>"),
        (200, {}, b"[]"),
        (200, {}, b'{"issuer": "https://evil.example.com", "jwks_uri": "https://evil.example.com/set"}'),
        (200, {}, json.dumps({"issuer": ISSUER, "jwks_uri": "http://evil.example.com/set"}).encode()),
        (200, {}, json.dumps({"issuer": ISSUER, "jwks_uri": "file:///etc/evil"}).encode()),
        (200, {}, json.dumps({"issuer": ISSUER}).encode()),
        (200, {}, b"[" * (MAX_BYTES + 1)),
        (200, {}, b"{" * 100_000),
        (200, {"Content-Encoding": "gzip"}, gzip.compress(b"{}", mtime=0)),
    ],
)
def test_answers_that_are_not_a_providers(
    keys: ProviderKeys, site: Site, status: int, headers: dict[str, str], body: bytes
) -> None:
    site.broken = lambda request: httpx2.Response(status, headers=headers, stream=httpx2.ByteStream(body))
    with pytest.raises(ProviderDown) as caught:
        verify(keys, sign())
    assert caught.value.code == "auth.provider_unavailable"
    assert all("evil" not in path for path in site.asked)


def test_a_provider_that_cannot_be_reached(site: Site) -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    site.broken = refuse
    keys = ProviderKeys(ISSUER, "https://keys.example.com/set", transport=httpx2.MockTransport(site))
    for _ in range(3):
        with pytest.raises(ProviderDown):
            verify(keys, sign())
    assert site.asked == ["/set"], "not asked again at once, and discovery is not needed"
    site.broken = None
    verify(keys, sign(), NOW + AFTER_FAILURE)
    keys.close()


def test_keys_that_a_reload_has_closed(keys: ProviderKeys) -> None:
    verify(keys, sign())
    keys.close()
    verify(keys, sign())
    with pytest.raises(ProviderDown):
        verify(keys, sign(header={"kid": "new"}), NOW + AGAIN)


def test_values_of_claims() -> None:
    told = {
        "groups": ["dba", "", 7, None, {"x": 1}],
        "email_verified": True,
        "realm_access": {"roles": ["admin", "user"]},
        "https://example.com/roles": "ops",
        "a.b": "flat",
        "a": {"b": "nested"},
        "deep": [{"x": "y"}],
        "ratio": 1.5,
    }
    assert oidc.groups_of(told) == {"dba", "7"}
    assert oidc.values_of(told, "email_verified") == {"true"}
    assert oidc.values_of(told, "realm_access.roles") == {"admin", "user"}
    assert oidc.values_of(told, "https://example.com/roles") == {"ops"}
    assert oidc.values_of(told, "a.b") == {"flat"}, "the name as it stands comes first"
    for name in ("deep.x", "missing", "realm_access", "realm_access.none", "groups.x", "ratio", ""):
        assert oidc.values_of(told, name) == frozenset()


def unsigned(header: dict[str, Any]) -> str:
    return f"{json_b64encode(header).decode()}.{json_b64encode(claims()).decode()}.AAAA"


def _quietly() -> Any:
    """joserfc warns of keys that are weak, or used for what they are not; here they are meant so."""
    return warnings.catch_warnings(action="ignore")
