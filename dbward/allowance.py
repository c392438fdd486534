"""How often somebody may do something, counted in this process alone."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

_MINUTE = timedelta(minutes=1)


class PerMinute:
    """Counts by minute and name. What it holds is forgotten every minute, so it stays small.

    `in_all`: how often all names together may; None for no bound.
    """

    def __init__(self, in_all: int | None = None) -> None:
        self._in_all = in_all
        self._since: datetime | None = None
        self._counts: dict[str, int] = {}
        self._guard = threading.Lock()

    def allow(self, name: str, most: int, now: datetime) -> bool:
        """Whether `name` may once more, of `most` times in a minute; if so it is counted."""
        with self._guard:
            if self._since is None or abs(now - self._since) >= _MINUTE:
                self._since = now
                self._counts.clear()
            count = self._counts.get(name, 0)
            if count >= most or (self._in_all is not None and sum(self._counts.values()) >= self._in_all):
                return False
            self._counts[name] = count + 1
            return True
