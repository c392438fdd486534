"""Keeps an execution's lease while its statement runs, and hears of a cancellation within the same long poll."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import StrEnum
from threading import Event, Thread
from typing import Final

from dbward.client.agent_api import FIRST_DELAY_SECS, LAST_DELAY_SECS, AgentApi, jittered
from dbward.client.wire import RenewRequest
from dbward.errors import Conflict, DbwardError, Missing, RateLimited, Unauthorized, Unavailable

log = logging.getLogger("dbward.agent")

QUIET_SECS: Final = 1.0
"""A statement that ends within this costs no renewal: `start` has just given it a whole lease."""

WAIT_SECS: Final = 20
"""The longest a renewal waits at the server. It renews when it comes in, so it waits a third of a shorter lease."""


class Stop(StrEnum):
    """Why a running statement is stopped before its end."""

    CANCELLED = "cancelled"
    LOST = "lost"
    DRAINED = "drained"


class Lease:
    """One thread from `open` to `close`; calls `on_stop` at most once, from that thread.

    `lease_secs` is how long the server gives from each renewal; its answers may change it.
    """

    def __init__(
        self,
        api: AgentApi,
        execution_id: str,
        claim_id: str,
        *,
        lease_secs: int,
        on_stop: Callable[[Stop], None],
        on_unauthorized: Callable[[], None],
    ) -> None:
        self._api = api
        self._execution_id = execution_id
        self._claim_id = claim_id
        self._lease_secs = lease_secs
        self._on_stop = on_stop
        self._on_unauthorized = on_unauthorized
        self._closed = Event()

    def open(self) -> None:
        Thread(target=self._run, name=f"lease-{self._execution_id[:8]}", daemon=True).start()

    def close(self) -> None:
        """The poll in flight is not waited for: the server ends it when the execution completes."""
        self._closed.set()

    def _run(self) -> None:
        delay = FIRST_DELAY_SECS
        pause = QUIET_SECS
        while not self._closed.wait(min(pause, self._lease_secs / 4)):
            wait = min(WAIT_SECS, self._lease_secs // 3)
            asked = time.monotonic()
            try:
                renewed = self._api.renew(self._execution_id, RenewRequest(claim_id=self._claim_id, wait_secs=wait))
            except (Unavailable, RateLimited):
                # The statement goes on: its outcome is accepted late, and stopping it would help nobody.
                pause, delay = jittered(delay), min(delay * 2, LAST_DELAY_SECS)
                continue
            except Unauthorized:
                if not self._closed.is_set():
                    self._on_unauthorized()
                return
            except (Conflict, Missing):
                self._stop(Stop.LOST)
                return
            except DbwardError as e:
                log.warning("execution %s: the lease cannot be renewed: %s", self._execution_id, e.message)
                pause, delay = jittered(LAST_DELAY_SECS), LAST_DELAY_SECS
                continue
            if renewed.cancelled or renewed.lost:
                self._stop(Stop.CANCELLED if renewed.cancelled else Stop.LOST)
                return
            self._lease_secs = renewed.lease_secs
            # A server that is about to stop does not let anybody wait.
            at_once = time.monotonic() - asked < QUIET_SECS
            pause, delay = jittered(QUIET_SECS) if at_once else 0.0, FIRST_DELAY_SECS

    def _stop(self, why: Stop) -> None:
        if not self._closed.is_set():
            self._on_stop(why)
