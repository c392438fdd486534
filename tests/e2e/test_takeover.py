"""One state, two servers: one owns it, the other waits and takes over, however the first one ends."""

from __future__ import annotations

import resource
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.processes import POLICY, Farm, Process, Server, call, status_of

pytestmark = pytest.mark.e2e

PATIENT = POLICY + "[state]\nexclusive = true\nlock_wait_secs = 120\n"


def standby(farm: Farm, owner: Server, port: int, name: str = "second") -> Server:
    """A second server on the state of `owner`, once it waits."""
    process = farm.launch_server(name, owner.config, port, {})
    server = replace(owner, name=name, process=process, port=port)
    farm.until(lambda: ready(server) == (503, "waiting"), f"{name} waits", process)
    return server


def ready(server: Server) -> tuple[int, Any]:
    try:
        status, said = call("GET", f"{server.url}/ready", None)
    except OSError:
        return 0, None
    return status, said["status"]


def submit(server: Server, environment: str = "production") -> str:
    body = {"database": "app", "environment": environment, "detail": "SELECT 1"}
    status, made = call("POST", f"{server.url}/api/requests", server.admin_token, body)
    assert status == 201
    return str(made["id"])


def submit_until_it_ends(server: Server) -> list[str]:
    """What was acknowledged."""
    made = []
    with suppress(OSError):
        while True:
            made.append(submit(server))
    return made


def assert_holds(server: Server, request_ids: list[str]) -> None:
    for one in request_ids:
        assert call("GET", f"{server.url}/api/requests/{one}", server.admin_token)[0] == 200
    status, verdict = call("GET", f"{server.url}/api/audit/verify", server.admin_token)
    assert (status, verdict["valid"]) == (200, True)


def worker_of(process: Process) -> psutil.Process:
    (worker,) = psutil.Process(process.pid).children()
    return worker


def test_who_waits_takes_over_from_one_that_was_killed_and_from_one_that_stops(
    farm: Farm, free_port: int, sqlite_path: Path
) -> None:
    first = farm.server(config=PATIENT, name="first")
    made = [submit(first)]
    second = standby(farm, first, free_port)
    assert f"another dbward server (process {first.process.pid} on" in second.process.log()
    assert status_of(f"{second.url}/health") == 200
    status, said = call("POST", f"{second.url}/api/requests", second.admin_token, {})
    assert (status, said["code"]) == (503, "server.waiting")
    made.append(submit(first))  # which is not disturbed
    sqlite_path.touch()
    agent = farm.agent(second, {("app", "development"): f"sqlite:///{sqlite_path}"}, ready=False)
    farm.until(lambda: "trying again" in agent.log(), "the agent waits, too", agent)

    first.process.kill()
    farm.until(lambda: ready(second) == (200, "ok"), "the second has taken over", second.process)
    assert_holds(second, made)
    farm.until((farm.dir / "agent-probes" / "ready").exists, "the agent is ready", agent)
    made.append(submit(second, "development"))
    path = f"{second.url}/api/requests/{made[-1]}?wait=20"
    farm.until(lambda: call("GET", path, second.admin_token)[1]["status"] == "executed", "the agent has run it", agent)

    third = standby(farm, first, first.port, "third")
    assert second.process.terminate() == 0
    farm.until(lambda: ready(third) == (200, "ok"), "the third has taken over", third.process)
    assert_holds(third, made)
    assert "Traceback" not in second.process.log() + third.process.log()


def test_a_file_that_cannot_be_written_ends_the_server_and_another_takes_over(farm: Farm, free_port: int) -> None:
    first = farm.server(config=PATIENT, name="first")
    second = standby(farm, first, free_port)
    made = [submit(first)]
    # As when its lock is lost on a file server: the next write of the log fails, and it is not the disk that is full.
    limit = (first.state_dir / "dbward.db-wal").stat().st_size
    resource.prlimit(worker_of(first.process).pid, resource.RLIMIT_FSIZE, (limit, limit))
    made += submit_until_it_ends(first)
    assert first.process.wait(60) == 1
    assert "cannot be trusted any more: " in first.process.log()
    assert "disk I/O error" in first.process.log()
    assert "Traceback" not in first.process.log()
    farm.until(lambda: ready(second) == (200, "ok"), "the second has taken over", second.process)
    assert_holds(second, made)


def test_who_waits_can_be_stopped_and_killed(farm: Farm, free_port: int) -> None:
    first = farm.server(config=PATIENT, name="first")
    second = standby(farm, first, free_port)
    assert second.process.terminate() == 0
    assert status_of(f"{second.url}/health") == 0
    second = standby(farm, first, free_port, "third")
    helper = worker_of(second.process)
    second.process.popen.kill()
    helper.wait(60)
    assert status_of(f"{second.url}/health") == 0
    assert ready(first) == (200, "ok")
    assert "Traceback" not in second.process.log()
