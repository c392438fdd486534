"""One server per state directory, said clearly before anything in it is touched."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from dbward.errors import Misconfigured

_RETRY_SECS: Final = 0.1


class StateLock:
    """An flock on `server.lock`, held from `acquire` until `release` and until every process forked meanwhile has
    ended.

    The children inherit it on purpose: while a worker of a killed master still runs, no second server may start.
    """

    def __init__(self, state_dir: Path, wait: timedelta = timedelta(0)) -> None:
        self._path = state_dir / "server.lock"
        self._wait = wait
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock, waiting up to `wait` for another server to go. Creates the directory. Raises Misconfigured
        (`state_locked`).
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Misconfigured(f"the state directory cannot be used: {error}", code="state_dir_unusable") from error
        deadline = time.monotonic() + self._wait.total_seconds()
        try:
            while not _try_lock(fd):
                if time.monotonic() >= deadline:
                    raise self._refusal(fd)
                time.sleep(_RETRY_SECS)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Let go. Only closes: an explicit unlock would also free it for the children."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _refusal(self, fd: int) -> Misconfigured:
        pid, _, host = os.pread(fd, 300, 0).decode(errors="replace").strip().partition(" ")
        holder = f"process {pid} on {host}" if pid and host else "process unknown"
        return Misconfigured(
            f"another dbward server ({holder}) is using {self._path.parent}",
            code="state_locked",
            hint="stop it first, or give this server a state_dir of its own",
        )

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
