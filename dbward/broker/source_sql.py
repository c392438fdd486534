"""The broker in the process that owns the state database: one transaction a verb, and polls that wait on the hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import inf
from time import monotonic
from typing import Protocol, TypeVar

from pydantic import BaseModel

from dbward.broker import store
from dbward.broker.names import parse_job_queue
from dbward.broker.options import QUEUE_EXPIRES, RECHECK
from dbward.broker.wake import Hub
from dbward.broker.wire import (
    PROTOCOL,
    Bind,
    Declare,
    Declared,
    Depths,
    Fetch,
    Fetched,
    OneQueue,
    Publish,
    QueueDepth,
    Reject,
    Release,
    Settle,
    Unbind,
    Welcome,
)
from dbward.db.engine import Tx
from dbward.settings.server import BrokerSettings

T = TypeVar("T")

SERVER = "server"
"""Owner of what the server's own process opens."""


class Writes(Protocol):
    """`db.engine.Store`, or whatever else can run a piece of work in a transaction."""

    def write(self, work: Callable[[Tx], T]) -> T: ...


Check = Callable[[Tx, str, BaseModel], None]
"""Called first in the transaction of a verb, with its name and what is asked; raises to refuse."""


def allow_all(tx: Tx, verb: str, ask: BaseModel) -> None:
    """Code of the server itself may do everything."""


@dataclass(frozen=True, slots=True)
class SqlSource:
    """`owner` is the token behind it. `on_poll` is told of each new poll of a session, in its transaction.

    Before anything is leased to a poll, `gone` says whether nobody is left to receive it, and `admit` raises when its
    caller is not let in any more. `gone` is also asked now and then while a poll waits, so it must be cheap.
    """

    db: Writes
    hub: Hub
    now: Callable[[], datetime]
    owner: str = SERVER
    settings: BrokerSettings = field(default_factory=BrokerSettings)
    check: Check = allow_all
    on_poll: Callable[[Tx, str, datetime], None] | None = None
    gone: Callable[[], bool] = lambda: False
    admit: Callable[[], None] = lambda: None

    def hello(self) -> Welcome:
        return Welcome(
            protocol=PROTOCOL,
            lease_ms=self.settings.lease // timedelta(milliseconds=1),
            max_wait_ms=self.settings.max_wait // timedelta(milliseconds=1),
        )

    def declare(self, ask: Declare) -> Declared:
        shortest, longest = QUEUE_EXPIRES
        expires = longest if ask.expires_ms is None else timedelta(milliseconds=ask.expires_ms)
        ttl = timedelta(milliseconds=ask.message_ttl_ms) if ask.message_ttl_ms is not None else None

        def work(tx: Tx) -> Declared:
            self.check(tx, "declare", ask)
            if parse_job_queue(ask.queue) is not None:
                store.ensure_job_queues(tx, [ask.queue])
            return store.declare(
                tx,
                ask.queue,
                owner=self.owner,
                session=ask.session,
                exclusive=ask.exclusive,
                expires=min(max(expires, shortest), longest),
                message_ttl=ttl,
                now=self.now(),
            )

        return self.db.write(work)

    def bind(self, ask: Bind) -> None:
        def work(tx: Tx) -> None:
            self.check(tx, "bind", ask)
            if parse_job_queue(ask.queue) is None:  # job queues are reached by their name alone
                store.bind(tx, ask.queue, exchange=ask.exchange, type=ask.type, routing_key=ask.routing_key)

        self.db.write(work)

    def unbind(self, ask: Unbind) -> None:
        def work(tx: Tx) -> None:
            self.check(tx, "unbind", ask)
            store.unbind(tx, ask.queue, exchange=ask.exchange, routing_key=ask.routing_key)

        self.db.write(work)

    def delete(self, ask: OneQueue) -> None:
        def work(tx: Tx) -> None:
            self.check(tx, "delete", ask)
            store.delete_queue(tx, ask.queue)

        self.db.write(work)

    def publish(self, ask: Publish) -> int:
        job = not ask.exchange and parse_job_queue(ask.routing_key) is not None

        def work(tx: Tx) -> int:
            self.check(tx, "publish", ask)
            if job:
                store.ensure_job_queues(tx, [ask.routing_key])
            return store.publish(
                tx,
                exchange=ask.exchange,
                routing_key=ask.routing_key,
                mid=ask.mid,
                message=ask.message,
                now=self.now(),
                job_id=ask.message["headers"]["id"] if job else None,
            )

        return self.db.write(work)

    def poll(self, ask: Fetch) -> SqlPoll:
        return SqlPoll(self, ask)

    def ack(self, ask: Settle) -> list[str]:
        def work(tx: Tx) -> list[str]:
            self.check(tx, "ack", ask)
            return store.ack(tx, ask.session, ask.tags)

        return self.db.write(work)

    def extend(self, ask: Settle) -> list[str]:
        def work(tx: Tx) -> list[str]:
            self.check(tx, "extend", ask)
            return store.extend(tx, ask.session, ask.tags, self.now() + self.settings.lease)

        return self.db.write(work)

    def reject(self, ask: Reject) -> list[str]:
        def work(tx: Tx) -> list[str]:
            self.check(tx, "reject", ask)
            delay = timedelta(milliseconds=ask.delay_ms)
            return store.reject(tx, ask.session, ask.tag, requeue=ask.requeue, now=self.now(), delay=delay)

        return self.db.write(work)

    def release(self, ask: Release) -> None:
        def work(tx: Tx) -> None:
            self.check(tx, "release", ask)
            store.release(tx, ask.session)

        self.db.write(work)

    def depths(self, ask: Depths) -> list[QueueDepth]:
        def work(tx: Tx) -> list[QueueDepth]:
            self.check(tx, "depths", ask)
            return [
                QueueDepth(queue=d.queue, ready=d.ready, leased=d.leased, dead=d.dead, oldest_secs=d.oldest_secs)
                for d in store.depths(tx.conn, self.now(), ask.queues)
            ]

        return self.db.write(work)

    def close(self) -> None:
        """Nothing is held open."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look found: an answer, or in how long a delayed message is due."""

    answer: Fetched | None
    due_secs: float = inf


