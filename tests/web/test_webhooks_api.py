"""`/api/webhooks`, `/api/webhook-deliveries`, and what is changed in the configuration only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dbward import ids
from dbward.settings.server import ServerSettings, load_server
from tests.conftest import State
from tests.web.conftest import POLICY, PRODUCTION, Caller

HOOKS = """
[[webhooks]]
id = "ops"
url = "https://caller:hunter2@hooks.example.com/ops?key=hunter2"
events = ["request.*"]
secret = "hunter2"

[[webhooks]]
id = "quiet"
url = "https://hooks.example.com/quiet"
events = ["execution.lost"]

[[execution_policies]]
environment = "production"

[[result_policies]]
database = "app"

[[sql_review]]
database = "app"

[[notification_policies]]
database = "app"
environment = "production"
webhooks = ["ops"]

[[auth.roles]]
name = "developer"
permissions = ["request.view", "workflow.read"]
databases = ["app"]
environments = ["development"]

[[auth.users]]
id = "dev"
roles = ["developer"]
token = "${T_DEV}"
"""
ITEMS = {
    "workflows": "wf:*:production:e3b0c44298fc",
    "execution-policies": "ep:*:production",
    "result-policies": "rp:app:*",
    "notification-policies": "np:app:production",
    "sql-review-policies": "srp:app:any",
    "webhooks": "ops",
}
CONFIGURED = (*ITEMS, "roles")


@pytest.fixture
def settings(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerSettings:
    for name in ("T_ALICE", "T_BOB", "T_OLGA", "T_DEV"):
        monkeypatch.setenv(name, ids.new_token())
    path = tmp_path / "server.toml"
    home = json.dumps(str(tmp_path / "state"))
    path.write_text(f"state_dir = {home}\n[state]\nurl = {json.dumps(state.url)}\n{POLICY}\n{HOOKS}")
    return load_server(path)


@pytest.fixture
def olga(caller: Callable[[str | None], Caller]) -> Caller:
    return caller("olga")


@pytest.fixture
def dev(caller: Callable[[str | None], Caller]) -> Caller:
    return caller("dev")


@pytest.mark.parametrize("path", ITEMS)
def test_each_kind_is_listed_and_shown_by_id(alice, dev, path):
    (found,) = alice.get(f"/api/{path}").json.values()
    item = next(one for one in found if one["id"] == ITEMS[path])
    for spelled in (ITEMS[path], ITEMS[path].replace(":", "%3A").replace("*", "%2A")):
        assert alice.get(f"/api/{path}/{spelled}").json == item
    assert dev.get(f"/api/{path}/{ITEMS[path]}").json == item  # configuration is read as a whole
    missing = alice.get(f"/api/{path}/nothing")
    assert (missing.status_code, missing.json["code"]) == (404, "request.not_found")


@pytest.mark.parametrize("path", [*ITEMS, "webhook-deliveries"])
def test_who_may_read(agent, nobody, path):
    paths = [f"/api/{path}", *([f"/api/{path}/{ITEMS[path]}", f"/api/{path}/nothing"] if path in ITEMS else [])]
    for one in paths:
        assert [who.get(one).status_code for who in (agent, nobody)] == [403, 401]


def test_no_credential_of_a_webhook_is_shown(alice):
    shown = alice.get("/api/webhooks")
    assert "hunter2" not in shown.get_data(as_text=True)
    assert shown.json["webhooks"][0] == {
        "id": "ops",
        "url": "https://***@hooks.example.com/ops?***",
        "events": ["request.*"],
        "format": "generic",
        "secret": "***",
        "has_secret": True,
        "status": "active",
        "created_at": None,
        "updated_at": None,
    }


def test_deliveries(alice, olga):
    alice.post("/api/requests", PRODUCTION)
    found = olga.get("/api/webhook-deliveries?webhook=ops").json
    assert (found["total"], found["limit"], found["offset"]) == (1, 50, 0)
    assert (found["deliveries"][0]["event_type"], found["deliveries"][0]["status"]) == ("request.created", "pending")
    assert olga.get("/api/webhook-deliveries?status=dead").json["deliveries"] == []
    assert olga.get("/api/webhook-deliveries?status=pending&limit=0").json["total"] == 1
    for wrong in ("status=lost", "limit=-1", "offset=x", "event=request.created"):
        assert olga.get(f"/api/webhook-deliveries?{wrong}").status_code == 400
    assert alice.get("/api/webhook-deliveries?status=lost").status_code == 403


def test_trying_a_webhook_says_that_nothing_is_called(alice, caller):
    admin = caller("admin")
    answer = admin.post("/api/webhooks/ops/test")
    assert (answer.status_code, answer.json["code"]) == (409, "webhook.not_called")
    assert "webhook-deliveries" in answer.json["hint"]
    assert admin.post("/api/webhooks/nothing/test").status_code == 404
    assert [alice.post(f"/api/webhooks/{one}/test").status_code for one in ("ops", "nothing")] == [403, 403]


@pytest.mark.parametrize("path", CONFIGURED)
def test_configuration_is_not_changed_over_the_api(alice, caller, agent, nobody, path):
    item = f"/api/{path}/{ITEMS.get(path, 'developer')}"
    for method, where in (("POST", f"/api/{path}"), ("PUT", item), ("DELETE", item), ("PUT", f"/api/{path}/new")):
        for who in (alice, caller("admin")):
            answer = who(method, where, {"anything": 1})
            assert (answer.status_code, answer.json["code"]) == (405, "config_only")
            assert answer.headers["Allow"] == "GET, HEAD"
            assert "server.toml" in answer.json["hint"]
        assert [who(method, where).status_code for who in (agent, nobody)] == [403, 401]


def test_databases_are_those_of_the_callers_scope(alice, dev, caller):
    assert len(alice.get("/api/databases").json["databases"]) == 2
    assert dev.get("/api/databases").json == {"databases": [{"database": "app", "environment": "development"}]}
    assert caller("olga").get("/api/databases").status_code == 200


def test_a_resolution_outside_of_the_callers_scope(dev):
    answers = [
        dev.get(f"/api/policy-resolution?database=app&environment={environment}")
        for environment in ("production", "nowhere")
    ]
    for answer in answers:
        assert (answer.status_code, answer.json["error"], answer.json["code"]) == (403, "forbidden", "forbidden")
    assert dev.get("/api/policy-resolution?database=app&environment=development").status_code == 200
