"""The state store: short reads from a pool, and every write through one thread that commits many of them at once.

A commit costs an fsync, and on PostgreSQL a turn at the head of the audit chain, so writes that wait together are
committed together. They run in one transaction without savepoints; when one fails, all of it is rolled back and run
again with each behind a savepoint, so that only the effects of the failing one are undone. When even the transaction
does not survive, each gets its own.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, Literal, NoReturn, TypeVar, cast

import psycopg2
from psycopg2 import extensions as pg
from sqlalchemy import Connection, Engine, RootTransaction, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from dbward.db import connect, revisions, servers
from dbward.db.filesystem import Filesystem, filesystem_of
from dbward.db.listen import CHANNEL, Listener, encode
from dbward.db.rows import RequestRow
from dbward.errors import Misconfigured, Unavailable
from dbward.settings.server import StateSettings

__all__ = ["Connection", "Store", "Tx", "end_process", "open_store"]

T = TypeVar("T")
log = logging.getLogger(__name__)

MAX_BATCH: Final = 128
MAX_QUEUE: Final = 2048  # several times the threads of a server; waiting longer than that only makes clients give up
_BATCH_SECS: Final = 0.05  # of work before the commit, so that the first of many slow ones does not wait for the last
_STUCK_SECS: Final = 30
_HEAD: Final = text("SELECT id FROM audit_head WHERE id = 1 FOR UPDATE")
_NO_HEAD: Final = text("SELECT pg_advisory_xact_lock(7236273)")  # stands in for the row until it is there
_NOTIFY: Final = text("SELECT pg_notify(:channel, :payload)")


class Tx:
    """One piece of work inside a write: the connection, and what is to happen once it is committed."""

    __slots__ = ("callbacks", "channels", "conn", "moved")

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.channels: set[str] = set()
        self.callbacks: list[Callable[[], None]] = []
        self.moved: list[RequestRow] = []
        """Requests that were made, or whose status changed: the store's owner is told of them after the commit."""

    def wake(self, *channels: str) -> None:
        """Wake whoever waits on these channels, here and in other replicas, after the commit and only then."""
        self.channels.update(channels)

    def after_commit(self, fn: Callable[[], None]) -> None:
        """Run `fn` on the writer's thread after the commit and before `write` returns. Keep it short; what it raises is
        logged.
        """
        self.callbacks.append(fn)


class _Item(Generic[T]):
    """A piece of work on its way through the writer, and what became of it."""

    __slots__ = ("done", "error", "result", "tx", "work")

    def __init__(self, work: Callable[[Tx], T]) -> None:
        self.work = work
        self.done = threading.Event()
        self.tx: Tx | None = None
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self, conn: Connection, transaction: RootTransaction) -> None:
        self.tx, self.error = Tx(conn), None
        self.result = self.work(self.tx)
        if not (transaction.is_active and connect.in_transaction(conn)):
            raise RuntimeError("the work swallowed a database error, or ended the transaction: use conn.begin_nested()")

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.done.set()


class _NotBegun(Exception):
    """No transaction could be begun; nothing was run. The text is `connect.reason`."""


class _CommitUnknown(Exception):
    """The connection was lost while the commit was on its way: it may have happened. The text is `connect.reason`."""


class _Fatal(Exception):
    """The file cannot be trusted any more."""


