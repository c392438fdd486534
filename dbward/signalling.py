"""How a command reaches the server of this machine: its pid file, a signal, and a pipe of its own for the answer.

A command makes its pipe before it sends the signal, and the server looks for pipes before it begins: so whoever gets an
answer gets that of something which began after the command did.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Final

from dbward.errors import Misconfigured

PID_FILE: Final = "server.pid"
LOCK_FILE: Final = "server.lock"
SIGNALS: Final = {"reload": signal.SIGHUP, "backup": signal.SIGUSR1}
"""What a server can be asked for, and how."""
_READER_SECS: Final = 5.0
"""How long a command may take to read its answer: the next one must not wait for it."""


def write_pid(state_dir: Path) -> None:
    """Say which process takes signals, readable for all."""
    draft = state_dir / f".{PID_FILE}.{os.getpid()}"
    draft.write_text(f"{os.getpid()}\n")
    draft.chmod(0o644)
    draft.replace(state_dir / PID_FILE)


def remove_pid(state_dir: Path) -> None:
    (state_dir / PID_FILE).unlink(missing_ok=True)


def running(state_dir: Path) -> int:
    """The process id of the server that uses `state_dir`. Raises `Misconfigured` when none does, or not here.

    The lock decides and not the file alone, whose process may be long gone and its number somebody else's.
    """
    try:
        with (state_dir / LOCK_FILE).open("rb") as lock:
            _, _, host = lock.read(300).decode(errors="replace").strip().partition(" ")
            held = not _free(lock.fileno())
        pid = int((state_dir / PID_FILE).read_text()) if held else 0
    except FileNotFoundError:
        held, host, pid = False, "", 0
    except (OSError, ValueError) as e:
        raise _unreachable(f"the files of the server in {state_dir} cannot be read: {e}") from e
    if not held or pid <= 0:
        raise Misconfigured(
            f"no server is running on {state_dir}",
            code="server.not_running",
            hint="start it with `dbward server start`",
        )
    if host != socket.gethostname():
        raise _unreachable(f"the server on {state_dir} runs on {host}: ask it there")
    return pid


def ask(what: str, state_dir: Path, pid: int, seconds: float) -> dict[str, Any] | None:
    """Ask the server for one of `SIGNALS`; what it says to that, None when it has not within `seconds`.

    Raises `Misconfigured` when it cannot be reached, or ends meanwhile.
    """
    with _pipe(what, state_dir) as pipe, _ended(pid) as ended:
        try:
            os.kill(pid, SIGNALS[what])
        except OSError as e:
            raise _unreachable(f"process {pid} cannot be sent a signal: {e.strerror}") from e
        text = _read(pipe, ended, seconds)
        if text is None:
            return None
        try:
            said: dict[str, Any] = json.loads(text)
        except ValueError:
            raise _unreachable("the server ended before it had answered") from None
        return said


def asking(what: str, state_dir: Path) -> list[Path]:
    """The pipes of the commands that wait for an answer."""
    return sorted(path for path in state_dir.glob(f"{what}-*.pipe") if stat.S_ISFIFO(path.lstat().st_mode))


def answer(pipe: Path, said: Mapping[str, Any]) -> None:
    """Tell one command; a pipe whose command is gone is removed."""
    try:
        fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:  # nobody reads it any more, or it is gone itself
        pipe.unlink(missing_ok=True)
        return
    try:
        _write(fd, json.dumps(said).encode())
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    until = monotonic() + _READER_SECS
    with contextlib.suppress(BrokenPipeError):
        while data and poller.poll(max(0.0, until - monotonic()) * 1000):
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(fd, data) :]


def _read(pipe: int, ended: int | None, seconds: float) -> bytes | None:
    """All that the server writes; empty when it ends, None when the time does."""
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    if ended is not None:
        poller.register(ended, select.POLLIN)
    parts: list[bytes] = []
    until = monotonic() + seconds
    while ready := dict(poller.poll(max(0.0, until - monotonic()) * 1000)):
        if pipe not in ready:
            return b""
        if not (part := os.read(pipe, 65536)):
            return b"".join(parts)
        parts.append(part)
    return None


@contextmanager
def _pipe(what: str, state_dir: Path) -> Iterator[int]:
    path = state_dir / f"{what}-{os.getpid()}.pipe"
    path.unlink(missing_ok=True)  # of an earlier process with this number
    try:
        os.mkfifo(path, 0o600)
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as e:
        raise _unreachable(f"{state_dir} cannot be written: {e.strerror}") from e
    try:
        yield fd
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)


@contextmanager
def _ended(pid: int) -> Iterator[int | None]:
    """Something to poll that becomes readable when the process ends; None where the system has no such thing."""
    fd = None
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):  # an older kernel
            fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def _free(fd: int) -> bool:
    """Whether nobody holds the lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unreachable(message: str) -> Misconfigured:
    return Misconfigured(message, code="server.no_answer")
