"""500 idle agents long-polling one server."""

from __future__ import annotations

import http.client
import json
import secrets
import time
from collections.abc import Sequence

from bench.lab import BenchFailed, Client, Lab, memory
from bench.report import Line, ms, percentile
from tests.support.processes import POLICY, Server

ORDER = 6
AGENTS = 500
ROUNDS = 400
BUDGET_BYTES = 400 * 2**20
BUDGET_RATIO = 2.0
CONFIG = f"""
[server]
max_polls = {AGENTS + 100}

[limits]
reads_per_minute = 0
polls_per_agent_token = {AGENTS + 100}

[broker]
max_wait_secs = 60
"""


def measure(lab: Lab) -> list[Line]:
    server = lab.server(config=CONFIG + POLICY)
    with Client(server.port, server.admin_token) as client:
        short_requests(client, 50)
        alone = short_requests(client, ROUNDS)
        polls = [IdlePoll(server, n) for n in range(AGENTS)]
        time.sleep(1)
        crowded = short_requests(client, ROUNDS)
        held = memory(server.process.pid)
        alive = sum(poll.waiting for poll in polls)
        for poll in polls:
            poll.close()
    if alive != AGENTS:
        raise BenchFailed(f"only {alive} of {AGENTS} polls were held to the end")
    before, after = percentile(alone, 0.99), percentile(crowded, 0.99)
    return [
        Line(
            what=f"{AGENTS} idle agents on one server, its memory",
            ours=f"{held / 2**20:.0f} MB",
            budget="under 400 MB",
            ok=held < BUDGET_BYTES,
        ),
        Line(
            what=f"{AGENTS} idle agents on one server, short requests' p99",
            ours=ms(after),
            beside=f"{ms(before)} without them",
            ratio=f"{after / before:.1f}x",
            budget=f"under {BUDGET_RATIO:.0f}x",
            ok=after < BUDGET_RATIO * before,
            note=f"{ROUNDS} of GET /api/requests, one after another",
        ),
    ]


def short_requests(client: Client, count: int) -> Sequence[float]:
    found = []
    for _ in range(count):
        began = time.perf_counter()
        client.expect(200, "GET", "/api/requests?limit=10")
        found.append(time.perf_counter() - began)
        time.sleep(0.005)
    return found


class IdlePoll:
    """What an agent with nothing to do is to a server: a report, and one long-poll on its job queue."""

    def __init__(self, server: Server, number: int) -> None:
        session = secrets.token_hex(16)
        with Client(server.port, server.agent_token) as client:
            client.expect(200, "POST", "/api/agent/report", report(session, f"idle-{number}"))
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port)
        body = {"session": session, "seq": 1, "groups": [{"queues": ["job.app.development"]}], "wait_ms": 60_000}
        headers = {"Authorization": f"Bearer {server.agent_token}", "Content-Type": "application/json"}
        self._connection.request("POST", "/api/broker/fetch", json.dumps(body), headers)

    @property
    def waiting(self) -> bool:
        """No answer, and no end of the connection, has come."""
        sock = self._connection.sock
        sock.settimeout(0)
        try:
            sock.recv(1)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self._connection.close()


def report(session: str, instance: str) -> dict[str, object]:
    return {
        "instance": instance,
        "session": session,
        "protocol": 1,
        "version": "0.1.0",
        "databases": [
            {"database": "app", "environment": "development", "dialect": "sqlite", "status": "up", "error": None}
        ],
        "operations": ["execute_select"],
        "max_concurrent": 2,
        "in_flight": 0,
        "active_jobs": [],
        "draining": False,
        "started_at": "2026-01-01T00:00:00Z",
    }
