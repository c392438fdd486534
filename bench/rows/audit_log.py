"""the audit log: appending to an empty and to a long one, and verifying a million events."""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial

from bench.lab import BenchFailed, Client, Lab, Peak, cpu_seconds, memory, timed
from bench.report import Line, percentile
from dbward.db.engine import Tx
from dbward.domain.model import SYSTEM, Event
from dbward.runtime import Runtime, open_runtime
from dbward.services.journal import record
from dbward.settings.server import load_server
from tests.support.chain import extend
from tests.support.processes import Server

ORDER = 11
SIZES = (0, 100_000, 1_000_000)
TOGETHER = 50
"""Appends in one transaction, so that their own cost is measured and not the disk's."""
ROUNDS = 100
BUDGET_RATIO = 1.5
BUDGET_SECS = 120
BUDGET_GROWTH = 64 * 2**20


def measure(lab: Lab) -> list[Line]:
    server = lab.server()
    server.process.terminate()
    costs: dict[int, float] = {}
    made = 0
    with closing(open_runtime(load_server(server.config))) as rt:
        for size in SIZES:
            building = timed(partial(extend, rt, size - made))
            made = size
            costs[size] = append_secs(rt)
    server.start_again()
    empty = costs[0]
    lines = [
        Line(
            what=f"one append to an audit log of {size:,} events",
            ours=f"{costs[size] * 1e6:.0f} µs",
            beside=f"{empty * 1e6:.0f} µs to an empty one",
            ratio=f"{costs[size] / empty:.2f}x",
            budget=f"at most {BUDGET_RATIO}x",
            ok=costs[size] <= BUDGET_RATIO * empty,
            note=f"CPU time, median of {ROUNDS} transactions of {TOGETHER} appends each, commit included, on SQLite",
        )
        for size in SIZES[1:]
    ]
    return [*lines, verified(server, building)]


def append_secs(rt: Runtime) -> float:
    """Seconds of this process's CPU time for one append, its share of the commit included."""

    def work(tx: Tx) -> None:
        for _ in range(TOGETHER):
            record(rt, tx, Event.RESULT_PURGED, actor=SYSTEM, reason="as it should be")

    def used() -> float:
        before = time.process_time()
        rt.store.write(work)
        return time.process_time() - before

    rt.store.write(work)
    return percentile([used() for _ in range(ROUNDS)], 0.5) / TOGETHER


def verified(server: Server, building: float) -> Line:
    """`GET /api/audit/verify` of the whole log by a running server."""
    with Client(server.port, server.admin_token, timeout=3600) as client:
        client.expect(200, "GET", "/api/audit/events?limit=200")
        before = memory(server.process.pid)
        with Peak(server.process.pid) as peak:
            began, used = time.perf_counter(), cpu_seconds(server.process.pid)
            verdict = client.expect(200, "GET", "/api/audit/verify")
            seconds = time.perf_counter() - began
            used = cpu_seconds(server.process.pid) - used
    if not verdict["valid"] or verdict["total_events"] < SIZES[-1]:
        raise BenchFailed(f"the log does not verify: {verdict}")
    return Line(
        what=f"verifying {verdict['total_events']:,} events: CPU time, growth of the server's memory",
        ours=f"{used:.0f} s and {peak.grown / 2**20:.0f} MB",
        budget=f"under {BUDGET_SECS} s and {BUDGET_GROWTH // 2**20} MB",
        ok=used < BUDGET_SECS and peak.grown < BUDGET_GROWTH,
        note=f"{verdict['checkpoints']:,} signed checkpoints among them; {before / 2**20:.0f} MB before; "
        f"{used / verdict['total_events'] * 1e6:.0f} µs an event, {seconds:.0f} s by the clock; "
        f"the last part was made in {building:.0f} s",
    )
