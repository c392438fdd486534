"""PostgreSQL LISTEN: what other replicas wake reaches the waiters of this one.

One dedicated connection per process, never through a pooler that shares sessions between clients. What is notified
while the connection is down is lost, so every connection begins by waking everybody: they look again and wait again.
"""

from __future__ import annotations

import json
import logging
import os
import random
import select
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Final

import psycopg2
from psycopg2 import extensions as pg

from dbward.errors import Unavailable

log = logging.getLogger(__name__)

CHANNEL: Final = "dbward_wake"
WAKE_ALL: Final = frozenset({"*"})  # not a channel: whoever receives this wakes every waiter
_MAX_PAYLOAD: Final = 7_900  # bytes; PostgreSQL refuses 8000
_BACK_OFF_SECS: Final = (0.1, 5.0)


def encode(channels: Iterable[str], *, sender: str) -> list[str]:
    """The NOTIFY payloads that carry these channels: as few as fit."""
    payloads: list[str] = []
    rest = sorted(channels)
    while rest:
        size, count = 100, 0  # the envelope around the list
        while count < len(rest) and (size := size + len(json.dumps(rest[count])) + 2) <= _MAX_PAYLOAD:
            count += 1
        if not count:  # one name that fits nowhere
            return [json.dumps({"from": sender, "channels": sorted(WAKE_ALL)})]
        payloads.append(json.dumps({"from": sender, "channels": rest[:count]}))
        rest = rest[count:]
    return payloads


def decode(payload: str, *, own_id: str) -> frozenset[str]:
    """The channels in a payload; none when it is our own, all when it cannot be read."""
    try:
        message = json.loads(payload)
        return frozenset() if message["from"] == own_id else frozenset(map(str, message["channels"]))
    except (ValueError, KeyError, TypeError):
        return WAKE_ALL


class Listener:
    """A thread that holds the LISTEN connection until `close`. `on_wake` is called on it with channels, or with
    `WAKE_ALL`.
    """

    def __init__(
        self,
        open_connection: Callable[[], pg.connection],
        on_wake: Callable[[frozenset[str]], None],
        *,
        own_id: str,
    ) -> None:
        self._open, self._on_wake, self._own_id = open_connection, on_wake, own_id
        self._closing = threading.Event()
        self._wake_fd, self._close_fd = os.pipe()
        self._thread = threading.Thread(target=self._run, name="dbward-listen", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread. May be called twice."""
        if not self._closing.is_set():
            self._closing.set()
            os.write(self._close_fd, b"x")
            self._thread.join()
            os.close(self._wake_fd)
            os.close(self._close_fd)

    def _run(self) -> None:
        pause, longest = _BACK_OFF_SECS
        while not self._closing.is_set():
            try:
                with closing(self._open()) as raw:
                    with raw.cursor() as cursor:
                        cursor.execute(f"LISTEN {CHANNEL}")
                    pause = _BACK_OFF_SECS[0]
                    self._fire(WAKE_ALL)
                    self._receive(raw)
            except (psycopg2.Error, OSError, Unavailable) as error:
                if self._closing.is_set():
                    return
                log.warning("the connection for wake-ups of other replicas is lost: %s", str(error).partition("\n")[0])
                self._closing.wait(pause * random.uniform(0.5, 1))  # noqa: S311 jitter, not a secret
                pause = min(pause * 2, longest)

    def _receive(self, raw: pg.connection) -> None:
        poller = select.poll()
        poller.register(raw.fileno(), select.POLLIN)
        poller.register(self._wake_fd, select.POLLIN)
        while not self._closing.is_set():
            raw.poll()  # raises when the connection is gone
            channels: set[str] = set()
            for notice in raw.notifies:
                channels |= decode(notice.payload, own_id=self._own_id)
            raw.notifies.clear()
            if channels:
                self._fire(frozenset(channels))
            poller.poll()

    def _fire(self, channels: frozenset[str]) -> None:
        try:
            self._on_wake(channels)
        except Exception:
            log.exception("waking up the waiters failed")
