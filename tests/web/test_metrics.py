"""`/metrics`: what was counted, for whoever may see it."""

from __future__ import annotations

import re

from dbward.services import monitoring
from tests.web.conftest import PRODUCTION, held


def test_requests_are_counted_once_by_their_first_status(alice, caller):
    body = {**PRODUCTION, "idempotency_key": "k1"}
    for _ in range(2):
        alice.post("/api/requests", body)
    shown = caller("olga").get("/metrics")
    assert shown.status_code == 200
    assert shown.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    wanted = 'dbward_requests_total{database="app",environment="production",status="pending"} 1.0'
    assert wanted in shown.text.splitlines()


def test_metrics_need_their_permission(alice, nobody):
    assert alice.get("/metrics").status_code == 403
    assert nobody.get("/metrics").status_code == 401


def test_calls_are_counted_by_route_and_status(rt, alice, caller):
    made = alice.post("/api/requests", PRODUCTION).json
    for _ in range(2):
        alice.get(f"/api/requests/{made['id']}")
    alice.get("/api/requests/0000")
    alice.get("/api/nothing")
    alice.post("/health")
    alice("BREW", "/api/me")
    samples = sampled(rt)
    show = {"method": "GET", "path": "/api/requests/<request_id>"}
    assert samples("dbward_http_requests_total", **show, status="200") == 2
    assert samples("dbward_http_requests_total", **show, status="404") == 1
    assert samples("dbward_http_requests_total", method="POST", path="/api/requests", status="201") == 1
    assert samples("dbward_http_requests_total", method="GET", path="<unmatched>", status="404") == 1
    assert samples("dbward_http_requests_total", method="POST", path="<unmatched>", status="405") == 1
    assert samples("dbward_http_requests_total", method="other", path="<unmatched>", status="405") == 1
    assert samples("dbward_http_request_duration_seconds_count", **show) == 3
    assert "/0000" not in caller("olga").get("/metrics").text


def test_a_call_that_waited_is_counted_but_not_timed(rt, alice, pool):
    made = alice.post("/api/requests", PRODUCTION).json
    show = {"method": "GET", "path": "/api/requests/<request_id>"}
    waiting = pool.submit(alice.get, f"/api/requests/{made['id']}?wait=100")
    held(rt, 1)
    assert b"\ndbward_waiting_calls 1.0\n" in monitoring.exposition(rt)
    alice.post(f"/api/requests/{made['id']}/cancel")
    assert waiting.result(60).status_code == 200
    samples = sampled(rt)
    assert samples("dbward_http_requests_total", **show, status="200") == 1
    assert samples("dbward_http_request_duration_seconds_count", **show) is None
    assert b"\ndbward_waiting_calls 0.0\n" in monitoring.exposition(rt)


def sampled(rt):
    """One value of this process by its name and labels; None when there is none."""
    return lambda name, **labels: rt.metrics.registry.get_sample_value(name, labels)


def test_every_metric_says_what_it_is(caller):
    text = caller("olga").get("/metrics").text
    typed = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert typed == set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))
    assert "_created" not in text
