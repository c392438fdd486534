"""Requests over HTTP: create, look, decide, resume, wait, drain."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.web.conftest import DEVELOPMENT, PRODUCTION, held


def test_create_replay_and_short_ids(alice):
    body = {**PRODUCTION, "idempotency_key": "k1"}
    first, second = alice.post("/api/requests", body), alice.post("/api/requests", body)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json["id"] == second.json["id"]
    assert second.json["idempotent"] is True
    shown = alice.get(f"/api/requests/{first.json['id'][:8]}")
    assert (shown.status_code, shown.json["id"]) == (200, first.json["id"])


def test_review_and_resume(alice, bob):
    made = alice.post("/api/requests", PRODUCTION).json
    path = f"/api/requests/{made['id']}"
    assert made["status"] == "pending"
    assert bob.post(f"{path}/approve", {"comment": "fine"}).json["status"] == "approved"
    assert alice.get(path).json["status"] == "approved"
    resumed = alice.post(f"{path}/resume")
    assert (resumed.status_code, resumed.json["status"]) == (200, "dispatched")
    assert [e["status"] for e in alice.get(f"{path}/executions").json["executions"]] == ["queued"]


def test_reject(alice, bob):
    made = alice.post("/api/requests", PRODUCTION).json
    rejected = bob.post(f"/api/requests/{made['id']}/reject", {"comment": "no"})
    assert (rejected.status_code, rejected.json) == (200, {"id": made["id"], "status": "rejected"})


def test_a_waiting_call_is_woken_by_a_decision(alice, bob, pool):
    made = alice.post("/api/requests", PRODUCTION).json
    waiting = pool.submit(alice.get, f"/api/requests/{made['id']}?wait=100")
    bob.post(f"/api/requests/{made['id']}/approve", {})
    assert waiting.result(60).json["status"] == "approved"


@pytest.mark.parametrize("ending", ["cancel", "reject"])
def test_the_stream_ends_with_the_request(alice, bob, pool, ending):
    made = alice.post("/api/requests", PRODUCTION).json
    path = f"/api/requests/{made['id']}"
    waiting = [pool.submit(alice.get, f"{path}/result/stream") for _ in range(4)]
    (alice if ending == "cancel" else bob).post(f"{path}/{ending}", {})
    for answer in [future.result(60) for future in waiting]:
        assert answer.status_code == 200
        assert answer.json["success"] is False
        assert answer.json["error_message"].startswith("request ")


def test_a_call_that_waited_needs_a_valid_token_still(app, alice, pool, rt):
    made = alice.post("/api/requests", PRODUCTION).json
    token = alice.post("/api/tokens", {"subject_id": "alice", "subject_type": "user"}).json
    waiting = pool.submit(type(alice)(app, token["token"]).get, f"/api/requests/{made['id']}/result/stream")
    held(rt, 1)
    alice("DELETE", f"/api/tokens/{token['id']}")
    alice.post(f"/api/requests/{made['id']}/cancel")
    assert waiting.result(60).status_code == 401


def test_an_ended_request_is_not_waited_for(alice):
    made = alice.post("/api/requests", PRODUCTION).json
    alice.post(f"/api/requests/{made['id']}/cancel")
    assert alice.get(f"/api/requests/{made['id']}?wait=100").json["status"] == "cancelled"
    assert alice.get(f"/api/requests/{made['id']}/result/content").status_code == 404


def test_more_waiting_calls_than_places_are_sent_away(app, rt, alice):
    made = alice.post("/api/requests", PRODUCTION).json
    with ExitStack() as stack:
        for n in range(rt.settings.http.max_polls):
            stack.enter_context(rt.polls.hold(f"another-{n}", most=1, seconds=100))
        refused = alice.get(f"/api/requests/{made['id']}?wait=100")
        assert alice.get(f"/api/requests/{made['id']}").status_code == 200  # not waiting: not limited
    assert (refused.status_code, refused.json["code"]) == (503, "polls.exhausted")
    assert int(refused.headers["Retry-After"]) > 0


def test_draining_wakes_who_waits_and_takes_nothing_new(app, rt, alice, agent, nobody, pool):
    made = alice.post("/api/requests", PRODUCTION).json
    path = f"/api/requests/{made['id']}"
    show, stream = pool.submit(alice.get, f"{path}?wait=100"), pool.submit(alice.get, f"{path}/result/stream")
    held(rt, 2)
    rt.hub.close()
    assert show.result(60).json["status"] == "pending"
    assert stream.result(60).status_code == 204
    assert (nobody.get("/ready").status_code, nobody.get("/ready").json) == (503, {"status": "draining"})
    assert nobody.get("/health").status_code == 200
    refused = alice.post("/api/requests", DEVELOPMENT)
    assert (refused.status_code, refused.json["error"]) == (503, "server_shutting_down")
    claim = {"session": "s" * 8, "instance": "i", "tag": "t"}
    assert agent.post(f"/api/agent/executions/{made['id']}/claim", claim).status_code == 503
    assert alice.get(path).status_code == 200  # what can be answered still is


def test_not_ready_without_the_result_store(rt, nobody):
    rt.settings.results.root_dir.rmdir()
    answer = nobody.get("/ready")
    assert (answer.status_code, answer.json["status"], answer.json["checks"]["results"]) == (
        503,
        "degraded",
        "unavailable",
    )


def test_who_and_what(alice, caller):
    assert alice.get("/api/me").json["subject_id"] == "alice"
    pairs = alice.get("/api/databases").json["databases"]
    assert {"database": "app", "environment": "production"} in pairs
    olga = caller("olga")
    assert olga.get("/api/agents").status_code == 200
    assert olga.get("/api/audit/events?limit=1").json["total"] >= 1
    assert olga.get("/api/audit/verify").json["valid"] is True
    assert alice.get("/api/audit/verify").status_code == 403
