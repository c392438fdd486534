"""Results in S3, with real processes: a server, an agent, an S3 server behind the policy of the ECS guide."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.processes import POLICY, Farm, Server, call
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, Bucket, Gate, fresh_bucket, gate, moto_url

pytestmark = pytest.mark.e2e

MIB = 1024 * 1024
ROWS, WIDE = 10_000, 3000
"""30 MB of rows."""


def query(wide: int) -> str:
    return (
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) "
        f"SELECT i, printf('%0{wide}d', i) AS wide FROM n"
    )


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with fresh_bucket(moto_url()) as bucket:
        yield bucket


@pytest.fixture
def between() -> Iterator[Gate]:
    with gate(moto_url()) as between:
        yield between


@pytest.fixture
def server(farm: Farm, bucket: Bucket, between: Gate) -> Server:
    section = f"""[result_storage]
backend = "s3"
bucket = "{bucket.name}"
endpoint = "{between.url}"
path_style = true
access_key_id = "{ACCESS_KEY}"
secret_access_key = "${{S3_SECRET}}"
max_persist_bytes = {64 * MIB}
"""
    config = POLICY.replace('[result_storage]\nbackend = "local"\n', section)
    return farm.server(config=config, env={"S3_SECRET": SECRET_KEY})


@pytest.fixture
def agent(farm: Farm, server: Server, sqlite_path: Path) -> None:
    sqlite_path.touch()
    farm.agent(server, {("app", "development"): f"sqlite:///{sqlite_path}"})


def ask(server: Server, wide: int = WIDE) -> str:
    """Request all the rows; its id."""
    body = {"database": "app", "environment": "development", "operation": "execute_select", "detail": query(wide)}
    status, made = call("POST", f"{server.url}/api/requests", server.admin_token, body)
    assert status in {200, 201}, made
    return str(made["id"])


def outcome(server: Server, request_id: str) -> str:
    return str(call("GET", f"{server.url}/api/requests/{request_id}", server.admin_token)[1]["status"])


def rows(server: Server, request_id: str) -> list[dict[str, object]]:
    status, envelope = call("GET", f"{server.url}/api/requests/{request_id}/result/content", server.admin_token)
    assert (status, envelope["success"], envelope["truncated"]) == (200, True, False)
    return list(envelope["result_data"]["rows"])


def check_rows(found: list[dict[str, object]], wide: int = WIDE) -> None:
    assert len(found) == ROWS
    assert all(row == {"i": i, "wide": f"{i:0{wide}d}"} for i, row in enumerate(found, start=1))


def memory(server: Server) -> int:
    """Resident bytes of the server's processes together."""
    leader = psutil.Process(server.process.pid)
    return sum(one.memory_info().rss for one in [leader, *leader.children(recursive=True)])


@contextmanager
def peak(server: Server, peaks: list[int]) -> Iterator[None]:
    """Adds to `peaks` the most memory that was seen meanwhile."""
    done, most = threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], memory(server))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    peaks.append(most[0])


def logs(farm: Farm) -> str:
    return "\n".join(process.log() for process in farm.processes)


@pytest.mark.slow
def test_sixty_megabytes_up_and_down(farm, server, agent, bucket, between):
    assert call("GET", f"{server.url}/ready", None)[1]["checks"]["results"] == "ok"
    peaks = []
    for wide in (WIDE // 3, WIDE * 2 // 3, 2 * WIDE):  # the first is for what is loaded once
        with peak(server, peaks):
            request_id = ask(server, wide)
            farm.until(lambda: outcome(server, request_id) == "executed", "the request is executed")  # noqa: B023
            found = rows(server, request_id)
        check_rows(found, wide)
    assert peaks[2] - peaks[1] < 25 * MIB  # 40 MB more of rows, about the same memory
    stored = [name for name in bucket.names() if name != "results/.ping"]
    assert len(stored) == 3
    assert all(re.fullmatch(r"results/[^/.]+/[^/]+", name) for name in stored)
    assert between.denied == {}
    assert SECRET_KEY not in logs(farm)


@pytest.mark.parametrize("action", ["PutObject", "GetObject", "DeleteObject"])
def test_a_server_killed_in_the_middle(farm, server, agent, bucket, between, action):
    """While parts arrive, while the result is written from them, while these are removed."""
    reached, restarted = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        restarted.wait(60)

    between.after[action] = (12, hold)
    request_id = ask(server)
    farm.until(reached.is_set, f"the twelfth {action}", server.process)
    server.process.kill()
    restarted.set()
    server.start_again()
    farm.until(lambda: outcome(server, request_id) in {"executed", "failed", "execution_lost"}, "it ends", secs=120)
    assert outcome(server, request_id) == "executed"
    check_rows(rows(server, request_id))
    left = [name for name in bucket.names() if ".uploads" in name]
    assert left == []


def test_a_store_that_is_away_is_waited_for(farm, server, agent, bucket, between):
    """The agent holds its statement open; /ready says what is wrong."""
    status, _ = call("GET", f"{server.url}/ready", None)
    assert status == 200
    between.allowed = frozenset()
    request_id = ask(server)
    farm.until(lambda: between.denied["ListBucket"] > 3, "the agent tries")
    farm.until(lambda: call("GET", f"{server.url}/ready", None)[0] == 503, "the server says so")
    assert outcome(server, request_id) == "running"
    between.allowed = frozenset({"PutObject", "GetObject", "DeleteObject", "ListBucket"})
    farm.until(lambda: outcome(server, request_id) == "executed", "the request is executed")
    check_rows(rows(server, request_id))
    farm.until(lambda: call("GET", f"{server.url}/ready", None)[0] == 200, "the server is ready again")
    assert "answered with AccessDenied" in server.process.log()
    assert json.dumps(bucket.name) not in server.process.log()
