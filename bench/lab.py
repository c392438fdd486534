"""Where a row is measured: servers, agents and Redis as processes, clients with connections that stay open."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from bench.report import log
from tests.support import services
from tests.support.processes import DBWARD, POLICY, Farm, Process, Server


class BenchFailed(Exception):
    """A row could not be measured; the message says why."""


class Client:
    """One HTTP connection that stays open."""

    def __init__(self, port: int, token: str, *, timeout: float = 330) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and decoded JSON."""
        self._connection.request(method, path, None if body is None else json.dumps(body), self._headers)
        answer = self._connection.getresponse()
        raw = answer.read()
        return answer.status, json.loads(raw) if raw else None

    def expect(self, status: int, method: str, path: str, body: Any = None) -> Any:
        got, answer = self.call(method, path, body)
        if got != status:
            raise BenchFailed(f"{method} {path}: {got}, not {status}: {answer}")
        return answer

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


UNLIMITED = """
[limits]
reads_per_minute = 0
writes_per_minute = 0
"""


@dataclass(slots=True)
class Lab:
    """One row's processes and files; all gone when it is closed."""

    dir: Path
    farm: Farm = field(init=False)

    def __post_init__(self) -> None:
        self.dir.mkdir(parents=True)
        self.farm = Farm(self.dir)

    def server(
        self,
        *,
        config: str = POLICY,
        env: Mapping[str, str] | None = None,
        name: str = "server",
        program: Sequence[str] = DBWARD,
    ) -> Server:
        """A server on SQLite, as it is by default, but for the limits of what one token may ask for."""
        if "[limits]" not in config:
            config = UNLIMITED + config
        return self.farm.server(config=config, env=env, name=name, program=program)

    def agent(
        self,
        server: Server | str,
        *,
        token: str | None = None,
        config: str = "",
        sqlite: Path | None = None,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = DBWARD,
    ) -> Process:
        """One agent for app/development on a SQLite file."""
        target = sqlite or self.dir / "target.db"
        if not target.exists():
            sqlite3.connect(target).close()
        databases = {("app", "development"): f"sqlite:///{target}"}
        return self.farm.agent(server, databases, token=token, config=config, env=env, program=program)

    def redis(self) -> str:
        """URL of a Redis of its own, which writes nothing to disk."""
        binary = redis_server()
        port = services.free_port()
        argv = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        process = self.farm.spawn("redis", argv)
        self.farm.until(lambda: "Ready to accept connections" in process.log(), "Redis is ready", process)
        return f"redis://127.0.0.1:{port}/0"

    def close(self) -> None:
        self.farm.close()


def redis_server() -> str:
    """Path of the program, installed with apt when it is missing and that is possible."""
    path = shutil.which("redis-server")
    if path is None and shutil.which("apt-get") and os.geteuid() == 0:
        log("installing redis-server with apt-get ...")
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for argv in (
            ["apt-get", "update", "-q"],
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", "redis-server"],
        ):
            subprocess.run(argv, env=env, check=False, stdout=subprocess.DEVNULL)
        path = shutil.which("redis-server")
    if path is None:
        raise BenchFailed("redis-server is not installed (Debian, Ubuntu: apt-get install redis-server)")
    return path


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    leader = psutil.Process(pid)
    return [leader, *leader.children(recursive=True)]


def memory(pid: int) -> int:
    """Bytes of memory of a process and all below it; what they share is counted once (PSS, if the kernel tells)."""
    total = 0
    for process in tree(pid):
        try:
            full = process.memory_full_info()
            total += getattr(full, "pss", full.rss)
        except psutil.NoSuchProcess:
            continue
    return total


def cpu_seconds(pid: int) -> float:
    total = 0.0
    for process in tree(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


class Peak:
    """Watches the memory of a process in a thread; `grown` is its highest value over that at the start, in bytes."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self.first = self.highest = memory(pid)
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def grown(self) -> int:
        return self.highest - self.first

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.highest = max(self.highest, memory(self._pid))


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_threads(count: int, work: Callable[[int], None]) -> float:
    """Run `work(0)` … `work(count - 1)` at the same time; seconds until the last is done. The first error is raised."""
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(count)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if errors:
        raise errors[0]
    return seconds
