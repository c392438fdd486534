"""a result of 1,000,000 rows."""

from __future__ import annotations

import http.client
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from bench.lab import BenchFailed, Client, Lab, Peak
from bench.report import Line
from tests.support.processes import Server

ORDER = 7
ROWS = 1_000_000
BUDGET = 100 * 2**20
CONFIG = f"""
[[databases]]
name = "app"
environments = ["development"]

[[workflows]]
[workflows.auto_approve]
mode = "always"

[[execution_policies]]
max_rows = {2 * ROWS}
statement_timeout_secs = 300

[result_storage]
backend = "local"
max_persist_bytes = {2**31}
"""


def measure(lab: Lab) -> list[Line]:
    target = lab.dir / "million.db"
    make_table(target)
    server = lab.server(config=CONFIG)
    agent = lab.agent(server, sqlite=target)
    with Client(server.port, server.admin_token) as client:
        run(client, "SELECT * FROM t LIMIT 1000")  # what is loaded once is loaded now
        with Peak(server.process.pid) as of_server, Peak(agent.pid) as of_agent:
            began = time.perf_counter()
            request = run(client, "SELECT * FROM t")
            executed = time.perf_counter() - began
            size, rows = read(server, request)
            seconds = time.perf_counter() - began
    if rows != ROWS:
        raise BenchFailed(f"{rows} rows came back, not {ROWS}")
    grown = max(of_server.grown, of_agent.grown)
    return [
        Line(
            what=f"{ROWS:,}-row result, growth of agent and server",
            ours=f"{of_agent.grown / 2**20:.0f} MB and {of_server.grown / 2**20:.0f} MB",
            budget="each under 100 MB",
            ok=grown < BUDGET,
            note=f"{size / 2**20:.0f} MB of JSON; stored after {executed:.0f} s, read after {seconds:.0f} s",
        )
    ]


def run(client: Client, sql: str) -> str:
    """Id of the request, once it is executed."""
    body = {"database": "app", "environment": "development", "detail": sql}
    request = client.expect(201, "POST", "/api/requests", body)["id"]
    for _ in range(10):
        status = client.expect(200, "GET", f"/api/requests/{request}?wait=60")["status"]
        if status not in ("dispatched", "running"):
            break
    if status != "executed":
        raise BenchFailed(f"{sql}: {status}")
    return str(request)


def read(server: Server, request: str) -> tuple[int, int]:
    """Size of the stored result in bytes and its rows, counted without holding it."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    with closing(connection):
        headers = {"Authorization": f"Bearer {server.admin_token}"}
        connection.request("GET", f"/api/requests/{request}/result/content", headers=headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise BenchFailed(f"the result cannot be read: {answer.status} {answer.read()[:500]!r}")
        size = rows = 0
        marker = b'"customer '
        rest = b""
        while chunk := answer.read(2**18):
            size += len(chunk)
            text = rest + chunk
            rows += text.count(marker)
            rest = text[-(len(marker) - 1) :]
    return size, rows


def make_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, amount REAL, at TEXT)")
        rows = ((n, f"customer {n}", n / 8, "2026-01-01 12:00:00") for n in range(ROWS))
        db.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", rows)
        db.commit()
