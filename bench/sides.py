"""The two brokers that run the same no-op task: Redis, and dbward's own."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Protocol

from celery import Celery

from bench.lab import Client, Lab
from bench.noop import CONCURRENCY, NAME, QUEUE, Starts

ROOT = Path(__file__).parents[1]


class Side(Protocol):
    """A broker with one idle worker of `CONCURRENCY` threads."""

    starts: Starts

    def publish(self, count: int) -> None: ...


class Redis:
    def __init__(self, lab: Lab) -> None:
        url = lab.redis()
        self.starts = Starts(lab.dir / "redis.sock")
        env = {"BENCH_REDIS": url, "BENCH_SOCKET": str(self.starts.path), "PYTHONPATH": str(ROOT)}
        argv = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "bench.redis_app",
            "worker",
            "-P",
            "threads",
            "-c",
            str(CONCURRENCY),
        ]
        argv += ["--without-gossip", "--without-mingle", "-l", "INFO", "-n", "bench@beside"]
        worker = lab.farm.spawn("redis-worker", argv, env=env)
        lab.farm.until(lambda: "bench@beside ready" in worker.log(), "the worker beside is ready", worker)
        self._app = Celery("publisher", broker=url)

    def publish(self, count: int) -> None:
        for _ in range(count):
            self._app.send_task(NAME, args=[time.time()], queue=QUEUE, ignore_result=True)


class Dbward:
    """A real server and a real agent; only the task is the no-op, and its publishing is asked for over HTTP."""

    def __init__(self, lab: Lab) -> None:
        self.starts = Starts(lab.dir / "dbward.sock")
        env = {"BENCH_SOCKET": str(self.starts.path), "PYTHONPATH": str(ROOT)}
        server = lab.server(program=(sys.executable, "-m", "bench.noop_server"), env=env)
        lab.agent(
            server,
            config=f"max_concurrent_tasks = {CONCURRENCY}",
            program=(sys.executable, "-m", "bench.noop_agent"),
            env=env,
        )
        self._client = Client(server.port, server.admin_token)

    def publish(self, count: int) -> None:
        self._client.expect(200, "POST", "/bench/publish", {"count": count})


def settle(side: Side) -> None:
    """What is opened once is open afterwards."""
    side.publish(20)
    side.starts.take(20)
