"""People over the API: made, changed, suspended, let in again, deleted; who may, and what it leaves on the record."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dbward.client.shapes import NewRequest, NewToken, NewUser, TokenFilter, UserChange
from dbward.db import identities
from dbward.db.rows import UserRow
from dbward.domain.model import Principal
from dbward.errors import DbwardError, Gone, Invalid, Missing, Refused, Unauthorized
from dbward.runtime import open_runtime
from dbward.services import (
    api_tokens,
    bootstrap,
    directory,
    dispatch,
    identity,
    requests,
    review,
    user_access,
    users,
)
from dbward.services.views import View
from tests.services.conftest import PEOPLE, Clock, Place, World, refused
from tests.services.people import activate, add, delete, edit, reissue, suspend


def shown(world: World, name: str = "nina") -> View:
    return users.show_user(world.rt, world.who("admin"), name)


def row_of(world: World, name: str) -> UserRow:
    with world.rt.store.read() as conn:
        row = identities.find_user(conn, name)
    assert row is not None
    return row


def test_a_user_begins_with_a_token_whose_ceiling_is_their_roles(world: World) -> None:
    made = add(world, roles=["requester", "requester"], groups=["dba"], display_name="Nina", email="n@example.com")
    assert (made["id"], made["roles"], made["groups"]) == ("nina", ["requester", "watcher"], ["dba"])
    assert made["token_prefix"] == made["token"][4:12]
    who = world.enter(made["token"])
    assert (who.subject, who.role_names, who.groups) == ("nina", ("requester", "watcher"), ("dba",))
    found = shown(world)
    assert (found["roles"], found["groups"], found["source"], found["status"]) == (
        ["requester"],
        ["dba"],
        "api",
        "active",
    )
    assert made["token"] not in str(found)
    edit(world, add_roles=["approver"])
    assert world.enter(made["token"]).role_names == ("requester", "watcher"), "the ceiling is frozen"
    created = world.events(event_type="user.created", actor_id="admin")[-1]
    assert (created["resource_id"], created["actor_type"], created["event_category"]) == ("nina", "user", "identity")
    assert created["metadata"] == {"roles": ["requester"], "groups": ["dba"], "source": "api"}
    joined = world.events(event_type="group.member_added")[-1]
    assert (joined["resource_type"], joined["resource_id"], joined["metadata"]) == ("group", "dba", {"user": "nina"})
    issued = world.events(event_type="token.created", actor_id="admin")[-1]["metadata"]
    assert issued == {"issued_by": "admin", "issued_for": "nina", "scope_ceiling": ["requester", "watcher"]}
    assert world.verify()["valid"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"roles": ["nothing"]}, "validation.failed"),
        ({"roles": ["agent-default"]}, "validation.failed"),
        ({"groups": ["nothing"]}, "validation.failed"),
        ({"roles": []}, "user.no_roles"),
        ({"name": "System"}, "validation.failed"),
        ({"name": "anonymous"}, "validation.failed"),
        ({"name": "agent"}, "subject.taken"),
        ({"name": "alice"}, "user.exists"),
        ({"name": "admin"}, "user.exists"),
    ],
)
def test_users_that_are_not_made(world: World, body: dict[str, Any], code: str) -> None:
    before = len(users.list_users(world.rt, world.who("admin"))["users"])
    assert refused(lambda: add(world, **body)) == code
    assert len(users.list_users(world.rt, world.who("admin"))["users"]) == before


@pytest.mark.parametrize("name", ["", "a" * 129, "with space", "ünï", "a/b", "a\n", "user:x"])
def test_names_that_are_no_ids(name: str) -> None:
    with pytest.raises(ValueError, match="id"):
        NewUser(id=name)


def test_an_agent_and_a_person_never_share_a_name(world: World) -> None:
    add(world)
    asked = NewToken(subject_id="nina", subject_type="agent")
    assert refused(lambda: api_tokens.create_token(world.rt, world.who("admin"), asked)) == "subject.taken"
    asked = NewToken(subject_id="west", subject_type="agent")
    made = api_tokens.create_token(world.rt, world.who("admin"), asked)
    api_tokens.revoke_token(world.rt, world.who("admin"), made["id"])
    assert refused(lambda: add(world, "west")) == "subject.taken", "the record knows west as an agent"


ASKED: dict[str, Callable[[World, str], Any]] = {
    "list": lambda w, by: users.list_users(w.rt, w.who(by)),
    "create": lambda w, by: add(w, "mallory", by, roles=["admin"]),
    "change": lambda w, by: edit(w, by, by, roles=["admin"]),
    "change what is not there": lambda w, by: edit(w, "nobody", by, roles=["admin"]),
    "suspend": lambda w, by: suspend(w, "nina", by),
    "activate": lambda w, by: user_access.activate_user(w.rt, w.who(by), "nina"),
    "delete": lambda w, by: user_access.delete_user(w.rt, w.who(by), "nina", None),
    "reissue": lambda w, by: reissue(w, "nina", by),
    "groups": lambda w, by: directory.list_groups(w.rt, w.who(by)),
    "group": lambda w, by: directory.show_group(w.rt, w.who(by), "nothing"),
}


@pytest.mark.parametrize("what", ASKED)
def test_whoever_may_not_is_told_so_first_and_changes_nothing(world: World, what: str) -> None:
    add(world)
    for by in ("alice", "bob", "olga", "both"):
        before = (row_of(world, "nina"), row_of(world, by).roles)
        with pytest.raises(Refused):
            ASKED[what](world, by)
        assert (row_of(world, "nina"), row_of(world, by).roles) == before


def test_everybody_sees_themselves_and_nobody_else(world: World) -> None:
    assert users.show_user(world.rt, world.who("alice"), "alice")["roles"] == ["requester"]
    add(world)
    delete(world)
    for name in ("bob", "nina", "nobody"):  # there, deleted, never there: the same
        with pytest.raises(Missing) as caught:
            users.show_user(world.rt, world.who("alice"), name)
        assert caught.value.message == f"user {name}"


def test_roles_and_groups_are_replaced_added_and_taken_away(world: World) -> None:
    token = add(world)["token"]
    assert edit(world, add_roles=["approver"], add_groups=["dba"]) == {"id": "nina", "updated": True}
    assert (shown(world)["roles"], shown(world)["groups"]) == (["requester", "approver"], ["dba"])
    edit(world, rm_roles=["requester", "operator"], rm_groups=["dba"])
    assert (shown(world)["roles"], shown(world)["groups"]) == (["approver"], [])
    assert refused(lambda: world.enter(token)) == "auth.insufficient_scope", "at once, whatever was remembered"
    edit(world, roles=["operator", "requester"], groups=["dba"])
    assert (shown(world)["roles"], shown(world)["groups"]) == (["operator", "requester"], ["dba"])
    edit(world, roles=[], groups=[])
    assert refused(lambda: world.enter(token)) == "auth.no_roles_resolved", "without a default role: nowhere"
    first, second = world.events(event_type="user.updated")[:2]
    assert first["metadata"] == {
        "roles": ["requester", "approver"],
        "groups": ["dba"],
        "source": "api",
        "roles_before": ["requester"],
        "groups_before": [],
    }
    assert second["metadata"]["roles_before"] == ["requester", "approver"]
    assert [e["event_type"] for e in world.events(event_category="identity") if e["resource_id"] == "dba"][1:] == [
        "group.member_added",
        "group.member_removed",
        "group.member_added",
        "group.member_removed",
    ]


def test_what_was_taken_out_of_the_configuration_can_still_be_taken_away(world: World) -> None:
    add(world)
    row = replace(row_of(world, "nina"), roles=["requester", "gone"], groups=["lost"])
    world.rt.store.write(lambda tx: identities.save_user(tx, row))
    edit(world, rm_roles=["gone"], rm_groups=["lost"])
    assert (shown(world)["roles"], shown(world)["groups"]) == (["requester"], [])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"roles": None},
        {"roles": ["requester"], "add_roles": ["approver"]},
        {"groups": ["dba"], "rm_groups": ["dba"]},
        {"add_roles": ["approver"], "rm_roles": ["approver"]},
        {"add_groups": ["dba"], "rm_groups": ["dba"]},
        {"roles": ["nothing"]},
        {"add_roles": ["agent-default"]},
        {"rm_roles": ["nothing"]},
        {"add_groups": ["nothing"]},
        {"rm_groups": ["nothing"], "add_roles": ["approver"]},
    ],
)
def test_changes_that_are_not_made(world: World, body: dict[str, Any]) -> None:
    add(world)
    before = row_of(world, "nina")
    with pytest.raises(Invalid):
        edit(world, **body)
    assert row_of(world, "nina") == before


def test_a_slack_id_belongs_to_one(world: World) -> None:
    add(world)
    add(world, "nils")
    edit(world, slack_user_id="U12345")
    assert shown(world)["slack_user_id"] == "U12345"
    edit(world, slack_user_id="U12345", display_name="Nina")
    assert refused(lambda: edit(world, "nils", slack_user_id="U12345", add_roles=["approver"])) == "user.slack_id_taken"
    assert shown(world, "nils")["roles"] == ["requester"], "all of it or nothing"
    edit(world, "alice", slack_user_id="W777")
    edit(world, slack_user_id=None)
    edit(world, "nils", slack_user_id="U12345")
    edit(world, "nils", slack_user_id="")
    assert (shown(world)["slack_user_id"], shown(world, "nils")["slack_user_id"]) == (None, None)
    event = world.events(event_type="user.updated")[-1]
    assert event["metadata"]["changed"] == ["slack_user_id"]
    assert "U12345" not in str(world.events(event_type="user.updated")), "the log is kept longer"


def test_a_suspension_ends_everything_in_one_go(world: World) -> None:
    token = add(world)["token"]
    nina = world.enter(token)
    own = api_tokens.create_token(world.rt, nina, NewToken(subject_id="nina", subject_type="user"))
    pending, running = (
        _submit(world, token, "prod"),
        _submit(world, token, "auto"),
    )
    world.agent().begin(running)
    with world.rt.hub.listen(f"token:{own['id']}") as waiter:
        said = suspend(world, reason="lost laptop")
        assert waiter.wait(20), "calls that wait end"
    assert (said["revoked_tokens"], said["source"]) == (2, "api")
    assert set(said["cancelled_requests"]) == {pending["id"], running["id"]}
    assert "warning" not in said
    for text in (token, own["token"]):
        with pytest.raises(Unauthorized):
            world.enter(text)
    assert not identity.still_valid(world.rt, own["id"])
    assert (world.status(pending), world.status(running)) == ("cancelled", "cancelled")
    why = "suspended by admin: lost laptop"
    assert [e["reason"] for e in world.events(event_type="user.suspended")] == [why]
    revoked = world.events(event_type="token.revoked")
    assert [(e["reason"], e["actor_id"], e["actor_type"]) for e in revoked] == [(why, "admin", "user")] * 2
    cancelled = world.events(event_type="request.cancelled")
    assert {(e["reason"], e["actor_id"]) for e in cancelled} == {(f"its requester is {why}", "admin")}
    again = suspend(world)
    assert (again["revoked_tokens"], again["cancelled_requests"]) == (0, [])
    assert len(world.events(event_type="user.suspended")) == 1, "it is said once"

    assert activate(world)["warning"].startswith("their tokens stay revoked")
    with pytest.raises(Unauthorized):
        world.enter(token)
    fresh = reissue(world)
    assert world.enter(fresh["token"]).subject == "nina"
    assert world.events(event_type="user.activated")[-1]["actor_id"] == "admin"
    assert activate(world) == {"id": "nina", "source": "api"}
    assert world.verify()["valid"]


def _submit(world: World, token: str, environment: str) -> View:
    return _created(world, world.enter(token), environment)


def _created(world: World, who: Principal, environment: str) -> View:
    asked = NewRequest(database="app", environment=environment, detail="SELECT 1")
    return requests.create(world.rt, who, asked)[0]


def test_a_deleted_user_is_gone_and_their_id_is_never_used_again(world: World) -> None:
    token = add(world, groups=["dba"], email="n@example.com")["token"]
    edit(world, slack_user_id="U1")
    made = _submit(world, token, "prod")
    assert delete(world, reason="left") == {"id": "nina", "deleted": True}
    with pytest.raises(Unauthorized):
        world.enter(token)
    assert world.status(made) == "cancelled"
    for call in (
        lambda: shown(world),
        lambda: edit(world, roles=["admin"]),
        lambda: suspend(world),
        lambda: activate(world),
        lambda: delete(world),
        lambda: reissue(world),
    ):
        with pytest.raises(Gone):
            call()
    assert refused(lambda: add(world)) == "user.exists"
    row = row_of(world, "nina")
    assert (row.status, row.groups, row.email, row.slack_user_id) == ("suspended", [], None, None)
    assert "nina" not in str(users.list_users(world.rt, world.who("admin")))
    assert directory.show_group(world.rt, world.who("admin"), "dba")["members"] == ["dana"]
    assert [e["reason"] for e in world.events(event_type="user.deleted")] == ["deleted by admin: left"]
    assert world.events(event_type="group.member_removed")[-1]["metadata"] == {"user": "nina"}
    for call in (lambda: shown(world, "nobody"), lambda: delete(world, "nobody"), lambda: reissue(world, "nobody")):
        with pytest.raises(Missing):
            call()


def test_a_first_token_is_made_anew(world: World) -> None:
    made = add(world)
    edit(world, add_roles=["approver"])
    first = reissue(world)
    assert first["revoked_old_token_id"] is not None
    assert (first["delivery_status"], first["delivery_channel"], first["manual_recovery_required"]) == (
        "not_configured",
        None,
        False,
    )
    with pytest.raises(Unauthorized):
        world.enter(made["token"])
    assert world.enter(first["token"]).role_names == ("requester", "approver")
    second = reissue(world)
    assert second["revoked_old_token_id"] == first["reissued_token_id"]
    event = world.events(event_type="token.reissued_initial")[-1]
    assert (event["resource_id"], event["event_category"]) == (second["reissued_token_id"], "token")
    assert event["metadata"] == {
        "issued_by": "admin",
        "issued_for": "nina",
        "scope_ceiling": ["requester", "approver"],
    }
    suspend(world)
    assert refused(lambda: reissue(world)) == "user.suspended"
    activate(world)
    edit(world, roles=[])
    assert refused(lambda: reissue(world)) == "user.no_roles"


def test_calls_that_wait_are_authenticated_again_when_their_user_changes(world: World) -> None:
    """Whatever they were let in with: a JWT is no token of ours."""
    add(world)
    changes: list[Callable[[], Any]] = [
        lambda: edit(world, add_roles=["approver"]),
        lambda: suspend(world),
        lambda: activate(world),
        lambda: delete(world),
    ]
    for change in changes:
        with world.rt.hub.listen("user:nina") as waiter, world.rt.hub.listen("user:alice") as other:
            change()
            assert waiter.wait(20)
            assert not other.wait(0), "and nobody else's"


def test_naming_ones_own_token_initial_means_nothing(world: World) -> None:
    made = add(world)
    asked = NewToken(subject_id="nina", subject_type="user", name="initial")
    own = api_tokens.create_token(world.rt, world.enter(made["token"]), asked)
    reissue(world)
    assert world.enter(own["token"]).subject == "nina"


ENDS_AN_ADMIN: dict[str, Callable[[World, str, str], Any]] = {
    "suspend": suspend,
    "delete": lambda w, name, by: user_access.delete_user(w.rt, w.who(by), name, None),
    "roles": lambda w, name, by: edit(w, name, by, rm_roles=["admin"]),
    "replace": lambda w, name, by: edit(w, name, by, roles=["requester"]),
}


@pytest.mark.parametrize("how", ENDS_AN_ADMIN)
def test_somebody_stays_administrator(world: World, how: str) -> None:
    end = ENDS_AN_ADMIN[how]
    assert refused(lambda: end(world, "admin", "admin")) == "user.last_admin"
    assert row_of(world, "admin").status == "active"
    refusal = world.events(event_type="request.refused")[-1]
    assert (refusal["resource_id"], refusal["metadata"]["code"]) == ("admin", "user.last_admin")
    add(world, roles=["admin"])
    suspend(world)
    assert refused(lambda: end(world, "admin", "admin")) == "user.last_admin", "one who cannot sign in does not count"
    activate(world)
    end(world, "admin", "admin")


@pytest.fixture
def grouped(place: Place, clock: Clock) -> World:
    """One group makes administrators; nobody is in it yet."""
    settings = place.load(more='[[auth.groups]]\nname = "admins"\nroles = ["admin"]\n')
    bootstrap.prepare(settings, now=clock)
    return World(open_runtime(settings, now=clock), clock)


def test_an_administrator_by_group_counts(grouped: World) -> None:
    world = grouped
    try:
        nina = world.enter(add(world, roles=[], groups=["admins"])["token"])
        edit(world, "admin", rm_roles=["admin"])
        for call in (
            lambda: users.change_user(world.rt, nina, "nina", UserChange(rm_groups=["admins"])),
            lambda: users.change_user(world.rt, nina, "nina", UserChange(groups=[])),
            lambda: user_access.suspend_user(world.rt, nina, "nina", None),
        ):
            assert refused(call) == "user.last_admin"
        users.change_user(world.rt, nina, "nina", UserChange(add_roles=["admin"], rm_groups=["admins"]))
    finally:
        world.rt.close()


def test_whoever_has_no_role_has_the_default_one(place: Place, clock: Clock) -> None:
    settings = place.load(more='[auth]\ndefault_role = "watcher"\n')
    bootstrap.prepare(settings, now=clock)
    world = World(open_runtime(settings, now=clock), clock)
    try:
        made = add(world, roles=[])
        assert (made["roles"], shown(world)["roles"]) == (["watcher"], [])
        assert world.enter(made["token"]).role_names == ("watcher",)
        edit(world, add_roles=["requester"])
        assert refused(lambda: world.enter(made["token"])) == "auth.insufficient_scope", "the default one is no more"
        assert directory.list_roles(world.rt, world.who("alice"))["default_role"] == "watcher"
    finally:
        world.rt.close()


@pytest.mark.parametrize("how", ENDS_AN_ADMIN)
def test_two_administrators_end_each_other_at_once(world: World, how: str) -> None:
    """However the two calls interleave, one administrator is left."""
    for round_number in range(4):
        names = [f"left{round_number}", f"right{round_number}"]
        tokens = {name: add(world, name, roles=["admin"])["token"] for name in names}
        keeper = row_of(world, "admin")
        world.rt.store.write(
            lambda tx, keeper=keeper: identities.save_user(tx, replace(keeper, roles=["requester", "approver"]))
        )
        callers = {name: world.enter(token) for name, token in tokens.items()}
        both = threading.Barrier(2)
        codes: list[str] = []

        def end(by: str, other: str, callers: Any = callers, both: Any = both, codes: Any = codes) -> None:
            both.wait(20)
            try:
                match how:
                    case "suspend":
                        user_access.suspend_user(world.rt, callers[by], other, None)
                    case "delete":
                        user_access.delete_user(world.rt, callers[by], other, None)
                    case "roles":
                        users.change_user(world.rt, callers[by], other, UserChange(rm_roles=["admin"]))
                    case _:
                        users.change_user(world.rt, callers[by], other, UserChange(roles=["requester"]))
                codes.append("done")
            except DbwardError as error:
                codes.append(error.code)

        threads = [threading.Thread(target=end, args=pair) for pair in (names, names[::-1])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert codes.count("done") == 1, codes
        left = [row for row in (row_of(world, name) for name in names) if "admin" in row.roles]
        assert [row.status for row in left].count("active") == 1
        world.rt.store.write(lambda tx, keeper=keeper: identities.save_user(tx, keeper))
        for row in left:
            if row.status == "active":
                suspend(world, row.id)


def test_an_administrator_who_was_just_suspended_changes_nothing(world: World) -> None:
    nina = world.enter(add(world, roles=["admin"])["token"])
    suspend(world)
    with pytest.raises(Unauthorized):
        users.create_user(world.rt, nina, NewUser(id="mallory", roles=["admin"]))
    with pytest.raises(Unauthorized):
        users.change_user(world.rt, nina, "nina", UserChange(add_roles=["operator"]))


def test_a_call_that_was_let_in_before_the_suspension_comes_too_late(world: World) -> None:
    """Nothing is begun behind its back: no request, no decision, no run, no token that would outlive it."""
    nina = world.enter(add(world, roles=["admin", "requester", "approver"])["token"])
    approved, pending = world.create(environment="own"), world.create(environment="prod")
    mine = _created(world, nina, "own")
    review.approve(world.rt, nina, mine["id"], None, None)
    suspend(world)
    calls: list[Callable[[], Any]] = [
        lambda: _created(world, nina, "auto"),
        lambda: review.approve(world.rt, nina, pending["id"], None, None),
        lambda: review.reject(world.rt, nina, approved["id"], None),
        lambda: dispatch.resume(world.rt, nina, mine["id"], None),
        lambda: api_tokens.create_token(world.rt, nina, NewToken(subject_id="nina", subject_type="user")),
        lambda: api_tokens.create_token(world.rt, nina, NewToken(subject_id="bot", subject_type="agent")),
    ]
    for call in calls:
        with pytest.raises(Unauthorized):
            call()
    assert (world.status(approved), world.status(pending), world.status(mine)) == ("pending", "pending", "cancelled")
    admin = world.who("admin")
    assert all(
        token["status"] == "revoked"
        for token in api_tokens.list_tokens(world.rt, admin, TokenFilter(subject_id="nina"))["tokens"]
    )


def test_the_configuration_has_the_say_about_its_people(world: World) -> None:
    for call in (
        lambda: edit(world, "alice", add_roles=["admin"]),
        lambda: edit(world, "alice", roles=[]),
        lambda: edit(world, "alice", add_groups=["dba"]),
        lambda: delete(world, "alice"),
    ):
        assert refused(call) == "user.in_configuration"
    refusal = world.events(event_type="request.refused")[-1]
    assert (refusal["resource_id"], refusal["metadata"]["action"]) == ("alice", "user.delete")
    edit(world, "alice", display_name="Alice", email="a@example.com")
    assert (shown(world, "alice")["display_name"], shown(world, "alice")["source"]) == ("Alice", "config")


def test_whom_a_person_suspended_stays_out_through_a_start(place: Place, clock: Clock, world: World) -> None:
    token = world.token("alice")
    token_id = world.enter(token).token_id or ""
    made = world.create(environment="prod")
    assert identity.still_valid(world.rt, token_id)
    said = suspend(world, "alice")
    assert not identity.still_valid(world.rt, token_id), "though it is not revoked"
    assert "configuration" in said["warning"]
    assert (said["revoked_tokens"], said["cancelled_requests"]) == (0, [made["id"]])
    with pytest.raises(Unauthorized):
        world.enter(token)
    edit(world, "alice", display_name="Alice")
    settings = place.load()
    world.rt.close()
    bootstrap.prepare(settings, now=clock)
    world = World(open_runtime(settings, now=clock), clock)
    try:
        with pytest.raises(Unauthorized):
            world.enter(token)
        assert shown(world, "alice")["display_name"] == "Alice", "what the file says nothing about is kept"
        activate(world, "alice")
        assert world.enter(token).subject == "alice"
        suspend(world, "alice")
        world.rt.close()
        people = {name: given for name, given in PEOPLE.items() if name != "alice"}
        bootstrap.prepare(place.load(people=people), now=clock)
        world = World(open_runtime(place.load(people=people), now=clock), clock)
        assert refused(lambda: activate(world, "alice")) == "user.in_configuration"
        delete(world, "alice")
        world.rt.close()
        with pytest.raises(DbwardError, match="was deleted"):
            bootstrap.prepare(place.load(), now=clock)
    finally:
        world.rt.close()


def test_no_new_first_tokens_for_whoever_revoked_them(place: Place, clock: Clock, world: World) -> None:
    nina = world.enter(add(world, roles=["admin"])["token"])
    for name in ("admin", "agent"):
        api_tokens.revoke_token(world.rt, nina, world.who(name).token_id or "")
    user_access.suspend_user(world.rt, nina, "admin", None)
    world.rt.close()
    assert not bootstrap.prepare(place.load(), now=clock)
    assert bootstrap.prepare(place.load(), now=clock, force_bootstrap=True), "the way back in"


def test_when_somebody_was_last_seen_is_noted_now_and_then(world: World) -> None:
    add(world)
    assert shown(world)["last_seen_at"] is None
    world.who("alice")
    first = shown(world, "alice")["last_seen_at"]
    assert first == world.clock()
    world.clock.advance(minutes=4)
    world.who("alice")
    assert shown(world, "alice")["last_seen_at"] == first
    world.clock.advance(minutes=2)
    world.who("alice")
    assert shown(world, "alice")["last_seen_at"] == first + timedelta(minutes=6)
