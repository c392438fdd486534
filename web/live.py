"""Calls that wait. A waiting call holds a thread and a place among `http.max_polls`, never a database connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

from flask import g

from dbward.allowance import NoneLeft, TooManyHeld
from dbward.errors import RateLimited, Unavailable
from dbward.runtime import Runtime
from web import guard
from web.peer import peer_gone

T = TypeVar("T")

RECHECK_SECS = 15.0
"""A wake-up is not the only hope: a waiting call looks again this often, and notices a client that has hung up."""


@contextmanager
def place(seconds: float) -> Iterator[None]:
    """Hold one place for a call that waits up to `seconds`.

    Raises `RateLimited` when the caller's token has as many as it may, so that one client cannot take them all, and
    `Unavailable` when none is left.
    """
    rt, who = guard.runtime(), guard.principal()
    limits = rt.settings.limits
    setting = "polls_per_agent_token" if who.kind == "agent" else "polls_per_token"
    most = getattr(limits, setting)
    g.waited = True
    try:
        with rt.polls.hold(guard.holder(who), most, seconds):
            yield
    except TooManyHeld as e:
        rt.metrics.limited("polls")
        raise RateLimited(
            f"{most} calls with this token are waiting already",
            code="polls.token_exhausted",
            hint=f"wait with fewer calls at once, or raise [limits] {setting}",
            retry_after=e.free_after,
        ) from None
    except NoneLeft:
        raise Unavailable("too many calls are waiting already", code="polls.exhausted") from None


def wait_for(rt: Runtime, *channels: str, check: Callable[[Runtime], T], seconds: float) -> T:
    """What `check` finds, as soon as that is not None.

    Its None after `seconds`, when the client hangs up, or when the server stops. `check` runs at once and after each
    wake-up of one of `channels`, with the runtime that is in force then; it must be cheap, and must not keep a
    connection. Raises `Unauthorized` as soon as the caller's token is worth nothing any more.
    """
    deadline, who = monotonic() + seconds, guard.principal()
    callers = (f"token:{who.token_id}", f"user:{who.subject}")  # a JWT is no token of ours, and ends with its user
    with place(seconds), rt.hub.listen(*channels, *callers) as waiter:
        while True:
            # Registered first, then looked: what happens in between is not missed.
            found = check(rt)
            left = deadline - monotonic()
            if found is not None or left <= 0 or rt.hub.closing or peer_gone():
                return found
            waiter.wait(min(left, RECHECK_SECS))
            rt = guard.renew()
            if not rt.hub.closing:
                guard.recheck()
