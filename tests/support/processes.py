"""dbward's own programs as processes: started with a written config, awaited by their readiness, killed by group.

A `Farm` owns what one test starts. Logs go to files in its directory; a test that fails shows them (tests/conftest.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.support import guard, services

T = TypeVar("T")

READY_SECS = 60
POLICY = """
[[databases]]
name = "app"
environments = ["development", "production"]

[[workflows]]
environment = "development"
[workflows.auto_approve]
mode = "always"

[[workflows]]
environment = "production"
[[workflows.steps]]
approvers = [{ role = "approver", min = 1 }]

[result_storage]
backend = "local"
"""
"""Enough to work: `app` runs at once in development and needs one approver in production."""

DBWARD = (sys.executable, "-c", "from dbward.cli.main import run; run()")
"""The `dbward` command of this very interpreter, also when its scripts directory is not on PATH."""

_INHERITED = ("PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "COVERAGE_PROCESS_START")


@dataclass(slots=True)
class Process:
    """One program and everything it starts: a process group of its own."""

    name: str
    popen: subprocess.Popen[bytes]
    log_path: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send to the leader only."""
        self.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the whole group, and wait."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait(30)
        guard.forget(services.run_dir(), self.pid)

    def terminate(self, timeout: float = 30) -> int:
        """SIGTERM to the leader; its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float = 30) -> int:
        return self.popen.wait(timeout)


@dataclass(slots=True)
class Server:
    """A server and how to reach it. `restart` keeps the port, the state and the config."""

    farm: Farm
    name: str
    process: Process
    port: int
    config: Path
    state_dir: Path
    env: Mapping[str, str]
    program: Sequence[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_token(self) -> str:
        return (self.state_dir / "admin-token").read_text()

    @property
    def agent_token(self) -> str:
        return (self.state_dir / "agent-token").read_text()

    def start_again(self) -> None:
        """Start anew after a kill or a stop, and wait until it is ready."""
        self.process = self.farm.launch_server(self.name, self.config, self.port, self.env, self.program)
        self.await_ready()

    def await_ready(self) -> None:
        self.farm.until(lambda: status_of(f"{self.url}/ready") == 200, f"{self.name} is ready", self.process)


@dataclass(slots=True)
class Farm:
    """Everything one test starts. `close` kills it all and leaves the logs."""

    dir: Path
    processes: list[Process] = field(default_factory=list)

    def spawn(self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Process:
        """Start a program in its own group, with no more of our environment than it needs."""
        serial = sum(1 for p in self.processes if p.name == name)
        log = self.dir / (f"{name}.log" if serial == 0 else f"{name}.{serial}.log")
        home = self.dir / "home"
        home.mkdir(exist_ok=True)
        inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
        with log.open("wb") as out:
            popen = subprocess.Popen(
                argv,
                cwd=self.dir,
                env={**inherited, "HOME": str(home), "PYTHONUNBUFFERED": "1", guard.MARK: self._mark, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        guard.register(services.run_dir(), popen.pid)
        process = Process(name, popen, log)
        self.processes.append(process)
        return process

    def server(
        self,
        *,
        name: str = "server",
        config: str = POLICY,
        state_url: str | None = None,
        state_dir: Path | None = None,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = DBWARD,
        ready: bool = True,
    ) -> Server:
        """A server on a free port. `config` is everything but `state_dir` and `[state]`, which are written before it.

        `state_url` None keeps the state where it is by default, in a SQLite file in the state directory.
        """
        port = services.free_port()
        state_dir = state_dir or self.dir / f"{name}-state"
        path = self.dir / f"{name}.toml"
        head = f"state_dir = {json.dumps(str(state_dir))}\n"
        state = f"[state]\nurl = {json.dumps(state_url)}\n" if state_url else ""
        body = _top_level_first(config, state)
        path.write_text(head + body)
        tomllib.loads(path.read_text())
        env = dict(env or {})
        process = self.launch_server(name, path, port, env, program)
        server = Server(self, name, process, port, path, state_dir, env, program)
        if ready:
            server.await_ready()
        return server

    def launch_server(
        self, name: str, config: Path, port: int, env: Mapping[str, str], program: Sequence[str] = DBWARD
    ) -> Process:
        argv = [
            *program,
            "server",
            "start",
            "--config",
            str(config),
            "--listen",
            f"127.0.0.1:{port}",
        ]
        return self.spawn(name, argv, env=env)

    def agent(
        self,
        server: Server | str,
        databases: Mapping[tuple[str, str], str],
        *,
        token: str | None = None,
        name: str = "agent",
        config: str = "",
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = DBWARD,
        ready: bool = True,
    ) -> Process:
        """An agent for `databases` (`(database, environment)` to URL). `config` holds further top-level keys."""
        if isinstance(server, Server):
            url, token = server.url, token or server.agent_token
        else:
            url = server
            assert token is not None
        path = self.dir / f"{name}.toml"
        probes = self.dir / f"{name}-probes"
        probes.mkdir(exist_ok=True)
        ready_file = probes / "ready"
        lines = [f"agent_id = {json.dumps(name)}", config]
        lines += [f"alive_file = {json.dumps(str(probes / 'alive'))}", f"ready_file = {json.dumps(str(ready_file))}"]
        lines += ["[server]", f"url = {json.dumps(url)}", 'agent_token = "${DBWARD_AGENT_TOKEN}"']
        for (database, environment), target in databases.items():
            lines += [f"[databases.{database}.{environment}]", f"url = {json.dumps(target)}"]
        path.write_text("\n".join(lines) + "\n")
        tomllib.loads(path.read_text())
        process = self.spawn(
            name,
            [*program, "agent", "--config", str(path)],
            env={"DBWARD_AGENT_TOKEN": token or "", **(env or {})},
        )
        if ready:
            self.until(ready_file.exists, f"{name} is ready", process)
        return process

    def until(
        self, check: Callable[[], T], what: str, process: Process | None = None, *, secs: float = READY_SECS
    ) -> T:
        """Poll `check` until it is true and return it; a clear failure when time is up or `process` ended before."""
        deadline = time.monotonic() + secs
        while True:
            if value := check():
                return value
            if process is not None and not process.alive:
                message = f"{process.name} ended with status {process.popen.returncode} before: {what}\n{process.log()}"
                raise AssertionError(message)
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {secs} s: {what}")
            time.sleep(0.02)

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
        guard.kill_marked(self._mark)

    @property
    def _mark(self) -> str:
        return f"{services.run_dir()}:{self.dir}:"

    def logs(self) -> Iterator[tuple[str, str]]:
        """Name and the end of the log of every process, for the report of a failed test."""
        for process in self.processes:
            status = "running" if process.alive else f"exit {process.popen.returncode}"
            yield f"{process.log_path.name} ({status})", process.log()[-20_000:]


def status_of(url: str) -> int:
    """HTTP status of a GET; 0 when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        e.close()
        return e.code
    except OSError:
        return 0


def call(method: str, url: str, token: str | None, body: Any = None, *, timeout: float = 60) -> tuple[int, Any]:
    """One JSON request over the real network, independent of dbward's own client: status and decoded body."""
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            status, raw = int(answer.status), answer.read()
    except urllib.error.HTTPError as e:
        with e:
            status, raw = e.code, e.read()
    return status, (json.loads(raw) if raw else None)


def _top_level_first(config: str, state: str) -> str:
    """`state` put behind the bare keys of `config`, so that these stay at the top level."""
    lines = config.splitlines(keepends=True)
    first_table = next((i for i, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    return "".join([*lines[:first_table], state, *lines[first_table:]])
