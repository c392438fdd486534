"""The two files by which an orchestrator sees the agent: alive (fresh modification time) and ready (exists)."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from threading import Lock

from dbward.errors import Misconfigured

log = logging.getLogger("dbward.agent")

BEAT_SECS = 10.0
"""How often the alive file's time is renewed: a much older file belongs to an agent that hangs or was killed."""


class Probes:
    """Owns both files from `open` to `close`.

    `beat` renews the alive file. Whoever calls it must be the part whose hanging is to be noticed: the worker's main
    loop, not a timer that would tick on beside it.
    """

    def __init__(self, alive: Path, ready: Path) -> None:
        self._alive = alive
        self._ready = ready
        self._lock = Lock()
        self._is_ready = False

    def open(self) -> None:
        """Make the alive file, and remove a ready file left by an agent that was killed. Raises `Misconfigured`."""
        try:
            self._ready.unlink(missing_ok=True)
            self._alive.touch()
        except OSError as e:
            raise Misconfigured(
                f"the probe file {e.filename or self._alive} cannot be written: {e.strerror}",
                code="probe.unwritable",
                hint="set alive_file and ready_file to paths this user may write",
            ) from e

    def beat(self) -> None:
        with contextlib.suppress(OSError):  # a full disk must not stop a running statement
            self._alive.touch()

    def set_ready(self, ready: bool) -> None:  # noqa: FBT001 - it is the value itself
        with self._lock:
            if ready == self._is_ready:
                return
            self._is_ready = ready
            try:
                if ready:
                    self._ready.touch()
                else:
                    self._ready.unlink(missing_ok=True)
            except OSError as e:
                log.warning("the ready file cannot be changed: %s", e.strerror)

    def close(self) -> None:
        self.set_ready(False)
        with contextlib.suppress(OSError):
            self._alive.unlink(missing_ok=True)
