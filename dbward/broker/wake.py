"""Wakes calls that wait, and only those concerned: one Event a waiter, looked up by channel."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

EVERYBODY: Final = "*"
"""Fired when wake-ups may have been missed: everybody looks again."""


class Waiter:
    """One waiting call. Enter it, look whether there is something to do, then `wait`: nothing in between is missed."""

    def __init__(self, hub: Hub, channels: tuple[str, ...]) -> None:
        self._hub, self._channels = hub, channels
        self._event = threading.Event()

    def wait(self, timeout: float) -> bool:
        """Whether it was woken within `timeout` seconds. At once, and true, when the hub is closing."""
        woken = self._event.wait(max(0.0, timeout))
        if not self._hub.closing:
            self._event.clear()
        return woken

    def wake(self) -> None:
        self._event.set()

    def __enter__(self) -> Self:
        self._hub.add(self, self._channels)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._hub.remove(self, self._channels)


class Hub:
    """All waiters of a process. `fire` may be called from any thread and does not block."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[Waiter]] = {}
        self._guard = threading.Lock()
        self._closing = False

    @property
    def closing(self) -> bool:
        """Whether the process is about to end: nobody should begin to wait."""
        return self._closing

    def listen(self, *channels: str) -> Waiter:
        return Waiter(self, channels)

    def fire(self, channels: Iterable[str]) -> None:
        """Wake whoever waits on one of `channels`; on `*`, everybody."""
        named = frozenset(channels)
        with self._guard:
            found = (
                [waiter for waiters in self._waiters.values() for waiter in waiters]
                if EVERYBODY in named
                else [waiter for channel in named for waiter in self._waiters.get(channel, ())]
            )
        for waiter in found:
            waiter.wake()

    def close(self) -> None:
        """Wake everybody for good: every wait from now on returns at once."""
        self._closing = True
        self.fire([EVERYBODY])

    def add(self, waiter: Waiter, channels: Iterable[str]) -> None:
        with self._guard:
            for channel in channels:
                self._waiters.setdefault(channel, set()).add(waiter)
        if self._closing:
            waiter.wake()

    def remove(self, waiter: Waiter, channels: Iterable[str]) -> None:
        with self._guard:
            for channel in channels:
                waiters = self._waiters.get(channel)
                if waiters is not None:
                    waiters.discard(waiter)
                    if not waiters:
                        del self._waiters[channel]
