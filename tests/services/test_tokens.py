"""Who is calling: tokens made, listed, revoked, expired, and those who knock without one."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dbward import ids
from dbward.client.shapes import NewToken, TokenFilter
from dbward.db import identities
from dbward.domain.model import Target
from dbward.errors import Invalid, Missing, Refused, Unauthorized
from dbward.services import api_tokens, housekeeping, identity
from dbward.services.views import View
from tests.services.conftest import World, refused
from tests.services.people import add, edit, suspend


def make(world: World, by: str = "alice", **body: object) -> View:
    asked = {"subject_id": by, "subject_type": "user"} | body
    return api_tokens.create_token(world.rt, world.who(by), NewToken.model_validate(asked))


def make_agent(world: World, **body: object) -> View:
    asked = {"subject_id": "west", "subject_type": "agent"} | body
    return api_tokens.create_token(world.rt, world.who("admin"), NewToken.model_validate(asked))


def test_a_token_is_shown_once_and_opens_what_its_owner_may(world: World) -> None:
    made = make(world, name="laptop")
    assert (made["prefix"], made["scope_ceiling"]) == (made["token"][4:12], {"roles": ["requester"]})
    who = world.enter(made["token"])
    assert (who.subject, who.kind, who.role_names, who.client_ip) == ("alice", "user", ("requester",), "192.0.2.1")
    assert identity.me(who)["subject_id"] == "alice"
    listed = api_tokens.list_tokens(world.rt, world.who("admin"), TokenFilter())["tokens"]
    assert made["token"] not in str(listed)
    mine = next(t for t in listed if t["id"] == made["id"])
    assert (mine["status"], mine["name"], mine["kind"]) == ("active", "laptop", "issued")
    event = world.events(event_type="token.created")[-1]
    assert (event["actor_id"], event["resource_id"]) == ("alice", made["id"])
    assert event["metadata"] == {
        "issued_by": "alice",
        "issued_for": "alice",
        "scope_ceiling": ["requester"],
        "scopes": None,
    }


def test_a_ceiling_lowers_and_never_lifts(world: World) -> None:
    low = make(world, "both", scope_ceiling={"roles": ["approver"]})
    assert world.enter(low["token"]).role_names == ("approver",)
    for roles in ([], ["admin"], ["approver", "admin"]):
        with pytest.raises(Invalid):
            make(world, "both", scope_ceiling={"roles": roles})


@pytest.mark.parametrize(
    ("name", "body", "error"),
    [
        ("alice", {"subject_type": "robot"}, Invalid),
        ("alice", {"subject_id": "bob"}, Refused),
        ("admin", {"subject_id": "bob"}, Refused),
        ("alice", {"subject_id": "west", "subject_type": "agent"}, Refused),
        ("sam", {}, Refused),
        ("alice", {"expires_at": "2020-01-01T00:00:00Z"}, Invalid),
        ("alice", {"expires_at": "2999-01-01T00:00:00"}, Invalid),
        ("alice", {"expires_at": "9999-12-31T23:59:59-14:00"}, Invalid),
        ("admin", {"subject_id": "west", "subject_type": "agent", "scopes": []}, Invalid),
        ("admin", {"subject_id": "west", "subject_type": "agent", "scope_ceiling": {"roles": ["admin"]}}, Invalid),
        (
            "admin",
            {"subject_id": "west", "subject_type": "agent", "scopes": [{"database": "A B", "environment": "*"}]},
            Invalid,
        ),
    ],
)
def test_tokens_that_are_not_made(world: World, name: str, body: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        make(world, name, **body)
    if error is Refused:
        event = world.events(event_type="request.refused")[-1]
        assert (event["actor_id"], event["metadata"]["action"]) == (name, "token.create")


def test_nobody_hoards_tokens(world: World) -> None:
    made = [make(world) for _ in range(4)]
    with pytest.raises(Invalid, match="most allowed"):
        make(world)
    api_tokens.revoke_token(world.rt, world.who("alice"), made[0]["id"])
    make(world, expires_at=world.clock() + timedelta(hours=1))
    with pytest.raises(Invalid):
        make(world)
    world.clock.advance(hours=2)
    make(world)


def test_an_agents_token_has_scopes(world: World) -> None:
    made = make_agent(world, scopes=[{"database": "app", "environment": "*"}])
    who = world.enter(made["token"])
    assert (who.kind, who.scopes) == ("agent", (Target("app", "*"),))
    assert world.enter(make_agent(world)["token"]).scopes == (Target("*", "*"),)


def test_a_revoked_token_is_refused_at_once(world: World) -> None:
    made = make(world)
    who = world.enter(made["token"])
    assert identity.still_valid(world.rt, who.token_id or "")
    with world.rt.hub.listen(f"token:{made['id']}") as waiter:
        first = api_tokens.revoke_token(world.rt, world.who("alice"), made["id"])
        assert waiter.wait(20), "polls held with it end"
    with pytest.raises(Unauthorized):
        world.enter(made["token"])
    assert not identity.still_valid(world.rt, who.token_id or "")
    world.clock.advance(seconds=1)
    assert api_tokens.revoke_token(world.rt, world.who("alice"), made["id"]) == first, "repeatable"
    assert len(world.events(event_type="token.revoked")) == 1


def test_who_may_revoke(world: World) -> None:
    made = make(world)
    for name in ("rita", "bob", "olga"):
        with pytest.raises(Missing):  # as if it did not exist: they could not see it either
            api_tokens.revoke_token(world.rt, world.who(name), made["id"])
        refusal = world.events(event_type="request.refused")[-1]
        assert (refusal["actor_id"], refusal["resource_id"]) == (name, made["id"])
    with pytest.raises(Missing):
        api_tokens.revoke_token(world.rt, world.who("admin"), "nothing")
    api_tokens.revoke_token(world.rt, world.who("admin"), made["id"])
    with pytest.raises(Refused):
        api_tokens.list_tokens(world.rt, world.who("alice"), TokenFilter())


def test_a_token_expires_by_the_servers_clock(world: World) -> None:
    made = make(world, expires_at=world.clock() + timedelta(seconds=3))
    world.enter(made["token"])
    world.clock.advance(seconds=3)
    with pytest.raises(Unauthorized):
        world.enter(made["token"])


def test_what_a_look_up_found_before_a_revocation_is_not_remembered(world: World) -> None:
    """Read before, remembered after: it would open for seconds what has just been closed."""
    cache, now, rules = world.rt.tokens, world.clock(), world.rt.settings
    who = world.who("alice")
    began = cache.generation
    cache.forget_all()
    cache.put("hash", who, None, now, generation=began, under=rules)
    assert cache.get("hash", now, under=rules) is None
    cache.put("hash", who, None, now, generation=cache.generation, under=rules)
    assert cache.get("hash", now, under=rules) == who
    assert cache.get("hash", now + timedelta(seconds=5), under=rules) is None
    cache.put("hash", who, now + timedelta(seconds=2), now, generation=cache.generation, under=rules)
    assert cache.get("hash", now + timedelta(seconds=2), under=rules) is None


def test_what_was_found_under_other_settings_is_not_remembered_for_these(world: World) -> None:
    """Roles come from the settings: a call that began before a reload must not tell the calls after it who they are."""
    cache, now, rules = world.rt.tokens, world.clock(), world.rt.settings
    who = world.who("alice")
    cache.put("hash", who, None, now, generation=cache.generation, under=replace(rules))
    assert cache.get("hash", now, under=rules) is None


@pytest.mark.parametrize(
    "bearer", [None, "", "short", "x" * 257, "dbw_" + "0" * 32, "dbw_ünïcödé-token", "eyJhbGciOi.x.y"]
)
def test_one_answer_for_every_bad_token(world: World, bearer: str | None) -> None:
    with pytest.raises(Unauthorized) as caught:
        identity.authenticate(world.rt, bearer, peer_ip=None, client_ip=None, source=None)
    assert caught.value.message == "the token is missing, unknown, expired or revoked"
    events = world.events(event_type="auth.failure")
    if bearer is None:
        assert events == []
    else:
        assert (events[0]["actor_id"], events[0]["outcome"]) == ("anonymous", "denied")
        assert events[0]["reason"] in {"malformed", "unknown", "sso_not_configured"}
        assert not bearer or bearer not in str(events)


def test_a_flood_of_bad_tokens_does_not_fill_the_log(world: World) -> None:
    def knock(address: str) -> None:
        with pytest.raises(Unauthorized):
            identity.authenticate(world.rt, ids.new_token(), peer_ip=address, client_ip=address, source="peer")

    for _ in range(20):
        knock("198.51.100.7")
    assert len(world.events(event_type="auth.failure")) == 5
    for number in range(120):
        knock(f"2001:db8:{number:x}::1")
    assert len(world.events(event_type="auth.failure")) == 100
    world.clock.advance(minutes=1)
    knock("198.51.100.7")
    assert len(world.events(event_type="auth.failure")) == 101


def test_dead_tokens_are_forgotten_after_the_retention(world: World) -> None:
    revoked, expiring, kept = make(world), make(world, expires_at=world.clock() + timedelta(days=1)), make(world)
    api_tokens.revoke_token(world.rt, world.who("alice"), revoked["id"])
    api_tokens.revoke_token(world.rt, world.who("admin"), world.who("rita").token_id or "")
    world.clock.advance(days=90)
    housekeeping.purge(world.rt)
    assert len(api_tokens.list_tokens(world.rt, world.who("admin"), TokenFilter())["tokens"]) == 2 + 11 + 3
    world.clock.advance(days=2)
    housekeeping.purge(world.rt)
    left = {t["id"] for t in api_tokens.list_tokens(world.rt, world.who("admin"), TokenFilter())["tokens"]}
    assert kept["id"] in left
    assert not left & {revoked["id"], expiring["id"]}
    assert len(left) == 2 + 11 + 1, "a revoked token of the configuration stays known as revoked"


def test_who_has_no_role_left_gets_in_nowhere(world: World) -> None:
    made = make(world)
    with world.rt.store.read() as conn:
        alice = identities.find_user(conn, "alice")
    assert alice is not None
    world.rt.store.write(lambda tx: identities.save_user(tx, replace(alice, roles=["approver"])))
    world.rt.tokens.forget_all()
    assert refused(lambda: world.enter(made["token"])) == "auth.insufficient_scope"
    world.rt.store.write(lambda tx: identities.save_user(tx, replace(alice, roles=["gone"])))
    world.rt.tokens.forget_all()
    assert refused(lambda: world.enter(made["token"])) == "auth.no_roles_resolved"


def test_a_token_below_its_owners_roles_is_in_no_group(world: World) -> None:
    """A group decides by its name alone, which no ceiling could lower."""
    token = add(world, roles=["requester"], groups=["dba"])["token"]
    whole = world.enter(token)
    assert whole.groups == ("dba",)
    asked = NewToken.model_validate(
        {"subject_id": "nina", "subject_type": "user", "scope_ceiling": {"roles": ["watcher"]}}
    )
    low = api_tokens.create_token(world.rt, whole, asked)
    assert world.enter(low["token"]).groups == ()
    assert identity.me(world.enter(low["token"]))["groups"] == []
    edit(world, add_roles=["approver"])
    assert world.enter(token).groups == (), "it no longer reaches all that nina may"


def test_tokens_are_found_by_whose_they_are(world: World) -> None:
    add(world)
    admin = world.who("admin")

    def ids_of(**wanted: Any) -> list[str]:
        found = api_tokens.list_tokens(world.rt, admin, TokenFilter(**wanted))["tokens"]
        return [token["subject_id"] for token in found]

    assert ids_of(subject_id="nina") == ["nina"]
    assert ids_of(subject_type="agent") == ["agent"]
    suspend(world)
    assert (ids_of(status="revoked"), ids_of(subject_id="nina", status="active")) == (["nina"], [])


def test_looking_into_a_token(world: World) -> None:
    token = add(world, roles=["requester", "approver"])["token"]
    nina = world.enter(token)
    asked = NewToken.model_validate(
        {"subject_id": "nina", "subject_type": "user", "scope_ceiling": {"roles": ["approver"]}}
    )
    low = api_tokens.create_token(world.rt, nina, asked)
    assert low["effective_roles"] == ["approver"]
    assert low["effective_permissions"] == sorted(low["effective_permissions"])
    for who in (nina, world.who("admin"), world.enter(low["token"])):
        seen = api_tokens.inspect_token(world.rt, who, low["id"])
        assert (seen["resolved_roles"], seen["effective_roles"]) == (["requester", "approver"], ["approver"])
        assert "request.view" in seen["effective_permissions"]
        assert "request.query" not in seen["effective_permissions"]
        assert low["token"] not in str(seen)
    for name, token_id in (("alice", low["id"]), ("alice", "nothing"), ("admin", "nothing")):
        with pytest.raises(Missing) as caught:
            api_tokens.inspect_token(world.rt, world.who(name), token_id)
        assert caught.value.message == f"token {token_id}", "hidden or not there: the same"
    bootstrap_agent = world.who("agent").token_id or ""
    assert api_tokens.inspect_token(world.rt, world.who("admin"), bootstrap_agent)["effective_permissions"] == [
        "agent.operate"
    ]
