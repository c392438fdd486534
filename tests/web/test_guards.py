"""Who gets in where, before any handler runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbward import VERSION
from tests.conftest import State
from web import guard

USER_PATHS = ["/api/requests", "/api/requests/x", "/api/results", "/api/audit/events", "/api/agents", "/api/databases",
    "/api/me", "/api/tokens"]  # fmt: skip
AGENT_PATHS = ["/api/public-key"]


@pytest.fixture
def state(tmp_path: Path) -> State:
    """One kind is enough here: what is tested happens before the store is asked."""
    return State("sqlite", f"sqlite:///{tmp_path / 'state.db'}")


def test_no_route_without_a_guard(app):
    guards = set(guard.GUARDS.values())
    unguarded = [
        rule.rule
        for rule in app.url_map.iter_rules()
        if len(guards & set(app.before_request_funcs.get(rule.endpoint.partition(".")[0], []))) != 1
    ]
    assert unguarded == []


def test_only_health_is_public(app):
    public = {
        rule.rule
        for rule in app.url_map.iter_rules()
        if guard.public in app.before_request_funcs.get(rule.endpoint.partition(".")[0], [])
    }
    assert public == guard.PUBLIC_PATHS


def test_every_route_is_guarded_as_its_path_says(app):
    """A path that does not exist is refused by its prefix; that must agree with the guards of those that do."""
    for rule in app.url_map.iter_rules():
        expected = guard.GUARDS[guard.audience(rule.rule)]
        assert expected in app.before_request_funcs[rule.endpoint.partition(".")[0]], rule.rule


@pytest.mark.parametrize("path", [*USER_PATHS, *AGENT_PATHS, "/api/nothing", "/", "/api/broker/fetch", "/favicon.ico"])
def test_nobody_learns_nothing(nobody, path):
    answer = nobody.get(path)
    assert (answer.status_code, answer.json["code"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["x-dbward-version"] == VERSION


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "bearer dbw_x", "Basic YTpi", "Bearer dbw_" + "0" * 32, "Bearer é", "Bearer  x"]
)
def test_a_bad_token_is_401_whatever_is_wrong_with_it(nobody, header):
    answer = nobody.get("/api/me", headers={"Authorization": header})
    assert answer.status_code == 401


@pytest.mark.parametrize("path", [*USER_PATHS, "/api/nothing", "/"])
def test_an_agent_token_opens_no_user_path(agent, path):
    answer = agent.get(path)
    assert answer.status_code == 403
    assert (answer.json["error"], answer.json["code"]) == ("forbidden", "forbidden")
    assert "agent token" in answer.json["hint"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/api/public-key"), ("POST", "/api/agent/report"),
    ("POST", "/api/agent/executions/x/claim"), ("GET", "/api/agent/nothing")])  # fmt: skip
def test_a_users_token_opens_no_agent_path(alice, method, path):
    answer = alice(method, path)
    assert (answer.status_code, answer.json["error"]) == (403, "forbidden")
    assert "agents only" in answer.json["hint"]


def test_unknown_paths_and_methods_are_told_to_users(alice, agent):
    missing = alice.get("/api/nothing")
    assert (missing.status_code, missing.json["code"]) == (404, "route.not_found")
    assert agent.get("/api/agent/nothing").status_code == 404
    wrong = alice("PUT", "/api/requests")
    assert (wrong.status_code, wrong.json["code"]) == (405, "route.method_not_allowed")
    assert "POST" in wrong.headers["Allow"]
    assert alice("OPTIONS", "/api/requests").status_code == 405
    assert alice.get("/api/requests/").status_code == 404  # one spelling, no redirect
    assert alice.get("//api/requests").status_code == 404


def test_health_needs_no_token(nobody, rt):
    assert nobody.get("/health").json == {"status": "ok", "version": VERSION, "min_agent_version": "0.1.0"}
    ready = nobody.get("/ready")
    assert (ready.status_code, ready.json["status"]) == (200, "ok")
    assert ready.json["checks"] == {rt.store.dialect: "ok", "results": "ok"}
    assert nobody("POST", "/health").status_code == 405


def test_a_revoked_token_stops_working(app, caller):
    alice = caller("alice")
    made = alice.post("/api/tokens", {"subject_id": "alice", "subject_type": "user"})
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    other = type(alice)(app, made.json["token"])
    assert other.get("/api/me").json["subject_id"] == "alice"
    assert alice("DELETE", f"/api/tokens/{made.json['id']}").status_code == 200
    assert other.get("/api/me").status_code == 401


def test_a_token_does_not_outlive_the_one_it_was_made_with(app, caller):
    alice = caller("alice")
    mine = {"subject_id": "alice", "subject_type": "user"}
    first = alice.post("/api/tokens", {**mine, "expires_at": "2998-01-01T00:00:00Z"}).json
    short = type(alice)(app, first["token"])
    assert short.post("/api/tokens", mine).json["expires_at"] == first["expires_at"]
    assert short.post("/api/tokens", {**mine, "expires_at": "2997-01-01T00:00:00Z"}).status_code == 201
    assert short.post("/api/tokens", {**mine, "expires_at": "2999-01-01T00:00:00Z"}).status_code == 400
