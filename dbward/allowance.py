"""How often somebody may do something in a minute, and how much of it may go on at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import nlargest
from math import ceil
from time import monotonic

_MINUTE = timedelta(minutes=1)

SHARED_AT_ONCE = 500
"""Names whose counts are shared in one go: strangers with many addresses must not make it long."""


class PerMinute:
    """Counts by minute and name in this process alone. What it holds is forgotten every minute, so it stays small.

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


@dataclass(frozen=True, slots=True)
class Taken:
    """What one call found: whether it may go on, how many of `most` are left, and whole seconds until all are again."""

    ok: bool
    most: int
    left: int
    reset_secs: int


@dataclass(frozen=True, slots=True)
class Unshared:
    """What a process has counted in a minute (of the Unix epoch) and not told the others, by name."""

    minute: int
    counts: dict[str, int]


class Allowances:
    """Counts by name in each minute of the clock: this process's own, and what it was told that others counted.

    The minute is the clock's, the same for every replica, so their counts can be added up and all of them agree on when
    an allowance is full again. `changed` is set while there is something to share.
    """

    def __init__(self) -> None:
        self.changed = threading.Event()
        self._minute = -1
        self._own: dict[str, int] = {}
        self._others: dict[str, int] = {}
        self._unshared: set[str] = set()
        self._guard = threading.Lock()

    def take(self, name: str, most: int, now: datetime) -> Taken:
        """Count `name` once more, if it may: of `most` times in this minute, over all processes. What is refused is not
        counted.
        """
        at = int(now.timestamp())
        with self._guard:
            if at // 60 != self._minute:
                self._begin(at // 60)
            own = self._own.get(name, 0)
            left = most - own - self._others.get(name, 0)
            ok = left > 0
            if ok:
                self._own[name] = own + 1
                self._unshared.add(name)
        if ok and not self.changed.is_set():
            self.changed.set()
        return Taken(ok, most, max(0, left - ok), 60 - at % 60)

    def _begin(self, minute: int) -> None:
        self._minute = minute
        self._own.clear()
        self._others.clear()
        self._unshared.clear()

    def unshared(self, most: int = SHARED_AT_ONCE) -> Unshared:
        """What is to be shared, the highest counts first; it stays so until `learn` is told that it was."""
        with self._guard:
            self.changed.clear()
            names = nlargest(most, self._unshared, key=self._own.__getitem__)
            return Unshared(self._minute, {name: self._own[name] for name in names})

    def learn(self, sent: Unshared, others: Mapping[str, int]) -> None:
        """`sent` has been shared, and `others` is what all other processes counted of its names in its minute."""
        with self._guard:
            if sent.minute != self._minute:
                return
            self._others.update(others)
            self._unshared -= {name for name, count in sent.counts.items() if self._own[name] == count}
            if self._unshared:
                self.changed.set()


class Places:
    """A number of places, and how many of them one name may hold at once."""

    def __init__(self, places: int) -> None:
        self._left = places
        self._held: dict[str, list[float]] = {}
        self._guard = threading.Lock()

    @property
    def taken(self) -> int:
        """How many are held by anybody."""
        with self._guard:
            return sum(map(len, self._held.values()))

    @contextmanager
    def hold(self, name: str, most: int, seconds: float) -> Iterator[None]:
        """Hold a place for at most `seconds`. Raises `NoneLeft`, and `TooManyHeld` for one who has `most` already."""
        until = monotonic() + seconds
        with self._guard:
            mine = self._held.get(name, [])
            if len(mine) >= most:
                raise TooManyHeld(max(1, ceil(min(mine) - monotonic())))
            if self._left <= 0:
                raise NoneLeft
            self._left -= 1
            self._held[name] = [*mine, until]
        try:
            yield
        finally:
            with self._guard:
                self._left += 1
                self._held[name].remove(until)
                if not self._held[name]:
                    del self._held[name]


class NoneLeft(Exception):
    """All places are held."""


class TooManyHeld(Exception):
    """One name holds as many as it may; `free_after`: whole seconds until one of them is free at the latest."""

    def __init__(self, free_after: int) -> None:
        super().__init__(f"free after {free_after} s")
        self.free_after = free_after
