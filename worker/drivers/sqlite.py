"""SQLite, over the sqlite3 module: no pool, no SQLAlchemy, since the authorizer and the progress handler belong to the
connection and the text must arrive as it came."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Self
from urllib.parse import quote

from sqlalchemy import Connection

from dbward.domain.model import Dialect, Limits, StatementError
from dbward.domain.plans import Plan
from dbward.errors import Misconfigured
from worker.drivers.base import Broken, Outcome, Script
from worker.drivers.errors import StatementFailed, Unreachable
from worker.drivers.explain import explain
from worker.drivers.ledger import Ledger
from worker.drivers.ledger_sqlite import SqliteLock, read
from worker.drivers.migrating import migrate
from worker.drivers.reflect import LOCK_WAIT_SECS, TIMEOUT_SECS, catalog_engine, reading
from worker.drivers.run import LOCK_WAIT, LinkLost, run, timed_out
from worker.drivers.sqlite_guard import guard, plan_guard
from worker.drivers.stopper import Stopped, Stopper
from worker.drivers.urls import no_database
from worker.rows import Results, RowSink, named_columns
from worker.values import from_text
from worker.values_sqlite import column_types, from_stored

FETCH_ROWS = 256
CHECK_EVERY = 20_000
"""Virtual machine instructions between looks at the clock: well under a millisecond."""
LARGEST_VALUE = 256 * 1024 * 1024
"""Bytes of one string, blob or row: SQLite lives in the agent's own memory."""
BUSY_PAUSE = 0.02
TYPED_TEXT = 100_000
"""Longer statements are not compiled a second time for the sake of their columns' declared types."""

_GONE = ("SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CANTOPEN")
_FOREIGN_KEYS = "?foreign_keys="
"""The one option. Off is SQLite's own default, and what dropping and rebuilding tables counts on."""
_TYPES_VIEW = "dbward_column_types"


class SqliteDriver:
    """What follows `sqlite:///` is a path, character by character: nothing in it is percent-decoded."""

    dialect = Dialect.SQLITE

    def __init__(self, url: str) -> None:
        host, slash, rest = url.partition("://")[2].partition("/")
        if host or not slash:
            raise Misconfigured(
                "a sqlite URL has no host", hint="four slashes before an absolute path: sqlite:////srv/app/data.db"
            )
        name, _, foreign_keys = rest.partition(_FOREIGN_KEYS)
        path = "/" + name.lstrip("/")
        if path == "/":
            raise no_database()
        if path == "/:memory:":
            raise Misconfigured("a sqlite database in memory would be empty; name a file")
        if foreign_keys not in ("", "on", "off"):
            raise Misconfigured("foreign_keys in the database URL must be on or off")
        self._path = Path(path)
        self._foreign_keys = foreign_keys == "on"
        self._catalog = catalog_engine("sqlite://", self._connect)

    def ping(self) -> None:
        self.open().close()

    def open(self) -> SqliteSession:
        """Connects once, read-only, to see that it is a database; the run's own connection knows what it is for."""
        try:
            probe = connect(self._path, read_only=True)
            try:
                probe.execute("PRAGMA schema_version").fetchone()
            finally:
                probe.close()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
                return SqliteSession(self._path, foreign_keys=self._foreign_keys)
            raise Unreachable(f"cannot open {self._path}: {_reason(self._path, error)}") from None
        return SqliteSession(self._path, foreign_keys=self._foreign_keys)

    def reflect(self) -> AbstractContextManager[Connection]:
        # Without a transaction: each look is as short as it can be, since it may keep a writer from committing.
        return reading(self._catalog, settings=[f"PRAGMA busy_timeout = {LOCK_WAIT_SECS * 1000}"])

    def lock_migrations(self) -> SqliteLock | None:
        return SqliteLock.take(self._path)

    def ledger(self) -> Ledger:
        return read(self._connect())

    def close(self) -> None:
        """Nothing is kept open between sessions."""

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = connect(self._path, read_only=True)
        except sqlite3.Error as error:
            raise Unreachable(f"cannot open {self._path}: {_reason(self._path, error)}") from None
        due = monotonic() + TIMEOUT_SECS
        connection.set_progress_handler(lambda: int(monotonic() >= due), CHECK_EVERY)
        return connection