class Store:
    """The state database. Opened by `open_store`, shared by the threads of one process; after a fork each process opens
    its own.
    """

    def __init__(
        self,
        writer: Engine,
        readers: Engine,
        *,
        on_wake: Callable[[frozenset[str]], None],
        on_moved: Callable[[RequestRow], None],
        on_fatal: Callable[[BaseException], None],
        max_queue: int = MAX_QUEUE,
    ) -> None:
        self.dialect = cast("Literal['sqlite', 'postgresql']", writer.dialect.name)
        self._writer, self._readers = writer, readers
        self._on_wake, self._on_moved, self._on_fatal = on_wake, on_moved, on_fatal
        self._max_queue = max_queue
        self.id = uuid.uuid4().hex
        """Tells this server, and its notifications, from the others on the state."""
        self._queue: deque[_Item[Any]] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._closing = False
        self._batch_started: float | None = None
        self._listener: Listener | None = None
        self._thread = threading.Thread(target=self._run, name="dbward-writer", daemon=True)
        self._thread.start()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one snapshot and cannot write. Keep it short: never wait for anything while holding
        it.

        Raises `Unavailable` when the database cannot be reached or every connection is taken.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("read() inside write() does not see the write's own changes: use tx.conn")
        try:
            with self._readers.connect() as conn, conn.begin():
                yield conn
        except (DBAPIError, PoolTimeout) as error:
            if connect.is_io_error(error):
                self._lost(error)
            if (seen := connect.translate(error)) is error:
                raise
            raise seen from error

    def write(self, work: Callable[[Tx], T]) -> T:
        """Run `work` in a transaction and return its result once that is durable.

        `work` may run more than once and shares its transaction with others: it must change nothing but the database
        and its own `tx`, must not commit, and must not swallow a database error (an expected one goes inside
        `tx.conn.begin_nested()`). What it raises reaches the caller with all of its effects undone. Raises
        `Unavailable` when too many writes are waiting, the store is closed, or the database is lost; when it was lost
        during the commit itself, the change may have been made.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("write() inside write() would wait for itself: use the tx that was passed in")
        item = _Item(work)
        with self._changed:
            if self._closing or not self._thread.is_alive():
                raise Unavailable("the state store is closed")
            if len(self._queue) >= self._max_queue:
                raise Unavailable("too many writes are waiting", hint="try again in a few seconds")
            self._queue.append(item)
            self._changed.notify()
        item.done.wait()
        if item.error is not None:
            try:
                raise item.error
            finally:
                del item  # else the error's traceback and this frame keep each other alive
        return cast("T", item.result)

    def ping(self) -> None:
        """Raise `Unavailable` unless the database answers and the writer makes progress."""
        started = self._batch_started
        if not self._thread.is_alive() or (started is not None and time.monotonic() - started > _STUCK_SECS):
            raise Unavailable("the writer of the state store makes no progress")
        with self.read() as conn:
            conn.execute(text("SELECT 1"))

    def listen(self, open_connection: Callable[[], pg.connection]) -> None:
        """Also pass on what other replicas wake (PostgreSQL)."""
        self._listener = Listener(open_connection, self._on_wake, own_id=self.id)

    def close(self) -> None:
        """Finish what is queued, refuse what comes later, and let go of the database. May be called twice."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if self._listener is not None:
            self._listener.close()
        self._readers.dispose()
        self._writer.dispose()  # the last connection to SQLite: its close moves the log into the file

    # The rest runs on the writer's thread, but for `_lost`.

    def _run(self) -> None:
        items: list[_Item[Any]] = []
        try:
            while items := self._next():
                self._batch_started = time.monotonic()
                self._process(items)
                self._batch_started = None
        except _Fatal as error:
            self._lost(error)
        finally:
            with self._changed:
                self._closing = True
                items += self._queue
                self._queue.clear()
            _unavailable(items, "the state store has stopped")

    def _lost(self, error: BaseException) -> None:
        """End it: what is committed is safe, and whoever opens the file next starts from there."""
        log.critical(
            "the state database cannot be trusted any more: %s. This server ends, so that another one starts anew",
            error,
        )
        self._on_fatal(error)

    def _next(self) -> list[_Item[Any]]:
        """What is waiting, at most a batch; empty when the store is closed and all is done."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            return [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]

    def _process(self, items: list[_Item[Any]]) -> None:
        """See every item to its end. Raises _Fatal."""
        try:
            self._together(items)
        except _NotBegun as error:
            _unavailable(items, f"the state database is not available{error}")
        except _CommitUnknown as error:
            self._unknown(items, error)
        except _Fatal:
            raise
        except BaseException as error:  # noqa: BLE001 whatever a caller's work raised is that caller's
            if len(items) == 1 and not connect.is_disconnect(error):
                items[0].fail(connect.translate(error))
            else:
                self._replay(items)

    def _replay(self, items: list[_Item[Any]]) -> None:
        """Run a failed batch again: behind savepoints, and if the transaction does not survive that, one by one. Raises
        _Fatal.
        """
        if len(items) > 1:
            try:
                self._together(items, isolate=True)
                return
            except _CommitUnknown as error:
                self._unknown(items, error)
                return
            except _Fatal:
                raise
            except BaseException as error:  # noqa: BLE001 see _process
                log.warning("a batch of %d writes runs again one by one: %s", len(items), error)
        for n, item in enumerate(items):
            try:
                self._together([item])
            except _NotBegun as error:  # without a database the rest need not try
                _unavailable(items[n:], f"the state database is not available{error}")
                return
            except _CommitUnknown as error:
                self._unknown([item], error)
            except _Fatal:
                raise
            except BaseException as error:  # noqa: BLE001 see _process
                item.fail(connect.translate(error))

    def _together(self, items: list[_Item[Any]], *, isolate: bool = False) -> None:
        """Run items in one transaction, commit it and deliver the results.

        Without `isolate` the first error ends it; with it, an item's error is kept for its caller. When the work takes
        long, the items that were not run yet go back to the queue and leave the list.
        """
        conn, transaction = self._begin()
        try:
            until = time.monotonic() + _BATCH_SECS
            for n, item in enumerate(items):
                if n and time.monotonic() > until:
                    self._queue.extendleft(reversed(items[n:]))
                    del items[n:]
                    break
                if isolate:
                    _isolated(item, conn, transaction)
                else:
                    item.run(conn, transaction)
            kept = [item for item in items if item.error is None]
            channels = _channels(kept)
            if channels and self.dialect == "postgresql":
                payloads = encode(channels, sender=self.id)
                conn.execute(_NOTIFY, [{"channel": CHANNEL, "payload": payload} for payload in payloads])
            self._commit(transaction)
        except BaseException as error:
            with suppress(SQLAlchemyError):  # the connection may be gone, and the transaction with it
                conn.rollback()
            if connect.is_fatal(error):
                raise _Fatal(str(error)) from error
            raise
        finally:
            with suppress(SQLAlchemyError):
                conn.close()
        self._deliver(items, kept, channels)

    def _begin(self) -> tuple[Connection, RootTransaction]:
        """A transaction that holds the head of the audit chain. A stale connection is replaced once. Raises _NotBegun,
        _Fatal.
        """
        for attempt in (1, 2):
            conn = None
            try:
                conn = self._writer.connect()
                transaction = conn.begin()
                if self.dialect == "postgresql" and conn.execute(_HEAD).first() is None:
                    conn.execute(_NO_HEAD)
                    conn.execute(_HEAD)  # another may have written it while we waited
                return conn, transaction
            except SQLAlchemyError as error:
                if conn is not None:
                    with suppress(SQLAlchemyError):
                        conn.close()
                if connect.is_fatal(error):
                    raise _Fatal(str(error)) from error
                if attempt == 2 or not connect.is_disconnect(error):
                    raise _NotBegun(connect.reason(error)) from error
        raise AssertionError

    def _commit(self, transaction: RootTransaction) -> None:
        try:
            transaction.commit()
        except DBAPIError as error:
            # SQLite's commit is local: it failed. PostgreSQL's may have arrived although the answer did not.
            if self.dialect == "postgresql" and connect.is_disconnect(error):
                log.warning("the state database was lost during a commit: %s", connect.first_line(error))
                raise _CommitUnknown(connect.reason(error)) from error
            raise

    def _deliver(self, items: Sequence[_Item[Any]], kept: Sequence[_Item[Any]], channels: frozenset[str]) -> None:
        for item in kept:
            assert item.tx is not None
            moved: list[Callable[[], None]] = [partial(self._on_moved, row) for row in item.tx.moved]
            for fn in (*item.tx.callbacks, *moved):
                try:
                    fn()
                except Exception:
                    log.exception("a callback after the commit failed")
        self._wake(channels)
        for item in items:
            item.tx = None
            item.done.set()

    def _unknown(self, items: Sequence[_Item[Any]], error: _CommitUnknown) -> None:
        self._wake(_channels(items))  # waking in vain is harmless, and if it was committed, nobody else will
        _unavailable(items, f"the state database was lost during the commit, the change may have been made{error}")

    def _wake(self, channels: frozenset[str]) -> None:
        if channels:
            try:
                self._on_wake(channels)
            except Exception:
                log.exception("waking up the waiters failed")


def _isolated(item: _Item[Any], conn: Connection, transaction: RootTransaction) -> None:
    """Run an item behind a savepoint and keep its error. Raises when the transaction did not survive it."""
    savepoint = conn.begin_nested()
    try:
        item.run(conn, transaction)
        savepoint.commit()
    except BaseException as error:
        item.error = connect.translate(error)
        if connect.is_fatal(error) or conn.invalidated:
            raise
        savepoint.rollback()


def _channels(items: Sequence[_Item[Any]]) -> frozenset[str]:
    return frozenset().union(*(item.tx.channels for item in items if item.tx is not None))


def _unavailable(items: Sequence[_Item[Any]], message: str) -> None:
    for item in items:
        if not item.done.is_set():
            item.fail(Unavailable(message))


def _ignore(_row: RequestRow) -> None:
    return


def end_process(_error: BaseException) -> NoReturn:
    """Nothing more is written, not even what was begun."""
    os._exit(os.EX_IOERR)


def open_store(
    settings: StateSettings,
    *,
    on_wake: Callable[[frozenset[str]], None],
    on_moved: Callable[[RequestRow], None] = _ignore,
    on_fatal: Callable[[BaseException], None] = end_process,
    max_queue: int = MAX_QUEUE,
    look: Callable[[Path], Filesystem] = filesystem_of,
) -> Store:
    """Open the state database, which `migrate` has prepared.

    `on_wake` receives the channels woken by each commit, in this process and in other replicas (then also
    `listen.WAKE_ALL`, which means everybody), and `on_moved` each request that was made or moved here; neither may
    block. `on_fatal` is told when a SQLite file can no longer be trusted and by default ends the process. Waits for
    another process to let go of a SQLite file. Raises `Misconfigured`, or `Unavailable` when PostgreSQL cannot be
    reached.
    """
    connect.check_filesystem(settings, look)
    writer = connect.writer_engine(settings)
    try:
        connect.wait_until_open(writer, settings)
    except BaseException:
        writer.dispose()
        raise
    store = Store(
        writer,
        connect.reader_engine(settings),
        on_wake=on_wake,
        on_moved=on_moved,
        on_fatal=on_fatal,
        max_queue=max_queue,
    )
    if store.dialect == "postgresql":
        try:
            _join(store, settings, on_fatal)
        except psycopg2.Error as error:
            store.close()
            why = str(error).partition("\n")[0]
            raise Unavailable(f"the state database cannot be reached: {why}", code="state_unreachable") from error
        except BaseException:
            store.close()
            raise
    return store


def _join(store: Store, settings: StateSettings, on_fatal: Callable[[BaseException], None]) -> None:
    """Be one of the servers on the state, before this returns, and listen to the others. Raises Misconfigured,
    Unavailable.
    """
    first = [_enter(store, settings)]

    def enter() -> pg.connection:
        if first:
            return first.pop()
        try:
            return _enter(store, settings)
        except Misconfigured as error:
            log.critical("this server cannot go on: %s", error)
            on_fatal(error)
            raise Unavailable(error.message) from error
        except DBAPIError as error:  # an empty database in its place: somebody is putting a copy back, perhaps
            raise Unavailable(connect.first_line(error)) from error

    store.listen(enter)


def _enter(store: Store, settings: StateSettings) -> pg.connection:
    raw = connect.open_listener(settings)
    try:
        servers.enter(raw, store.id)
        with store.read() as conn:  # now that no migration can run that would make it wrong
            revisions.recheck(conn)
    except BaseException:
        raw.close()
        raise
    return raw
