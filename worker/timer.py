"""Calls functions later, on one thread that sleeps until the next is due."""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections.abc import Callable
from threading import Condition, Thread

log = logging.getLogger("dbward.agent")


class Timer:
    """For short work only: everything due runs on the same thread, one after the other."""

    def __init__(self, name: str) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def after(self, secs: float, fn: Callable[[], None]) -> None:
        """Call `fn` once, `secs` from now, unless the timer is closed before."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + secs, next(self._order), fn))
            self._changed.notify()

    def every(self, secs: float, fn: Callable[[], None]) -> None:
        """Call `fn` now and then every `secs`, counted from the end of the call before."""

        def again() -> None:
            try:
                fn()
            finally:
                self.after(secs, again)

        self.after(0, again)

    def close(self) -> None:
        """Nothing is called any more once this returns, except what is running now."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify()

    def _run(self) -> None:
        while (fn := self._next()) is not None:
            try:
                fn()
            except Exception:  # one failing call must not end the others
                log.exception("a timed call failed")

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._closed:
                pause = self._due[0][0] - time.monotonic() if self._due else None
                if pause is not None and pause <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(pause)
        return None
