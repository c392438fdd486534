"""The program on a terminal of its own, and a person who types."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

_OWN = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
"""Makes the terminal the program's own first, so that Ctrl-C typed into it arrives as it does for a person."""
PROGRAM = _OWN + "from dbward.cli.main import run; run()"
ANOTHER = _OWN + "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
WAIT_SECS = 60
CTRL_C = "\x03"


class OnTerminal:
    """`dbward`, or with `code` ANOTHER any program, with a pseudo-terminal as all three streams.

    `seen` is everything it has written.
    """

    def __init__(self, argv: tuple[str, ...], env: Mapping[str, str], cwd: Path, *, code: str = PROGRAM) -> None:
        self.seen = ""
        self._master, slave = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={"TERM": "xterm", **env},
            cwd=cwd,
            start_new_session=True,
        )
        os.close(slave)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until `text` has been shown."""
        deadline = time.monotonic() + WAIT_SECS
        while text not in self.seen:
            assert self._read(deadline - time.monotonic()), f"{text!r} was never shown, but:\n{self.seen}"

    def end(self) -> int:
        """Read to the end; the exit status."""
        deadline = time.monotonic() + WAIT_SECS
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(WAIT_SECS)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)

    def _read(self, secs: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, secs))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux says that the other end is closed
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)