class SqliteSession:
    def __init__(self, path: Path, *, foreign_keys: bool) -> None:
        self._link = _Link(path, foreign_keys=foreign_keys, stopped=lambda: self._stopper.reason is not None)
        self._stopper = Stopper(interrupt=self._link.interrupt, abandon=self._link.interrupt)

    def run(self, statements: Sequence[str], *, read_only: bool, limits: Limits, sink: RowSink) -> Outcome:
        return run(self._link, self._stopper, statements, read_only=read_only, limits=limits, sink=sink)

    def explain(self, statement: str, *, timeout: timedelta) -> Plan:
        self._link.plans = True
        return explain(Dialect.SQLITE, self._link, self._stopper, statement, timeout=timeout)

    def migrate(self, script: Script, *, limits: Limits) -> Broken | None:
        return migrate(self._link, self._stopper, script, limits=limits, gentle=False)

    def cancel(self) -> None:
        self._stopper.cancel()

    def close(self) -> None:
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Never creates the file."""
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={'ro' if read_only else 'rw'}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=0,
    )
    connection.text_factory = from_text
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
    return connection


class _Link:
    def __init__(self, path: Path, *, foreign_keys: bool, stopped: Callable[[], bool]) -> None:
        self.notices: list[str] = []
        self.kept: str | None = None
        self.plans = False
        self._path = path
        self._foreign_keys = foreign_keys
        self._stopped = stopped
        self._connection: sqlite3.Connection | None = None
        self._timeout = 0.0
        self._lock_wait = LOCK_WAIT
        self._overdue = False

    def begin(self, *, read_only: bool, limits: Limits) -> None:
        with self._translated():
            connection = self._connect(limits, read_only=read_only)
            if read_only:
                self._patiently(lambda: _meet_virtual_tables(connection))
                connection.execute("BEGIN")
                self._patiently(lambda: connection.execute("SELECT 1 FROM sqlite_master").fetchone())  # the snapshot
            else:
                self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"))

    def begin_file(self, *, transactional: bool, limits: Limits) -> None:
        if transactional:
            self.begin(read_only=False, limits=limits)
            return
        with self._translated():
            connection = self._connect(limits, read_only=False)
            connection.execute(f"PRAGMA busy_timeout = {self._lock_wait * 1000:.0f}")

    def execute_alone(self, sql: str, results: Results) -> None:
        self.execute(sql, results, last=False, read_only=False)

    def record_alone(self, records: Sequence[str]) -> None:
        connection = self._open()
        with self._translated():
            self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"), stoppable=False)
            for sql in records:
                connection.execute(sql)
        self.commit()

    def forget(self) -> None:
        """The session ends with its connection."""

    def _connect(self, limits: Limits, *, read_only: bool) -> sqlite3.Connection:
        self._timeout = limits.statement_timeout.total_seconds()
        self._lock_wait = min(self._timeout or LOCK_WAIT, LOCK_WAIT)
        self._connection = connection = connect(self._path, read_only=read_only)
        connection.execute(f"PRAGMA foreign_keys = {'ON' if self._foreign_keys else 'OFF'}")
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection

    def execute(self, sql: str, results: Results, *, last: bool, read_only: bool) -> int:
        connection = self._open()
        declared = _declared_types(connection, sql) if read_only and not self.plans else ()
        self._watch_the_clock(connection)
        connection.set_authorizer(plan_guard if self.plans else guard(read_only=read_only))
        before = connection.total_changes
        with self._translated():
            try:
                cursor = connection.execute(sql)
                if cursor.description is not None:
                    self._rows(cursor, declared, results, last=last, read_only=read_only)
                cursor.close()
            finally:
                connection.set_authorizer(None)
                connection.set_progress_handler(None, 0)
            if connection.total_changes == before:
                return 0
            changes: int = connection.execute("SELECT changes()").fetchone()[0]
            return changes

    def commits_by_itself(self, sql: str) -> bool:  # noqa: ARG002  the guard refuses whatever would
        return False

    def settle(self) -> None:
        """Deferred foreign keys are checked by the commit, at once, and it can be refused."""

    def commit(self) -> None:
        connection = self._open()
        try:
            self._patiently(lambda: connection.execute("COMMIT"), stoppable=False)
        except sqlite3.Error as error:
            if connection.in_transaction:
                raise self._failure(error) from None
            raise LinkLost(str(error)) from None

    def undo(self) -> None:
        if self._connection is None:
            return
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            self.close()  # closing rolls back as well

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def interrupt(self) -> None:
        """Also while a statement is between two looks at the clock; without effect when none runs."""
        connection = self._connection
        if connection is not None:
            with suppress(sqlite3.ProgrammingError):  # closed meanwhile
                connection.interrupt()

    def _rows(
        self, cursor: sqlite3.Cursor, declared: Sequence[str], results: Results, *, last: bool, read_only: bool
    ) -> None:
        rows = cursor.fetchmany(FETCH_ROWS)
        names = [column[0] for column in cursor.description]
        types = column_types(declared, len(names), rows)
        writer = results.open(named_columns(list(zip(names, types, strict=True))), last=last)
        while rows:
            for row in rows:
                if not writer.add([from_stored(value) for value in row]):
                    break
            if writer.full and read_only:
                return
            rows = cursor.fetchmany(FETCH_ROWS)

    def _watch_the_clock(self, connection: sqlite3.Connection) -> None:
        due = monotonic() + self._timeout if self._timeout else None

        def check() -> int:
            if due is not None and monotonic() >= due:
                self._overdue = True
            return int(self._overdue or self._stopped())

        connection.set_progress_handler(check, CHECK_EVERY)

    def _patiently(self, step: Callable[[], object], *, stoppable: bool = True) -> None:
        """Waits for other connections' locks here, since SQLite's own waiting cannot be interrupted."""
        give_up = monotonic() + self._lock_wait
        while True:
            try:
                step()
                return
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or monotonic() >= give_up:
                    raise
            if stoppable and self._stopped():
                raise Stopped
            sleep(BUSY_PAUSE)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise LinkLost("the connection is closed")
        return self._connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> Exception:
        name = getattr(error, "sqlite_errorname", None)
        if name == "SQLITE_INTERRUPT" and self._overdue:
            return StatementFailed(timed_out())
        if name is not None and name.startswith(_GONE):
            return LinkLost(str(error))
        hint = None
        if name == "SQLITE_AUTH" or "not authorized" in str(error):
            hint = "dbward does not let a statement attach files, load code, change settings or end its transaction."
        return StatementFailed(
            StatementError(StatementFailed.code, str(error), detail=None if name is None else f"{name}.", hint=hint)
        )


def _declared_types(connection: sqlite3.Connection, sql: str) -> Sequence[str]:
    """Declared types of a query's columns, "" for expressions; empty when SQLite cannot tell.

    The sqlite3 module does not give `sqlite3_column_decltype`; a temporary view over the same text does. It is compiled
    for its columns and never run.
    """
    if len(sql) > TYPED_TEXT:
        return ()
    try:
        connection.execute(f"CREATE TEMP VIEW {_TYPES_VIEW} AS {sql}")
        try:
            return [row[2] for row in connection.execute(f"PRAGMA temp.table_info({_TYPES_VIEW})")]
        finally:
            connection.execute(f"DROP VIEW temp.{_TYPES_VIEW}")
    except (sqlite3.Error, sqlite3.Warning):
        return ()


def _meet_virtual_tables(connection: sqlite3.Connection) -> None:
    """A virtual table's first use on a connection declares its columns, which the guard would take for a write."""
    connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')").fetchone()
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL%'")
    for (name,) in names.fetchall():
        quoted = name.replace('"', '""')
        with suppress(sqlite3.OperationalError):  # of a module this process does not have
            connection.execute(f'SELECT 1 FROM "{quoted}" LIMIT 0').fetchone()  # noqa: S608  quoted


def _reason(path: Path, error: sqlite3.Error) -> str:
    if not path.exists():
        return "there is no such file"
    return "it is not a SQLite database" if error.sqlite_errorname == "SQLITE_NOTADB" else str(error)
