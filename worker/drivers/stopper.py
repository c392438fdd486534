"""Stops a running statement from outside its thread: at its time limit, on request, or when its connection hangs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from types import TracebackType
from typing import Literal, Self

log = logging.getLogger(__name__)

MARGIN = 2.0
"""Seconds the database's own time limit gets before ours steps in."""
RETRY = 0.25
"""Seconds between attempts: an interrupt that arrives before its statement does is lost."""
GIVE_UP = 20.0
"""Seconds of attempts before the connection is cut instead."""

Reason = Literal["timeout", "cancelled"]


class Stopped(Exception):
    """The list was stopped between two statements, or before the commit."""


class Stopper:
    """Watches one run from a thread of its own.

    `interrupt` asks the database to stop the statement and may be called again and again; `abandon` cuts the connection
    under the running thread. Both are called from the watching thread.
    """

    def __init__(self, *, interrupt: Callable[[], None], abandon: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._abandon = abandon
        self._changed = threading.Condition()
        self._due: float | None = None
        self._held_until: float | None = None
        self._done = False
        self._reason: Reason | None = None
        self._gentle = False
        self._thread = threading.Thread(target=self._watch, name="statement-watch", daemon=True)

    @property
    def reason(self) -> Reason | None:
        return self._reason

    def cancel(self) -> None:
        with self._changed:
            if self._reason is None and self._held_until is None:
                self._reason = "cancelled"
                self._changed.notify_all()

    def be_gentle(self) -> None:
        """From now on `cancel` interrupts no statement, only what would come after it: `arm`, `check`, `seal`."""
        with self._changed:
            self._gentle = True

    def arm(self, limit: timedelta) -> None:
        """Starts the clock for one statement; zero is no limit. Raises Stopped when already asked to stop."""
        with self._changed:
            self._raise_if_stopped()
            self._due = monotonic() + limit.total_seconds() + MARGIN if limit else None
            self._changed.notify_all()

    def check(self) -> None:
        """Raises Stopped when asked to stop: some statements end as if nothing had happened when interrupted."""
        with self._changed:
            self._raise_if_stopped()

    def seal(self, seconds: float) -> None:
        """The point of no return before a commit. Raises Stopped when asked to stop before it; from here the connection
        is only cut, if it has not answered in `seconds`."""
        with self._changed:
            self._raise_if_stopped()
            self._held_until = monotonic() + seconds
            self._changed.notify_all()

    def hold(self, seconds: float) -> None:
        """For the work of cleaning up: no more interrupts, and the connection is cut after `seconds`."""
        with self._changed:
            self._held_until = monotonic() + seconds
            self._changed.notify_all()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._done = True
            self._changed.notify_all()
        self._thread.join()  # an interrupt under way still uses the connection that is about to be closed

    def _raise_if_stopped(self) -> None:
        if self._reason is not None:
            raise Stopped

    def _watch(self) -> None:
        give_up: float | None = None
        while True:
            with self._changed:
                step = self._next_step(give_up)
            if step is None:
                return
            if step == "abandon":
                self._abandon()
                return
            give_up = give_up or monotonic() + GIVE_UP
            try:
                self._interrupt()
            except Exception as error:  # noqa: BLE001  whatever a driver raises here, the answer is to try again
                log.warning("stopping a statement failed, trying again: %s", type(error).__name__)
            with self._changed:
                if not self._done and self._held_until is None:
                    self._changed.wait(RETRY)

    def _next_step(self, give_up: float | None) -> Literal["interrupt", "abandon"] | None:
        """Waits, under the lock, until there is something to do."""
        while not self._done:
            now = monotonic()
            if self._held_until is not None:
                if now >= self._held_until:
                    return "abandon"
                self._changed.wait(self._held_until - now)
            elif self._reason == "timeout" or (self._reason is not None and not self._gentle):
                return "interrupt" if give_up is None or now < give_up else "abandon"
            elif self._due is None:
                self._changed.wait()
            elif now >= self._due:
                self._reason = "timeout"
            else:
                self._changed.wait(self._due - now)
        return None