class SqlPoll:
    """A poll that holds no connection while it waits: registered with the hub, it looks, waits, looks again."""

    def __init__(self, source: SqlSource, ask: Fetch) -> None:
        self._source, self._ask = source, ask
        self._queues = sorted({queue for group in ask.groups for queue in group.queues})
        self._channels = (f"session:{ask.session}", f"token:{source.owner}", *(f"queue:{q}" for q in self._queues))
        wait = min(ask.wait_ms / 1000, source.settings.max_wait.total_seconds())
        self._ends = monotonic() + wait
        self._opened = False

    def result(self, timeout: float) -> Fetched | None:
        source, until, due = self._source, monotonic() + timeout, 0.0
        woken = True
        with source.hub.listen(*self._channels) as waiter:
            while True:
                # Nothing is handed out to nobody, nor by a server that is about to stop.
                if source.hub.closing or source.gone():
                    return Fetched()
                now = monotonic()
                if woken or now >= due:
                    source.admit()
                    look = source.db.write(self._look if self._opened else self._first_look)
                    self._opened = True
                    if look.answer is not None:
                        return look.answer
                    now = monotonic()
                    due = now + look.due_secs
                if now >= self._ends:
                    return Fetched()
                if now >= until:
                    return None
                woken = waiter.wait(min(until, self._ends, due, now + RECHECK.total_seconds()) - now)

    def close(self) -> None:
        """Nothing is in flight between two calls of `result`."""

    def _first_look(self, tx: Tx) -> _Look:
        source, ask, now = self._source, self._ask, self._source.now()
        source.check(tx, "fetch", ask)
        wait = min(timedelta(milliseconds=ask.wait_ms), source.settings.max_wait)
        alive_until = now + wait + source.settings.lease
        if not store.open_poll(tx, ask.session, token_id=source.owner, seq=ask.seq, alive_until=alive_until):
            return _Look(Fetched())
        store.ensure_job_queues(tx, [queue for queue in self._queues if parse_job_queue(queue) is not None])
        stale = store.extend(tx, ask.session, ask.have, now + source.settings.lease)
        store.take_back_unknown(tx, ask.session, ask.have)
        store.touch_queues(tx, self._queues, now=now, wait=wait)
        if source.on_poll is not None:
            source.on_poll(tx, ask.session, now)
        return self._lease(tx, now, stale)

    def _look(self, tx: Tx) -> _Look:
        if not store.is_newest_poll(tx.conn, self._ask.session, self._ask.seq):
            return _Look(Fetched())
        return self._lease(tx, self._source.now(), [])

    def _lease(self, tx: Tx, now: datetime, stale: list[str]) -> _Look:
        missing = set(self._queues) - store.find_queues(tx.conn, self._queues).keys()
        if missing:
            raise store.unknown_queue(min(missing))
        settings = self._source.settings
        handed = store.lease(
            tx,
            self._ask.session,
            self._ask.groups,
            now=now,
            until=now + settings.lease,
            cap=settings.delivery_cap,
        )
        if handed or stale:
            return _Look(Fetched(messages=handed, stale=stale))
        due = store.next_due(tx.conn, self._queues, now)
        return _Look(None, (due - now).total_seconds() if due is not None else inf)
