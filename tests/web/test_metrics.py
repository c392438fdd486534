"""`/metrics`: what was counted, for whoever may see it."""

from __future__ import annotations

from tests.web.conftest import PRODUCTION


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
