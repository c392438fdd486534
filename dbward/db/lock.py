"""One server per state directory, said clearly before anything in it is touched."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

from dbward.errors import Misconfigured

_AGAIN_SECS: Final = 1.0
"""How long to sleep on the lock before asking for it anew. On one machine its owner's end wakes us. On a file server
nobody may: the kernel asks again by itself, but in the end only every half minute."""


class StateLock:
    """An flock on `server.lock`, held from `acquire` until `release` and until every process forked meanwhile has
    ended.

    The children inherit it on purpose: while a worker of a killed master still runs, no second server may start.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "server.lock"
        self._fd: int | None = None

    def acquire(self, wait: timedelta = timedelta(0), on_wait: Callable[[str], None] | None = None) -> None:
        """Take the lock, waiting up to `wait` for another server to go. Creates the directory.

        `on_wait` is told whose it is before the wait begins. Waits in the main thread only, and uses its alarm clock.
        Raises Misconfigured (`state_locked`, `state_dir_unusable`).
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Misconfigured(f"the state directory cannot be used: {error}", code="state_dir_unusable") from error
        try:
            if not _try_lock(fd):
                if on_wait is not None and wait:
                    on_wait(self._refusal(fd).message)
                self._wait(fd, wait)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        except OSError as error:
            os.close(fd)
            raise Misconfigured(f"the state directory cannot be used: {error}", code="state_dir_unusable") from error
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Let go. Only closes: an explicit unlock would also free it for the children."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _wait(self, fd: int, wait: timedelta) -> None:
        deadline = time.monotonic() + wait.total_seconds()
        while (left := deadline - time.monotonic()) > 0:
            if _lock_within(fd, min(left, _AGAIN_SECS)):
                return
        raise self._refusal(fd)

    def _refusal(self, fd: int) -> Misconfigured:
        said = b""
        with suppress(OSError):  # some file systems let nobody read what another has locked
            said = os.pread(fd, 300, 0)
        pid, _, host = said.decode(errors="replace").strip().partition(" ")
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


class _Ring(Exception):
    """The alarm went off."""


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_within(fd: int, secs: float) -> bool:
    """Sleep on the lock. False when it is not ours after `secs`, or when it became so at the very last moment: taking
    it again is harmless.
    """
    asleep = True

    def ring(_number: int, _frame: FrameType | None) -> None:
        if asleep:
            raise _Ring  # else flock would go on

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, secs)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        asleep = False
    except _Ring:
        return False
    finally:
        asleep = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return True
