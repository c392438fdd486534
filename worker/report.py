"""Tells the server what this agent is and does: on changes, and now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Condition, Thread, current_thread
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

LAST_WORD_SECS: Final = 3.0
"""How long a stop waits for the server to take the last report."""


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
        self._thread: Thread | None = None
        self._sent_at = time.monotonic()
        self._due = self._sent_at + IDLE_SECS

    def open(self) -> None:
        """Begin, with nothing due: the start has just reported."""
        self._due = time.monotonic() + IDLE_SECS
        self._thread = Thread(target=self._run, name="report", daemon=True)
        self._thread.start()

    def jobs_changed(self) -> None:
        """Report soon, folding what changes at the same time; short jobs need not be seen each."""
        self._at(max(time.monotonic() + SOON_SECS, self._sent_at + GAP_SECS))

    def state_changed(self) -> None:
        """Report now: a database came or went, or the agent stops."""
        self._at(time.monotonic())

    def close(self) -> None:
        """End, after a report that is due: with it a successor of the same name may start at once."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not current_thread():
            self._thread.join(LAST_WORD_SECS)

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
        """Sleep until a report is due; False when closed and none is."""
        with self._changed:
            while True:
                now = time.monotonic()
                if now >= self._due:  # also when closed: the last word, that the agent stops, is due by then
                    self._sent_at = now
                    self._due = now + (BUSY_SECS if self._busy() else IDLE_SECS)
                    return True
                if self._closed:
                    return False
                self._changed.wait(self._due - now)
