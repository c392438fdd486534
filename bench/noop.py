"""A task that does nothing but say when it started: the same on both sides of the comparison.

It tells the benchmark over a Unix datagram socket named by BENCH_SOCKET, which loses nothing on one machine.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from pathlib import Path
from typing import Any

from bench.lab import BenchFailed

NAME = "bench.noop"
QUEUE = "bench"
CONCURRENCY = 4
_RECORD = struct.Struct("dd")


def register(app: Any) -> None:
    """Give a Celery app the task."""
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.connect(os.environ["BENCH_SOCKET"])

    def noop(sent: float) -> None:
        sender.send(_RECORD.pack(sent, time.time()))

    app.task(noop, name=NAME, ignore_result=True)


class Starts:
    """Receives what the tasks tell."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)

    def take(self, count: int, *, secs: float = 60) -> list[tuple[float, float]]:
        """The next `count` starts as (published, started), by the clock."""
        taken: list[tuple[float, float]] = []
        deadline = time.monotonic() + secs
        while len(taken) < count:
            if not select.select([self._socket], [], [], max(0, deadline - time.monotonic()))[0]:
                raise BenchFailed(f"only {len(taken)} of {count} tasks started within {secs:.0f} s")
            taken.append(_RECORD.unpack(self._socket.recv(64)))
        return taken

    def close(self) -> None:
        self._socket.close()
