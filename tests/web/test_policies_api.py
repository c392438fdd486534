"""`/api/preflight` and `/api/policy-resolution` over HTTP."""

from __future__ import annotations

import pytest

WHERE = {"database": "app", "environment": "production"}


def test_a_preflight(alice):
    seen = alice.post("/api/preflight", {**WHERE, "sql": "SELECT 1", "include_explain": False})
    assert seen.status_code == 200
    assert (seen.json["status"], seen.json["impact"]) == ("requestable", {"status": "skipped"})
    assert seen.json["policy"]["approvers"] == [{"selector": "role:approver", "min": 1}]


def test_a_preflight_of_what_is_refused_is_still_an_answer(alice):
    seen = alice.post("/api/preflight", {**WHERE, "sql": "COMMIT"})
    assert (seen.status_code, seen.json["status"]) == (200, "blocked")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({**WHERE}, 422),
        ({**WHERE, "sql": 1}, 422),
        ({**WHERE, "sql": "SELECT 1", "more": True}, 422),
        ({**WHERE, "sql": "SELECT 1", "explain_timeout_ms": 0}, 422),
        ({**WHERE, "sql": "SELECT 1", "operation": "execute_dml"}, 400),
        ({**WHERE, "database": "nowhere", "sql": "SELECT 1"}, 400),
    ],
)
def test_wrong_bodies(alice, body, status):
    assert alice.post("/api/preflight", body).status_code == status


def test_who_may_ask(bob, agent, nobody):
    body = {**WHERE, "sql": "SELECT 1"}
    assert [who.post("/api/preflight", body).status_code for who in (bob, agent, nobody)] == [403, 403, 401]
    path = "/api/policy-resolution?database=app&environment=production"
    assert [who.get(path).status_code for who in (agent, nobody)] == [403, 401]


def test_policy_resolution(alice):
    path = "/api/policy-resolution?database=app&environment=production"
    seen = alice.get(path).json
    assert {one["operation"]: one["decision_preview"] for one in seen["resolutions"]}["execute_dml"] == "needs_approval"
    one = alice.get(f"{path}&operation=execute_query").json
    assert (one["operation"], one["reason_code"]) == ("execute_select", "no_auto_approve")
    assert alice.get("/api/policy-resolution?database=app").status_code == 400
    assert alice.get(f"{path}&operation=nonsense").status_code == 400
