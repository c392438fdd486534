"""Calls that wait. A waiting call holds a thread and a place among `http.max_polls`, never a database connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

from flask import Flask, current_app

from dbward.errors import Unavailable
from dbward.runtime import Runtime
from web import guard
from web.peer import peer_gone

T = TypeVar("T")

RECHECK_SECS = 15.0
"""A wake-up is not the only hope: a waiting call looks again this often, and notices a client that has hung up."""

_PLACES = "dbward.polls"


def limit_polls(app: Flask, places: int) -> None:
    """Let at most `places` calls wait at once; the threads beyond them stay free for calls that do not."""
    app.extensions[_PLACES] = threading.BoundedSemaphore(places)


@contextmanager
def place() -> Iterator[None]:
    """Hold one place for a waiting call. Raises `Unavailable` (503, Retry-After) when all are taken."""
    places: threading.BoundedSemaphore = current_app.extensions[_PLACES]
    if not places.acquire(blocking=False):
        raise Unavailable("too many calls are waiting already", code="polls.exhausted")
    try:
        yield
    finally:
        places.release()


def wait_for(rt: Runtime, *channels: str, check: Callable[[], T], seconds: float) -> T:
    """What `check` finds, as soon as that is not None.

    Its None after `seconds`, when the client hangs up, or when the server stops. `check` runs at once and after each
    wake-up of one of `channels`; it must be cheap, and must not keep a connection. Raises `Unauthorized` as soon as the
    caller's token is worth nothing any more.
    """
    deadline = monotonic() + seconds
    with place(), rt.hub.listen(*channels, f"token:{guard.principal().token_id}") as waiter:
        while True:
            # Registered first, then looked: what happens in between is not missed.
            found = check()
            left = deadline - monotonic()
            if found is not None or left <= 0 or rt.hub.closing or peer_gone():
                return found
            waiter.wait(min(left, RECHECK_SECS))
            if not rt.hub.closing:
                guard.recheck()
