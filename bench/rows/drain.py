"""SIGTERM with 100 long-polls open."""

from __future__ import annotations

import signal
import threading

from bench.lab import BenchFailed, Client, Lab, timed
from bench.report import Line

ORDER = 8
POLLS = 100
BUDGET_SECS = 2.0


def measure(lab: Lab) -> list[Line]:
    server = lab.server()
    token = server.admin_token
    with Client(server.port, token) as client:
        body = {"database": "app", "environment": "production", "detail": "DELETE FROM t WHERE id = 1"}
        request = client.expect(201, "POST", "/api/requests", body)["id"]
    answers: list[int] = []
    threads = [threading.Thread(target=_wait, args=(server.port, token, request, answers)) for _ in range(POLLS)]
    for thread in threads:
        thread.start()
    lab.farm.until(lambda: _open_connections(server.port) >= POLLS, f"{POLLS} polls are open", server.process)
    server.process.signal(signal.SIGTERM)
    seconds = timed(lambda: server.process.wait(60))
    for thread in threads:
        thread.join(60)
    if answers != [200] * POLLS:
        raise BenchFailed(f"polls were not answered when the server stopped: {sorted(set(answers))} ({len(answers)})")
    return [
        Line(
            what=f"SIGTERM with {POLLS} long-polls open, until the process is gone",
            ours=f"{seconds:.2f} s",
            budget=f"under {BUDGET_SECS:.0f} s",
            ok=seconds < BUDGET_SECS,
            note="every poll got its answer",
        )
    ]


def _wait(port: int, token: str, request: str, answers: list[int]) -> None:
    with Client(port, token) as client:
        status, _ = client.call("GET", f"/api/requests/{request}?wait=60")
        answers.append(status)


def _open_connections(port: int) -> int:
    """Connections that the server holds, counted on the server's side."""
    import psutil

    return sum(
        1
        for c in psutil.net_connections("tcp")
        if c.status == psutil.CONN_ESTABLISHED and c.laddr and c.laddr.port == port
    )
