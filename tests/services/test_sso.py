"""People who come with a JWT: who they become, what they may do, and what the record says of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from dbward.broker.wire import Declare
from dbward.client.shapes import NewToken
from dbward.db import identities
from dbward.domain.model import Principal
from dbward.errors import DbwardError, Refused, Unauthorized
from dbward.identity.keys import ProviderKeys
from dbward.identity.web import ProviderDown
from dbward.runtime import open_runtime
from dbward.services import api_tokens, bootstrap, broker, identity
from tests.services.conftest import Clock, Place, World

ISSUER = "https://id.example.com"
KEY = RSAKey.generate_key(2048, {"kid": "one"})
MORE = """
[auth.oidc]
issuer_url = "https://id.example.com"
client_id = "dbward"
jwks_uri = "https://id.example.com/set"
[[auth.oidc.role_mappings]]
claim = "groups"
value = "/Team A"
role = "approver"
[[auth.oidc.role_mappings]]
claim = "realm_access.roles"
value = "db-operator"
role = "operator"
"""


class Provider:
    """Serves the key set, or nothing while `down`."""

    down = False

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if self.down:
            raise httpx2.ConnectError("refused")
        body = json.dumps({"keys": [KEY.as_dict(private=False)]}).encode()
        return httpx2.Response(200, stream=httpx2.ByteStream(body))


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def more() -> str:
    return MORE


@pytest.fixture
def world(place: Place, clock: Clock, provider: Provider, more: str) -> Iterator[World]:
    settings = place.load(more=more)
    bootstrap.prepare(settings, now=clock)
    rt = open_runtime(settings, now=clock)
    keys = ProviderKeys(ISSUER, "https://id.example.com/set", transport=httpx2.MockTransport(provider))
    try:
        yield World(replace(rt, provider_keys=keys), clock)
    finally:
        keys.close()
        rt.close()


def token(world: World, sub: str = "ann", **claims: Any) -> str:
    at = int(world.clock().timestamp())
    body = {"iss": ISSUER, "aud": "dbward", "sub": sub, "iat": at, "exp": at + 3600, **claims}
    return jwt.encode({"alg": "RS256", "kid": "one"}, body, KEY)


def enter(world: World, sub: str = "ann", **claims: Any) -> Principal:
    return world.enter(token(world, sub, **claims))


def user(world: World, user_id: str) -> Any:
    with world.rt.store.read() as conn:
        return identities.find_user(conn, user_id)


def about(world: World, event_type: str, user_id: str) -> list[dict[str, Any]]:
    return [event for event in world.events(event_type=event_type) if event["resource_id"] == user_id]


def reasons(world: World) -> list[str]:
    return [event["reason"] for event in world.events(event_type="auth.failure")]


def test_somebody_new_becomes_a_user(world: World) -> None:
    who = enter(world, groups=["/Team A", "dba", "bad\nname", ""], name="Ann Other", email="ann@example.com")
    assert (who.subject, who.kind, who.token_id) == ("ann", "user", None)
    assert who.role_names == ("approver", "watcher"), "by mapping, and by the group of that name here"
    assert who.groups == ("/Team A", "dba")
    assert (who.peer_ip, who.client_ip) == ("192.0.2.1", "192.0.2.1")
    row = user(world, "ann")
    assert (row.source, row.status, row.roles, row.groups) == ("oidc", "active", [], [])
    assert (row.display_name, row.email, row.last_seen_at) == ("Ann Other", "ann@example.com", world.clock())
    (created,) = about(world, "user.created", "ann")
    assert (created["actor_type"], created["metadata"]["source"]) == ("system", "oidc")
    (login,) = world.events(event_type="auth.login_success")
    assert (login["actor_id"], login["outcome"], login["client_ip"]) == ("ann", "success", "192.0.2.1")
    assert login["metadata"] == {
        "issuer": ISSUER, "roles": ["approver", "watcher"], "groups": ["/Team A", "dba"],
    }  # fmt: skip


def test_a_claim_below_another_gives_a_role(world: World) -> None:
    assert enter(world, realm_access={"roles": ["db-operator"]}).role_names == ("operator",)
    with pytest.raises(Refused):
        enter(world, "eve", realm_access="db-operator", roles=["operator"], groups=["approver", "Team A"])


def test_roles_and_groups_here_count_as_well(world: World) -> None:
    who = enter(world, "alice", groups=["/Team A"])
    assert who.role_names == ("requester", "approver")
    assert enter(world, "dana").groups == ("dba",)
    assert user(world, "alice").source == "config", "who is configured stays so"
    assert about(world, "user.created", "alice")[0]["metadata"]["source"] == "config"


def test_nobody_without_a_role_comes_in(world: World) -> None:
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            enter(world, "newcomer")
        assert caught.value.code == "auth.no_roles_resolved"
    assert user(world, "newcomer").roles == [], "an administrator can now give one"
    assert world.events(event_type="auth.login_success") == []
    assert reasons(world) == ["auth.no_roles_resolved"] * 2
    with world.rt.store.read() as conn:
        row = identities.find_user(conn, "newcomer")
    assert row is not None
    world.rt.store.write(lambda tx: identities.save_user(tx, replace(row, roles=["requester"])))
    assert enter(world, "newcomer").role_names == ("requester",)


@pytest.mark.parametrize("more", ['[auth]\ndefault_role = "requester"\n' + MORE])
def test_the_default_role_is_for_who_has_none(world: World) -> None:
    assert enter(world, "newcomer").role_names == ("requester",)
    assert enter(world, "ann", groups=["/Team A"]).role_names == ("approver",)


def test_what_an_administrator_changed_stays(world: World) -> None:
    enter(world, groups=["dba"], name="Ann", email="ann@example.com")
    row = user(world, "ann")
    changed = replace(row, roles=["requester"], groups=["dba"], display_name="Annie")
    world.rt.store.write(lambda tx: identities.save_user(tx, changed))
    assert enter(world, name="Ann Other", email="other@example.com").role_names == ("requester", "watcher")
    after = user(world, "ann")
    assert (after.roles, after.groups, after.display_name, after.email) == (
        ["requester"], ["dba"], "Annie", "ann@example.com",
    )  # fmt: skip
    enter(world, "bob", name="Somebody Else")
    assert user(world, "bob").display_name is None, "the configuration's people are not the provider's"


def test_claims_that_are_no_name(world: World) -> None:
    enter(world, groups=["dba"], name="x" * 201, email=["a@example.com"])
    enter(world, groups=["dba"], name="a\x00b", email="")
    row = user(world, "ann")
    assert (row.display_name, row.email) == (None, None)
    enter(world, groups=["dba"], name="Ann")
    assert user(world, "ann").display_name == "Ann"
    (event,) = about(world, "user.updated", "ann")
    assert event["metadata"]["changed"] == ["display_name"]
    assert "Ann" not in json.dumps(event), "the log outlives what people want to be known"


@pytest.mark.parametrize(
    "sub", ["", "a b", "a/b", "ü", "x" * 129, "auth0|123", "a\n", "../x", "system", "anonymous", "agent"]
)
def test_subjects_that_cannot_be_users(world: World, sub: str) -> None:
    with pytest.raises(DbwardError) as caught:
        enter(world, sub, groups=["/Team A"])
    assert caught.value.code == ("unauthorized" if sub == "" else "auth.invalid_subject")
    assert user(world, sub) is None
    assert reasons(world) == ["claim_sub" if sub == "" else "auth.invalid_subject"]


@pytest.mark.parametrize("sub", ["a", "A.b-c_d@example.com", "x" * 128, "0", "550e8400-e29b-41d4-a716-446655440000"])
def test_subjects_that_can(world: World, sub: str) -> None:
    assert enter(world, sub, groups=["/Team A"]).subject == sub


@pytest.mark.parametrize("change", [{"status": "suspended"}, {"status": "suspended", "deleted": True}])
def test_who_is_shut_out_stays_out(world: World, change: dict[str, Any]) -> None:
    good = token(world, groups=["/Team A"])
    world.enter(good)
    gone = world.clock() if change.get("deleted") else None
    row = replace(user(world, "ann"), status=change["status"], deleted_at=gone)
    world.rt.store.write(lambda tx: identities.save_user(tx, row))
    for text in (good, token(world, groups=["/Team A"], name="New Name")):
        with pytest.raises(Unauthorized):  # at once: the change emptied the cache
            world.enter(text)
    assert reasons(world) == ["suspended"] * 2
    assert user(world, "ann") == row


def test_a_sign_in_is_on_the_record_once_an_hour(world: World) -> None:
    for minutes in (0, 20, 39, 2):
        world.clock.advance(minutes=minutes)
        enter(world, groups=["/Team A"])
        enter(world, "dana")
    logins = world.events(event_type="auth.login_success")
    assert sorted(event["actor_id"] for event in logins) == ["ann", "ann", "dana", "dana"]


def test_two_at_once_make_one_user(world: World) -> None:
    barrier = threading.Barrier(6)
    text = token(world, groups=["/Team A"])
    failed: list[BaseException] = []

    def go() -> None:
        barrier.wait(60)
        try:
            world.enter(text)
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=go) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert len(about(world, "user.created", "ann")) == 1
    assert len(world.events(event_type="auth.login_success")) == 1


def test_a_token_is_not_verified_for_each_call(
    world: World, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = token(world, groups=["/Team A"], exp=int(world.clock().timestamp()) + 3)
    seen: list[str] = []
    real = jwt.decode
    monkeypatch.setattr(jwt, "decode", lambda value, *rest, **named: seen.append(value) or real(value, *rest, **named))
    world.enter(text)
    before = len(seen)
    for _ in range(5):
        world.enter(text)
    assert len(seen) - before <= 1, "one more at most: making the user emptied the cache"
    world.clock.advance(seconds=32)
    world.enter(text)
    world.clock.advance(seconds=1)
    with pytest.raises(Unauthorized):  # also from the cache
        world.enter(text)
    assert reasons(world) == ["expired"]


def test_the_record_says_why_and_the_answer_does_not(world: World) -> None:
    bad = {
        "claim_aud": token(world, aud="other"),
        "claim_iss": token(world, iss="https://evil.example.com"),
        "expired": token(world, exp=1),
        "unknown_key": jwt.encode({"alg": "RS256", "kid": "two"}, {}, KEY),
        "malformed": "eyJhbGciOi.x.y",
    }
    answers = set()
    for text in bad.values():
        with pytest.raises(Unauthorized) as caught:
            world.enter(text)
        answers.add((caught.value.code, caught.value.message, caught.value.hint))
    assert len(answers) == 1
    assert "dbward login" in answers.pop()[2]
    assert sorted(reasons(world)) == sorted(bad)
    for event in world.events(event_type="auth.failure"):
        assert (event["actor_id"], event["outcome"]) == ("anonymous", "denied")


def test_a_flood_of_bad_jwts_does_not_fill_the_log(world: World) -> None:
    for number in range(25):
        with pytest.raises(Unauthorized):
            world.enter(token(world, aud=f"other-{number}"))
        with pytest.raises(Refused):
            enter(world, f"no role/{number}")
    assert len(world.events(event_type="auth.failure")) == 5


def test_an_opaque_token_is_told_apart(world: World) -> None:
    with pytest.raises(Unauthorized) as caught:
        world.enter("ya29.a0AfH6SMBx-opaque-access-token")
    assert "opaque" in (caught.value.hint or "")
    with pytest.raises(Unauthorized) as caught:
        world.enter("dbw_" + "0" * 32)
    assert "opaque" not in (caught.value.hint or "")


def test_a_long_token_passes_and_a_huge_one_does_not(world: World) -> None:
    assert enter(world, groups=["/Team A"], pad="x" * 5500).subject == "ann"
    with pytest.raises(Unauthorized):
        enter(world, groups=["/Team A"], pad="x" * 6500)
    assert reasons(world) == ["malformed"]


def test_without_the_provider_nobody_new_comes_in(world: World, provider: Provider) -> None:
    provider.down = True
    with pytest.raises(ProviderDown) as caught:
        enter(world)
    assert (caught.value.code, "ConnectError" in caught.value.message) == ("auth.provider_unavailable", False)
    assert reasons(world) == [], "nobody has done anything wrong"
    assert world.who("alice").subject == "alice"
    provider.down = False
    world.clock.advance(seconds=5)
    enter(world, groups=["/Team A"])
    provider.down = True
    world.clock.advance(hours=2)
    assert enter(world, groups=["/Team A"]).subject == "ann", "the keys are known"


@pytest.mark.parametrize("more", [""])
def test_a_server_without_single_sign_on(world: World) -> None:
    with pytest.raises(Unauthorized):
        enter(world)
    assert reasons(world) == ["sso_not_configured"]


def test_a_token_made_by_somebody_signed_in_has_what_is_stored_here(world: World) -> None:
    who = enter(world, groups=["/Team A"])
    made = api_tokens.create_token(world.rt, who, NewToken(subject_id="ann", subject_type="user"))
    with pytest.raises(Refused) as caught:
        world.enter(made["token"])
    assert caught.value.code == "auth.no_roles_resolved"
    row = replace(user(world, "ann"), roles=["approver", "requester"])
    world.rt.store.write(lambda tx: identities.save_user(tx, row))
    assert world.enter(made["token"]).role_names == ("approver",), "and no more than its maker had"


def test_the_broker_is_for_tokens(world: World) -> None:
    who = enter(world, realm_access={"roles": ["db-operator"]})
    with pytest.raises(Refused, match="dbward tokens only"):
        broker.declare(world.rt, who, Declare(session="one", queue="x.reply.celery.pidbox", expires_ms=1000))


def test_me_shows_the_claims_groups(world: World) -> None:
    me = identity.me(enter(world, groups=["dba", "/Team A"]))
    assert (me["subject_id"], me["groups"]) == ("ann", ["/Team A", "dba"])
    assert [role["name"] for role in me["roles"]] == ["approver", "watcher"]


def test_the_expiry_allows_for_clocks(world: World) -> None:
    text = token(world, groups=["/Team A"], exp=int(world.clock().timestamp()) - 29)
    world.enter(text)
    world.clock.at += timedelta(seconds=1)
    with pytest.raises(Unauthorized):
        world.enter(text)
