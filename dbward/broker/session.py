"""What one process holds from the broker: its leases, kept alive, and the acknowledgements still on their way.

Leases belong to the process, not to a Celery connection, so that no reconnect ever makes a running task run twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from dbward.broker.source import Poll, Source
from dbward.broker.wire import Fetch, Fetched, Group, Reject, Release, Settle
from dbward.errors import DbwardError, RateLimited, Unauthorized, Unavailable

log = logging.getLogger("dbward.broker")

_PUT_BACK_SECS = 2.0
_LATER = (Unavailable, RateLimited, Unauthorized)
"""Nothing was decided about the message: keep it and say so again."""


class Session:
    """One per process that consumes. Its verbs may be called from any thread; polls from one at a time."""

    def __init__(self, source: Source, session_id: str) -> None:
        self.id = session_id
        self._source = source
        self._lock = threading.Lock()
        self._seq = time.time_ns() // 1000  # above that of an earlier life of the same id
        self._held: set[str] = set()
        self._unsaid: dict[str, Reject | None] = {}
        """Tags whose end the server has not heard of: None is done, else given up."""
        self._lease_secs = 60.0
        self._renewed = 0.0
        self._keeper: threading.Thread | None = None
        self._closed = threading.Event()

    @property
    def held(self) -> list[str]:
        with self._lock:
            return sorted(self._held)

    def lease_is(self, secs: float) -> None:
        """As the server says in its welcome."""
        self._lease_secs = secs

    def poll(self, groups: Sequence[Group], wait_secs: float) -> Poll:
        """Say what is unsaid, then begin the next poll; it renews every lease. Raises as `Source`."""
        self._say()
        with self._lock:
            self._seq += 1
            ask = Fetch(
                session=self.id,
                seq=self._seq,
                groups=list(groups),
                have=sorted(self._held),
                wait_ms=int(wait_secs * 1000),
            )
            self._renewed = time.monotonic()
        return self._source.poll(ask)

    def received(self, fetched: Fetched) -> None:
        """Take note of an answer before its messages are handed on."""
        leased = {delivery.tag for delivery in fetched.messages if delivery.tag is not None}
        with self._lock:
            lost = self._held.intersection(fetched.stale) - self._unsaid.keys()
            self._held -= set(fetched.stale)
            self._held |= leased
            start = bool(leased) and self._keeper is None
            if start:
                self._keeper = threading.Thread(target=self._keep, name="dbward-leases", daemon=True)
        if start and self._keeper is not None:
            self._keeper.start()
        if lost:  # withdrawn by the server when its job ended, or run out in an outage
            log.debug("%d leases are not ours any more", len(lost))

    def put_back(self) -> None:
        """Free what was leased in an answer that is not going to be used: a poll that does not list it. One attempt."""
        try:
            poll = self.poll([], 0)
            if poll.result(_PUT_BACK_SECS) is None:
                poll.close()
        except DbwardError as e:
            log.debug("leases were not put back, they will run out: %s", e.message)

    def ack(self, tag: str) -> None:
        """Done. Kept and said again later when the server is away."""
        self._settle(tag, None)

    def reject(self, tag: str, *, requeue: bool) -> None:
        """Given up: to its queue again, or as a dead letter."""
        self._settle(tag, Reject(session=self.id, tag=tag, requeue=requeue))

    def close(self) -> None:
        """Give everything back: the process stops. One attempt; else the leases run out."""
        self._closed.set()
        try:
            self._say()
            self._source.release(Release(session=self.id))
        except DbwardError as e:
            log.info("leases were not given back, they will run out: %s", e.message)
        with self._lock:
            self._held.clear()

    def _settle(self, tag: str, reject: Reject | None) -> None:
        with self._lock:
            if tag not in self._held:
                return
            self._unsaid[tag] = reject
        try:
            self._say()
        except _LATER as e:
            log.debug("an acknowledgement waits: %s", e.message)

    def _say(self) -> None:
        """Tell the server the ends it has not heard of. Raises what asks to be tried again; a refusal is final."""
        with self._lock:
            unsaid = dict(self._unsaid)
        done = [tag for tag, reject in unsaid.items() if reject is None]
        try:
            if done:
                self._source.ack(Settle(session=self.id, tags=done))
                self._forget(done)
            for tag, reject in unsaid.items():
                if reject is not None:
                    self._source.reject(reject)
                    self._forget([tag])
        except _LATER:
            raise
        except DbwardError as e:
            log.warning("the server refused to hear how %d messages ended: %s", len(unsaid), e.message)
            self._forget(unsaid)

    def _forget(self, tags: Sequence[str] | dict[str, Reject | None]) -> None:
        with self._lock:
            for tag in tags:
                self._unsaid.pop(tag, None)
                self._held.discard(tag)

    def _keep(self) -> None:
        """Renew what is held when no poll does: the main loop is busy, or backs off."""
        while not self._closed.wait(self._lease_secs / 6):
            with self._lock:
                due = self._held and time.monotonic() - self._renewed >= self._lease_secs / 3
                tags = sorted(self._held)
            if not due:
                continue
            try:
                self._say()
                stale = self._source.extend(Settle(session=self.id, tags=tags))
            except DbwardError as e:
                log.debug("leases were not renewed: %s", e.message)
                continue
            with self._lock:
                self._held -= set(stale)
                self._renewed = time.monotonic()
