"""create (auto-approved) → result back at the client, SELECT 1."""

from __future__ import annotations

import statistics
import time

from bench.lab import BenchFailed, Client, Lab
from bench.report import Line, ms, percentile

ORDER = 2
ROUNDS = 300
BUDGET_SECS = 0.050


def measure(lab: Lab) -> list[Line]:
    server = lab.server()
    lab.agent(server)
    with Client(server.port, server.admin_token) as client:
        for _ in range(20):
            once(client)
        seconds = [once(client) for _ in range(ROUNDS)]
    p50 = statistics.median(seconds)
    return [
        Line(
            what="create → result at the client, `SELECT 1`, p50",
            ours=ms(p50),
            beside="1000 ms (a poll a second)",
            budget=f"under {ms(BUDGET_SECS)}",
            ok=p50 < BUDGET_SECS,
            note=f"{ROUNDS} one after another on an open connection; p99 {ms(percentile(seconds, 0.99))}",
        )
    ]


def once(client: Client) -> float:
    """Seconds from sending the request to holding its rows."""
    body = {"database": "app", "environment": "development", "detail": "SELECT 1 AS one"}
    began = time.perf_counter()
    request = client.expect(201, "POST", "/api/requests", body)["id"]
    result = client.expect(200, "GET", f"/api/requests/{request}/result/stream")
    seconds = time.perf_counter() - began
    if result["result_data"]["rows"] != [{"one": 1}]:
        raise BenchFailed(f"not the row that was asked for: {result}")
    return seconds
