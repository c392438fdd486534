"""Tells the server what this agent is and does: on changes, and now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Condition, Thread
from typing import Final

from dbward.client.agent_api import FIRST_DELAY_SECS, LAST_DELAY_SECS, jittered
from dbward.errors import DbwardError, RateLimited, Unauthorized, Unavailable

log = logging.getLogger("dbward.agent")

BUSY_SECS: Final = 60.0
IDLE_SECS: Final = 300.0
"""An idle agent is seen by its polls; its report only has to outlive what the server may forget."""

GAP_SECS: Final = 5.0
"""Least time between two reports of jobs that come and go."""

SOON_SECS: Final = 1.0


class Reporter:
    """One thread from `open` to `close`. `send` makes and sends a report, raising what the API raises."""

    def __init__(
        self, send: Callable[[], None], *, busy: Callable[[], bool], on_unauthorized: Callable[[], None]
    ) -> None:
        self._send = send
        self._busy = busy
        self._on_unauthorized = on_unauthorized
        self._changed = Condition()
        self._closed = False
        self._sent_at = time.monotonic()
        self._due = self._sent_at + IDLE_SECS

    def open(self) -> None:
        """Begin, with nothing due: the start has just reported."""
        self._due = time.monotonic() + IDLE_SECS
        Thread(target=self._run, name="report", daemon=True).start()

    def jobs_changed(self) -> None:
        """Report soon, folding what changes at the same time; short jobs need not be seen each."""
        self._at(max(time.monotonic() + SOON_SECS, self._sent_at + GAP_SECS))

    def state_changed(self) -> None:
        """Report now: a database came or went, or the agent stops."""
        self._at(time.monotonic())

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _at(self, due: float) -> None:
        with self._changed:
            if due < self._due:
                self._due = due
                self._changed.notify()

    def _run(self) -> None:
        delay = FIRST_DELAY_SECS
        while self._wait():
            try:
                self._send()
            except Unauthorized:
                self._on_unauthorized()
                return
            except (Unavailable, RateLimited):
                # The transport says that the server is away; one voice in the log is enough.
                self._at(time.monotonic() + jittered(delay))
                delay = min(delay * 2, LAST_DELAY_SECS)
            except DbwardError as e:
                log.warning("the server does not take this agent's report: %s", e.message)
                delay = FIRST_DELAY_SECS
            else:
                delay = FIRST_DELAY_SECS

    def _wait(self) -> bool:
        """Sleep until a report is due; False when closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if now >= self._due:
                    self._sent_at = now
                    self._due = now + (BUSY_SECS if self._busy() else IDLE_SECS)
                    return True
                self._changed.wait(self._due - now)
            return False
