"""People over HTTP: what the calls look like, the order of refusals, and what ends at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask

from dbward import ids
from dbward.runtime import Current, Runtime, open_runtime
from dbward.services import bootstrap
from dbward.settings.server import ServerSettings
from tests.web.conftest import PRODUCTION, Caller
from web.app import create_app


@pytest.fixture
def admin(caller: Callable[[str | None], Caller]) -> Caller:
    return caller("admin")


@pytest.fixture
def nina(app: Flask, admin: Caller) -> Caller:
    """Somebody made over the API."""
    made = admin.post("/api/users", {"id": "nina", "roles": ["requester"]})
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    return Caller(app, made.json["token"])


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_the_life_of_a_user(app: Flask, admin: Caller, nina: Caller) -> None:
    assert nina.get("/api/me").json["subject_id"] == "nina"
    assert nina.get("/api/users/nina").json["roles"] == ["requester"]
    changed = admin("PATCH", "/api/users/nina", {"add_roles": ["approver"], "slack_user_id": "U1"})
    assert changed.json == {"id": "nina", "updated": True}
    listed = admin.get("/api/users").json["users"]
    assert listed[0]["id"] == "nina", "newest first"
    assert {"alice", "bob", "olga", "admin"} < {user["id"] for user in listed}
    made = nina.post("/api/requests", PRODUCTION).json
    suspended = admin.post("/api/users/nina/suspend", {"reason": "left"})
    assert suspended.json == {
        "id": "nina",
        "revoked_tokens": 1,
        "cancelled_requests": [made["id"]],
        "source": "api",
    }
    assert nina.get("/api/me").status_code == 401
    assert admin.post("/api/users/nina/reissue-initial-token").status_code == 409
    assert admin.post("/api/users/nina/activate").status_code == 200
    again = admin.post("/api/users/nina/reissue-initial-token")
    assert (again.status_code, again.headers["Cache-Control"]) == (200, "no-store")
    assert Caller(app, again.json["token"]).get("/api/me").status_code == 200
    assert admin("DELETE", "/api/users/nina").json == {"id": "nina", "deleted": True}
    assert admin.get("/api/users/nina").status_code == 410
    assert admin.post("/api/users", {"id": "nina", "roles": ["requester"]}).status_code == 409


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/users", None),
        ("POST", "/api/users", {"nonsense": 1}),
        ("POST", "/api/users", {"id": "bob"}),
        ("PATCH", "/api/users/bob", {}),
        ("PATCH", "/api/users/nobody", {"roles": ["nothing"]}),
        ("POST", "/api/users/nobody/suspend", None),
        ("POST", "/api/users/bob/activate", None),
        ("DELETE", "/api/users/nobody", None),
        ("POST", "/api/users/nobody/reissue-initial-token", None),
        ("GET", "/api/groups", None),
        ("GET", "/api/groups/nothing", None),
    ],
)
def test_whether_one_may_comes_before_everything_else(alice: Caller, method: str, path: str, body: Any) -> None:
    answer = alice(method, path, body)
    assert (answer.status_code, answer.json["error"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/api/users", {}, 422, "validation.failed"),
        ("POST", "/api/users", {"id": "a b"}, 422, "validation.failed"),
        ("POST", "/api/users", {"id": "x", "roles": ["nothing"]}, 400, "validation.failed"),
        ("POST", "/api/users", {"id": "x"}, 400, "user.no_roles"),
        ("POST", "/api/users", {"id": "alice", "roles": ["requester"]}, 409, "user.exists"),
        ("PATCH", "/api/users/nobody", {}, 400, "validation.failed"),
        ("PATCH", "/api/users/nobody", {"roles": ["nothing"]}, 404, "request.not_found"),
        ("PATCH", "/api/users/bob", {"roles": ["nothing"]}, 400, "validation.failed"),
        ("PATCH", "/api/users/bob", {"add_roles": ["admin"]}, 409, "user.in_configuration"),
        ("PATCH", "/api/users/bob", {"roles": "admin"}, 422, "validation.failed"),
        ("PATCH", "/api/users/bob", {"slack_user_id": "x"}, 422, "validation.failed"),
        ("DELETE", "/api/users/bob", None, 409, "user.in_configuration"),
        ("POST", "/api/users/admin/suspend", None, 400, "user.last_admin"),
        ("DELETE", "/api/users/admin", None, 400, "user.last_admin"),
        ("POST", "/api/users/nobody/suspend", None, 404, "request.not_found"),
        ("GET", "/api/groups/nothing", None, 404, "request.not_found"),
        ("GET", "/api/tokens/nothing/inspect", None, 404, "request.not_found"),
        ("GET", "/api/tokens?status=odd", None, 400, "request.malformed"),
    ],
)
def test_what_is_wrong_with_it(admin: Caller, method: str, path: str, body: Any, status: int, code: str) -> None:
    answer = admin(method, path, body)
    assert (answer.status_code, answer.json["code"]) == (status, code)
    assert answer.json["hint"] or status == 404


def test_whom_one_may_not_see_is_not_there(alice: Caller) -> None:
    hidden, absent = alice.get("/api/users/bob"), alice.get("/api/users/nobody")
    assert (hidden.status_code, absent.status_code) == (404, 404)
    assert hidden.json["error"].replace("bob", "nobody") == absent.json["error"]
    assert alice.get("/api/users/alice").json["source"] == "config"


def test_the_roles_and_the_groups(alice: Caller, admin: Caller) -> None:
    roles = alice.get("/api/roles").json
    assert [role["name"] for role in roles["roles"]] == ["admin", "requester", "approver", "operator", "agent-default"]
    assert roles["default_role"] is None
    assert admin.get("/api/groups").json == {"groups": []}


def test_tokens_with_what_they_give(alice: Caller, admin: Caller) -> None:
    made = alice.post("/api/tokens", {"subject_id": "alice", "subject_type": "user", "name": "ci"}).json
    assert (made["effective_roles"], "request.query" in made["effective_permissions"]) == (["requester"], True)
    seen = alice.get(f"/api/tokens/{made['id']}/inspect")
    assert (seen.status_code, seen.json["resolved_roles"]) == (200, ["requester"])
    listed = admin.get("/api/tokens?subject_id=alice&status=active").json["tokens"]
    assert {token["name"] for token in listed} == {"config-alice", "ci"}
    assert admin.get("/api/tokens?subject_type=agent").json["tokens"][0]["kind"] == "bootstrap"


def test_a_bootstrap_token_can_be_revoked(caller: Callable[[str | None], Caller], admin: Caller) -> None:
    token_id = admin.get("/api/tokens?subject_type=agent").json["tokens"][0]["id"]
    assert admin("DELETE", f"/api/tokens/{token_id}").status_code == 200
    assert caller("agent").get("/api/public-key").status_code == 401


@pytest.mark.parametrize("how", ["suspend", "delete", "revoke"])
def test_a_call_that_waits_ends_when_its_caller_is_shut_out(
    rt: Runtime, admin: Caller, nina: Caller, pool: ThreadPoolExecutor, how: str
) -> None:
    """Long before its time: it would wait for five minutes."""
    made = nina.post("/api/requests", PRODUCTION).json
    waiting = pool.submit(nina.get, f"/api/requests/{made['id']}?wait=300")
    wait_until_held(rt)
    if how == "suspend":
        admin.post("/api/users/nina/suspend")
    elif how == "delete":
        admin("DELETE", "/api/users/nina")
    else:
        [token] = admin.get("/api/tokens?subject_id=nina").json["tokens"]
        admin("DELETE", f"/api/tokens/{token['id']}")
    assert waiting.result(60).status_code == 401


def test_a_call_of_a_suspended_user_of_the_configuration_ends(
    rt: Runtime, alice: Caller, admin: Caller, pool: ThreadPoolExecutor
) -> None:
    """Their token is not revoked, and yet worth nothing."""
    made = alice.post("/api/requests", PRODUCTION).json
    waiting = pool.submit(alice.get, f"/api/requests/{made['id']}?wait=300")
    wait_until_held(rt)
    assert admin.post("/api/users/alice/suspend").status_code == 200
    assert waiting.result(60).status_code == 401
    assert admin.post("/api/users/alice/activate").status_code == 200
    assert alice.get("/api/me").status_code == 200


def test_another_replica_knows_at_once(rt: Runtime, admin: Caller, nina: Caller, pool: ThreadPoolExecutor) -> None:
    """What a replica remembers of a token is forgotten through the database; no clock has to run out for it."""
    if rt.store.dialect != "postgresql":
        pytest.skip("SQLite has one server")
    moment = rt.now()
    other_rt = open_runtime(rt.settings, now=lambda: moment)  # whose memory does not age
    try:
        other = create_app(Current(other_rt))
        there = Caller(other, nina.token)
        made = there.post("/api/requests", PRODUCTION).json
        waiting = pool.submit(there.get, f"/api/requests/{made['id']}?wait=300")
        wait_until_held(other_rt)
        generation = other_rt.tokens.generation
        assert other_rt.tokens.get(ids.token_hash(nina.token or ""), moment, under=other_rt.settings) is not None
        assert admin.post("/api/users/nina/suspend").status_code == 200
        assert waiting.result(60).status_code == 401
        assert other_rt.tokens.generation > generation
        assert there.get("/api/me").status_code == 401
        admin.post("/api/users/nina/activate")
        token = admin.post("/api/users/nina/reissue-initial-token").json
        there = Caller(other, token["token"])
        assert there.get("/api/me").status_code == 200
        with other_rt.hub.listen("identities") as waiter:
            admin("PATCH", "/api/users/nina", {"add_roles": ["approver"]})
            admin("DELETE", f"/api/tokens/{token['reissued_token_id']}")
            assert waiter.wait(60)
        done = threading.Event()
        for _ in range(600):  # two commits are two notifications: the second one may still be on its way
            if there.get("/api/me").status_code == 401:
                break
            done.wait(0.1)
        else:
            pytest.fail("the other replica still accepts the revoked token")
    finally:
        other_rt.close()


def test_failed_sign_ins_are_slowed_down_by_address(settings: ServerSettings) -> None:
    bootstrap.prepare(settings)
    moment = datetime(2026, 5, 1, 9, 30, 20, tzinfo=UTC)
    rt = open_runtime(settings, now=lambda: moment)  # in one minute, however long this takes
    most = rt.settings.limits.failed_sign_ins_per_minute
    try:
        app = create_app(Current(rt))
        bad = Caller(app, ids.new_token())

        def knock(address: str, caller: Caller = bad) -> int:
            return caller.get("/api/me", environ_base={"REMOTE_ADDR": address}).status_code

        assert [knock("192.0.2.9") for _ in range(most + 2)] == [401] * most + [429] * 2
        refused = bad.get("/api/me", environ_base={"REMOTE_ADDR": "192.0.2.9"})
        assert (refused.json["code"], refused.headers["Retry-After"]) == ("auth.rate_limited", "40")
        alice = next(user.token.reveal() for user in settings.users if user.id == "alice" and user.token)
        assert knock("192.0.2.9", Caller(app, alice)) == 200, "a valid token gets in from there all the time"
        assert knock("192.0.2.9", Caller(app, None)) == 401, "no token is no attempt"
        assert knock("192.0.2.10") == 401, "and others are not slowed down"
        assert [knock(f"2001:db8::{number:x}") for number in range(most)] == [401] * most
        assert knock("2001:db8::ffff") == 429, "one network, however many addresses"
        assert knock("2001:db8:0:1::1") == 401
    finally:
        rt.close()


def wait_until_held(rt: Runtime) -> None:
    """Until a call holds a place."""
    done = threading.Event()
    while not rt.polls.taken:
        done.wait(0.01)
