"""What must hold before the first job is taken: the server answers, its key is known, clocks agree, a database is up.

Outages are waited for until one deadline for all phases; a mistake (a refused token or login, a bad setting) ends the
start at once, because waiting would only hide it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event
from typing import TypeVar

from dbward.client.agent_api import AgentApi, patiently
from dbward.client.wire import PROTOCOL, AgentReport, AgentWelcome
from dbward.errors import Misconfigured, RateLimited, Unavailable
from worker.databases import Databases
from worker.job import parse_key, refuse_skew
from worker.keys import ServerKey

T = TypeVar("T")


class Stopped(Exception):
    """Asked to stop before the start was over."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Back-off between attempts, and the time all phases have together; `max_secs` None waits for ever."""

    first_secs: float
    last_secs: float
    max_secs: float | None
    began: float

    @property
    def until(self) -> float | None:
        return None if self.max_secs is None else self.began + self.max_secs

    def left(self) -> float | None:
        return None if self.until is None else max(0.0, self.until - time.monotonic())


def fetch_key(api: AgentApi, patience: Patience, stop: Event) -> ServerKey:
    """Phase 1. Raises `Misconfigured`, `Unavailable` at the deadline, whatever the server refused, or `Stopped`."""
    return ServerKey(api, parse_key(_attempt(api.public_key, "start: public key", patience, stop)))


def connect(databases: Databases, patience: Patience, stop: Event) -> None:
    """Phase 2. Raises `Misconfigured` (refused login), `Unavailable` at the deadline, or `Stopped`."""
    databases.start(until=patience.until, stopped=stop.is_set)
    if stop.is_set():
        raise Stopped


def greet(api: AgentApi, report: Callable[[], AgentReport], patience: Patience, stop: Event) -> AgentWelcome:
    """Phase 3: the first report. Raises as `fetch_key`; `Misconfigured` also for clocks or protocols that differ."""
    times: list[datetime] = []

    def send() -> AgentWelcome:
        times[:] = [_now()]
        welcome = api.report(report())
        times.append(_now())
        return welcome

    welcome = _attempt(send, "start: report", patience, stop)
    if (skewed := refuse_skew(welcome.server_time, sent=times[0], received=times[1])) is not None:
        raise skewed
    if welcome.protocol < PROTOCOL:
        raise Misconfigured(
            f"the server ({welcome.server_version}) speaks protocol {welcome.protocol}, this agent needs {PROTOCOL}",
            code="server.too_old",
            hint="upgrade the server first, then its agents",
        )
    return welcome


def _attempt(call: Callable[[], T], what: str, patience: Patience, stop: Event) -> T:
    try:
        return patiently(
            call,
            stop=stop,
            what=what,
            limit_secs=patience.left(),
            first_secs=patience.first_secs,
            last_secs=patience.last_secs,
        )
    except (Unavailable, RateLimited) as e:
        if stop.is_set():
            raise Stopped from e
        tried = f"{time.monotonic() - patience.began:.0f} s"
        raise Unavailable(f"{what}: {e.message} (given up after {tried})", code=e.code, hint=e.hint) from e


def _now() -> datetime:
    return datetime.now(UTC)
