"""authenticated calls a second on one core, beside a bare Flask route."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from bench.lab import Client, Lab, cpu_seconds
from bench.report import Line, ms, percentile
from tests.support.processes import Server

ORDER = 10
CALLS = 1500
ROUNDS = 3
BUDGETS = {"GET": 5.0, "POST": 12.0}
ROOT = Path(__file__).parents[2]
NEW = {"database": "app", "environment": "production", "detail": "UPDATE t SET a = 1 WHERE id = 1"}

Call = tuple[str, str, int, Any]


def measure(lab: Lab) -> list[Line]:
    ours = lab.server()
    bare = lab.server(name="bare", program=(sys.executable, "-m", "bench.bare_server"), env={"PYTHONPATH": str(ROOT)})
    with Client(ours.port, ours.admin_token) as client:
        request = client.expect(201, "POST", "/api/requests", NEW)["id"]
    rows: list[tuple[str, Call, Call]] = [
        ("GET /api/me", ("GET", "/api/me", 200, None), ("GET", "/bare", 200, None)),
        ("GET /api/requests/{id}", ("GET", f"/api/requests/{request}", 200, None), ("GET", "/bare", 200, None)),
        ("POST /api/requests", ("POST", "/api/requests", 201, NEW), ("POST", "/bare", 201, NEW)),
    ]
    lines = []
    for name, call, beside in rows:
        best: list[Measured] = []
        for _ in range(ROUNDS):  # in turns, so that whatever else the machine does meets both
            both = [repeat(ours, call), repeat(bare, beside)]
            best = [max(pair, key=lambda m: m.per_core) for pair in zip(best, both, strict=True)] if best else both
        mine, theirs = best
        budget = BUDGETS[call[0]]
        lines.append(
            Line(
                what=f"{name}, authenticated: a second on one core, p50 and p99",
                ours=f"{mine.per_core:.0f}/s, {ms(mine.middle)} and {ms(mine.worst)}",
                beside=f"bare Flask {call[0]}: {theirs.per_core:.0f}/s, {ms(theirs.middle)} and {ms(theirs.worst)}",
                ratio=f"1/{theirs.per_core / mine.per_core:.1f}",
                budget=f"at least 1/{budget:.0f} of it",
                ok=mine.per_core * budget >= theirs.per_core,
                note=f"{CALLS} calls one after the other on one connection, best of {ROUNDS}; a core's second is a "
                "second of the server's CPU time",
            )
        )
    return lines


class Measured:
    """What a row of calls cost: calls for each second of the server's CPU time, and seconds until the answer."""

    def __init__(self, per_core: float, seconds: list[float]) -> None:
        self.per_core = per_core
        self.middle, self.worst = percentile(seconds, 0.5), percentile(seconds, 0.99)


def repeat(server: Server, call: Call) -> Measured:
    method, path, status, body = call
    seconds = []
    with Client(server.port, server.admin_token) as client:
        for _ in range(20):
            client.expect(status, method, path, body)
        before = cpu_seconds(server.process.pid)
        for _ in range(CALLS):
            began = time.perf_counter()
            client.expect(status, method, path, body)
            seconds.append(time.perf_counter() - began)
        used = cpu_seconds(server.process.pid) - before
    return Measured(CALLS / used, seconds)
