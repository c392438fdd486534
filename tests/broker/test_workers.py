"""Real Celery workers against a real server, and what becomes of their tasks when either dies."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import services
from tests.support.processes import Farm, Process, Server

QUEUE = "job.app.development"
TOKENS = {name: f"dbw_{secrets.token_hex(16)}" for name in ("olga", "rita")}
CONFIG = """
[broker]
lease_secs = 3
start_grace_secs = 3

[[databases]]
name = "app"
environments = ["development"]
dialect = "sqlite"

[[workflows]]
environment = "development"
[workflows.auto_approve]
mode = "always"

[[auth.users]]
id = "olga"
roles = ["operator"]
token = "${T_OLGA}"

[[auth.users]]
id = "rita"
roles = ["requester"]
token = "${T_RITA}"

[result_storage]
backend = "local"
"""
PROGRAM = Path(__file__).with_name("worker_program.py")
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.e2e


@dataclass
class Site:
    """A server, its workers, and the notes their tasks leave."""

    farm: Farm
    server: Server

    def worker(self, name: str = "one", *, size: int = 2, token: str | None = None, ready: bool = True) -> Process:
        argv = [sys.executable, str(PROGRAM), f"agent@{name}", str(size), QUEUE, str(self.farm.dir)]
        env = {
            "SERVER_URL": self.server.url,
            "TOKEN": token or self.server.agent_token,
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
        }
        process = self.farm.spawn(f"worker-{name}", argv, env=env)
        if ready:
            self.farm.until(lambda: " ready." in process.log(), f"worker {name} is ready", process)
        return process

    def dispatch(self, count: int = 1) -> list[str]:
        """Requests that are approved at once; their ids."""
        body = {"database": "app", "environment": "development", "detail": "SELECT 1"}
        return [self.api("POST", "/api/requests", body)["id"] for _ in range(count)]

    def api(self, method: str, path: str, body: Any = None, *, who: str = "rita") -> Any:
        request = urllib.request.Request(
            self.server.url + path,
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {TOKENS.get(who, who)}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def depth(self) -> tuple[int, int, int]:
        """Ready, leased, dead."""
        [queue] = self.api("GET", "/api/agents", who="olga")["queues"]
        return queue["ready"], queue["leased"], queue["dead"]

    @property
    def notes(self) -> list[list[str]]:
        file = self.farm.dir / "notes"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def noted(self, step: str) -> list[str]:
        return [line[1] for line in self.notes if line[0] == step]

    def await_notes(self, step: str, count: int, *, secs: float = 60) -> None:
        self.farm.until(lambda: len(self.noted(step)) >= count, f"{count} tasks noted {step}", secs=secs)

    def await_depth(self, *depth: int) -> None:
        self.farm.until(lambda: self.depth() == depth, f"the queue holds {depth}")

    def hold(self) -> None:
        (self.farm.dir / "hold").touch()

    def let_go(self) -> None:
        (self.farm.dir / "hold").unlink()

    def ask(self, *commands: str, token: str) -> dict[str, Any]:
        """What the worker `one` answers to inspect commands, asked by a program of its own."""
        program = (
            "import json, sys; from tasks.celery import app\n"
            "inspect = app.control.inspect(['agent@one'], timeout=20)\n"
            "print(json.dumps({c: (getattr(inspect, c)() or {}).get('agent@one') for c in sys.argv[1:]}))"
        )
        return json.loads(self._run([sys.executable, "-c", program, *commands], token).stdout)

    def celery(self, *args: str, token: str) -> subprocess.CompletedProcess[str]:
        """The command line, as somebody would call it from anywhere."""
        return self._run([sys.executable, "-m", "celery", "-A", "tasks", *args], token)

    def _run(self, argv: list[str], token: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "DBWARD_SERVER_URL": self.server.url, "DBWARD_TOKEN": token, "PYTHONPATH": str(ROOT)}
        return subprocess.run(argv, cwd=self.farm.dir, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def site(farm: Farm) -> Site:
    return Site(farm, farm.server(config=CONFIG, env={f"T_{name.upper()}": token for name, token in TOKENS.items()}))


def test_every_job_runs_once(site: Site) -> None:
    site.worker()
    ids = site.dispatch(20)
    site.await_notes("end", 20)
    assert sorted(site.noted("start")) == sorted(ids)
    assert {line[3] for line in site.notes if line[0] == "start"} == {"first"}
    site.await_depth(0, 0, 0)


def test_jobs_that_waited_for_a_worker_run_too(site: Site) -> None:
    ids = site.dispatch(3)
    assert site.depth() == (3, 0, 0)
    site.worker(size=1)
    site.await_notes("end", 3)
    assert site.noted("start") == ids


def test_a_worker_takes_no_more_than_it_runs(site: Site) -> None:
    site.hold()
    site.worker(size=2)
    site.dispatch(6)
    site.await_notes("start", 2)
    assert site.depth() == (4, 2, 0)
    site.let_go()
    site.await_notes("end", 6)
    site.await_depth(0, 0, 0)


def test_what_a_killed_worker_ran_goes_to_another(site: Site) -> None:
    site.hold()
    doomed = site.worker("doomed")
    ids = site.dispatch(2)
    site.await_notes("start", 2)
    doomed.kill()
    site.worker("heir")
    site.await_notes("start", 4)
    site.let_go()
    site.await_notes("end", 2)
    again = [line[1:] for line in site.notes if line[0] == "start" and line[2] == "agent@heir"]
    assert sorted(again) == sorted([each, "agent@heir", "again"] for each in ids)
    site.await_depth(0, 0, 0)


def test_a_job_for_a_worker_that_died_idle_is_not_handed_to_nobody(site: Site) -> None:
    """Its poll still waits at the server, which sees that nobody is left on the line."""
    site.worker("doomed").kill()
    [job] = site.dispatch(1)
    assert site.depth() == (1, 0, 0)
    site.worker("heir")
    site.await_notes("end", 1)
    assert site.notes[0] == ["start", job, "agent@heir", "first"]


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_server_that_restarts_loses_and_repeats_nothing(site: Site, how: str) -> None:
    site.hold()
    worker = site.worker(size=2)
    ids = site.dispatch(6)
    site.await_notes("start", 2)
    if how == "stopped":
        site.server.process.terminate()
    else:
        site.server.process.kill()
    site.let_go()
    site.await_notes("end", 2)  # their acknowledgements find no server
    site.server.start_again()
    site.await_notes("end", 6)
    assert Counter(site.noted("start")) == Counter(ids)
    site.await_depth(0, 0, 0)
    assert worker.alive


def test_an_outage_longer_than_the_lease_repeats_nothing(site: Site) -> None:
    site.hold()
    site.worker(size=2)
    ids = site.dispatch(2)
    site.await_notes("start", 2)
    site.server.process.signal(signal.SIGSTOP)  # the master; its child serves
    workers = [int(pid) for pid in _children(site.server.process.pid)]
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    other = site.worker("other", ready=False)
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(8)
    for pid in [*workers, site.server.process.pid]:
        os.kill(pid, signal.SIGCONT)
    site.farm.until(lambda: " ready." in other.log(), "the other worker is ready", other)
    third = site.dispatch(1)
    site.await_notes("start", 3)
    site.let_go()
    site.await_notes("end", 3)
    assert Counter(site.noted("start")) == Counter([*ids, *third])
    site.await_depth(0, 0, 0)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_worker_told_to_stop_ends_what_it_runs_and_takes_nothing_new(site: Site) -> None:
    site.hold()
    worker = site.worker(size=2)
    site.dispatch(6)
    site.await_notes("start", 2)
    worker.signal(signal.SIGTERM)
    site.farm.until(lambda: "Warm shutdown" in worker.log(), "the shutdown began")
    site.let_go()
    assert worker.wait(30) == 0
    assert len(site.noted("start")) == len(site.noted("end")) == 2
    assert site.depth() == (4, 0, 0)
    site.worker("next")
    site.await_notes("end", 6)


def test_a_revoked_token_ends_the_worker_with_77(site: Site) -> None:
    body = {"subject_id": "agent", "subject_type": "agent"}
    made = site.api("POST", "/api/tokens", body, who=site.server.admin_token)
    worker = site.worker(token=made["token"])
    site.api("DELETE", f"/api/tokens/{made['id']}", who=site.server.admin_token)
    assert worker.wait(30) == 77
    assert "does not accept" in worker.log()
    assert made["token"] not in worker.log()


def test_a_wrong_token_ends_the_worker_with_77(site: Site) -> None:
    assert site.worker(token="dbw_" + "0" * 32, ready=False).wait(30) == 77


# --- watching ---------------------------------------------------------------------------------------------------------


def test_inspect(site: Site) -> None:
    site.hold()
    site.worker(size=1)
    site.dispatch(2)
    site.await_notes("start", 1)
    done = site.celery("inspect", "queue_depth", token=TOKENS["olga"])
    assert done.returncode == 0, done.stderr
    assert "'ready': 1, 'leased': 1, 'dead': 0" in done.stdout
    commands = ["ping", "active", "reserved", "scheduled", "stats", "active_queues", "registered", "revoked"]
    answers = site.ask(*commands, token=TOKENS["olga"])
    assert site.server.agent_token not in json.dumps(answers) + done.stdout
    assert answers["ping"] == {"ok": "pong"}
    [active] = answers["active"]
    assert (active["name"], active["hostname"]) == ("dbward.execute", "agent@one")
    assert (answers["reserved"], answers["scheduled"], answers["revoked"]) == ([], [], [])
    assert answers["stats"]["pool"]["max-concurrency"] == 1
    assert [queue["name"] for queue in answers["active_queues"]] == [QUEUE]
    assert answers["registered"] == ["dbward.execute"]
    site.let_go()
    site.await_notes("end", 2)


def test_inspect_is_not_for_everybody(site: Site) -> None:
    site.worker()
    for token in (TOKENS["rita"], "dbw_" + "0" * 32):
        done = site.celery("inspect", "ping", token=token)
        assert done.returncode != 0
        assert "pong" not in done.stdout
        assert token not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"DBWARD_SERVER_URL": "http://127.0.0.1:3000"}, "DBWARD_TOKEN must be set"),
        ({"DBWARD_SERVER_URL": "http://example.com", "DBWARD_TOKEN": "dbw_" + "0" * 32}, "plain http to example.com"),
    ],
    ids=["no-token", "plain-http"],
)
def test_settings_that_cannot_be_used_are_told_in_a_line(farm: Farm, env: dict[str, str], said: str) -> None:
    argv = [sys.executable, "-m", "celery", "-A", "tasks", "inspect", "ping"]
    asked = farm.spawn("celery", argv, env={**env, "PYTHONPATH": str(ROOT)})
    assert asked.wait(60) == 1
    assert said in asked.log()
    assert "Traceback" not in asked.log()


@pytest.mark.parametrize("who", ["olga", "admin"])
def test_shutdown_is_refused_and_the_worker_never_hears_of_it(site: Site, who: str) -> None:
    worker = site.worker()
    token = site.server.admin_token if who == "admin" else TOKENS[who]
    before = worker.log()
    done = site.celery("control", "shutdown", token=token)
    assert done.returncode != 0
    assert "not available" in done.stderr + done.stdout
    assert "pong" in site.celery("inspect", "ping", token=token).stdout
    assert worker.alive
    assert worker.log() == before


def test_flower_shows_the_workers(site: Site) -> None:
    site.worker()
    port = services.free_port()
    env = {
        "DBWARD_SERVER_URL": site.server.url,
        "DBWARD_TOKEN": TOKENS["olga"],
        "PYTHONPATH": str(ROOT),
        "FLOWER_UNAUTHENTICATED_API": "true",
    }
    options = ["--enable_events=False", "--address=127.0.0.1", f"--port={port}"]
    argv = [sys.executable, "-m", "celery", "-A", "tasks", "flower", *options]
    flower = site.farm.spawn("flower", argv, env=env)

    def seen() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/workers?refresh=1", timeout=5) as answer:
                workers = json.load(answer)
        except OSError:
            return False
        return bool(workers.get("agent@one", {}).get("active_queues"))

    site.farm.until(seen, "Flower knows the worker and its queues", flower)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/workers", timeout=5) as page:
        assert b"agent@one" in page.read()
    assert TOKENS["olga"] not in flower.log()
