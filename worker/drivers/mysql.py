"""MySQL and MariaDB, over PyMySQL.

No SQLAlchemy between: a cursor without arguments sends the text as it came, values arrive as the bytes the server
printed, rows are read one packet at a time. A session is a fresh connection. The server allows one statement a text
(MULTI_STATEMENTS stays off), and DDL, account and table administration commit implicitly whatever one does: the list
goes on in a new transaction, and the outcome says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import pymysql
import sqlalchemy
from pymysql.constants import CR, ER, SERVER_STATUS
from pymysql.cursors import SSCursor

from dbward.domain.model import Dialect, Limits, StatementError
from dbward.domain.plans import Plan
from worker.drivers.base import Broken, Outcome, Script
from worker.drivers.errors import CredentialsRefused, StatementFailed, Unreachable
from worker.drivers.explain import CHANGES, NOT_PLANNED, explain
from worker.drivers.ledger import Ledger
from worker.drivers.ledger_mysql import MysqlLock, lock_name, read
from worker.drivers.migrating import BUSY, migrate
from worker.drivers.mysql_account import Account, Connection, cut, parts_of
from worker.drivers.reflect import LOCK_WAIT_SECS, TIMEOUT_SECS, catalog_engine, reading
from worker.drivers.run import LOCK_WAIT, LinkLost, run, timed_out
from worker.drivers.stopper import Stopper
from worker.drivers.words import first_word
from worker.rows import Results, RowSink, RowWriter, named_columns
from worker.values_mysql import Field, column_type, reader

SQL_MODE = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
"""Pinned: with ANSI_QUOTES or NO_BACKSLASH_ESCAPES the text that was approved would mean something else."""
_CHARSET = ", ".join(f"SESSION character_set_{what} = utf8mb4" for what in ("client", "connection", "results"))
"""Pinned for the same reason: in some others a backslash is the second half of a letter, and a quote behind it ends."""
WRITE_TIMEOUT_SECS = 600
"""How long the server waits for us to read on; its default of 60 would end a result whose upload stalls."""
KILL_TIMEOUT = 5.0
_BEGIN = "START TRANSACTION"

_LOST = {CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, 2055, ER.SERVER_SHUTDOWN, 1077, 1079, 1080, 1152, 1927, 4031, 0}
_TIMED_OUT = {1969, 3024}
_ROLLED_BACK = {ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT, 1614}
"""Errors after which the server has rolled back the whole transaction; others that end it have committed it."""
_NOT_ROLLED_BACK = 1196
_UNKNOWN_TABLE = 1051
_NAME = re.compile(r"[\w$]+")
_CODE = (
    "SELECT table_name FROM information_schema.views"
    " WHERE table_schema NOT IN ('sys', 'mysql', 'information_schema', 'performance_schema')"
    " UNION SELECT routine_name FROM information_schema.routines"
    " WHERE routine_type = 'FUNCTION' AND routine_schema <> 'sys'"
)
"""The views and functions that this account may use, in whichever database."""

_TRANSACTIONAL = frozenset(
    {"SELECT", "WITH", "VALUES", "TABLE", "INSERT", "UPDATE", "DELETE", "REPLACE"}
    | {"SHOW", "EXPLAIN", "DESCRIBE", "DESC", "DO"}
)
"""First words of statements that never commit by themselves and give one result at most."""
_RETURNING = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE"})
_COUNTED = _RETURNING | {"WITH", "LOAD", "CALL", ""}
"""DDL reports counts of its own, of tables or of copied rows."""


class MysqlDriver:
    dialect = Dialect.MYSQL

    def __init__(self, url: str) -> None:
        self._account = Account.read(url)
        self._catalog = catalog_engine("mysql+pymysql://", self._connect)

    def ping(self) -> None:
        with self.open() as session:
            session.ping()

    def open(self) -> MysqlSession:
        return MysqlSession(self._account)

    def reflect(self) -> AbstractContextManager[sqlalchemy.Connection]:
        # Without a transaction: in one, a table that was looked at could not be altered until its end.
        return reading(self._catalog, settings=[], isolation_level="AUTOCOMMIT")

    def lock_migrations(self) -> MysqlLock | None:
        return MysqlLock.take(self._account)

    def ledger(self) -> Ledger:
        return read(self._account)

    def close(self) -> None:
        """Nothing is kept open between sessions."""

    def _connect(self) -> Connection:
        connection, line = self._account.connect(read_timeout=TIMEOUT_SECS + LOCK_WAIT_SECS, decoded=True)
        line.close()
        try:
            with connection.cursor() as cursor:
                for setting in _catalog_settings(connection.server_version):
                    cursor.execute(setting)
        except (pymysql.MySQLError, OSError) as error:
            connection.close()
            raise Unreachable(parts_of(error)[1]) from None
        return connection


class MysqlSession:
    def __init__(self, account: Account) -> None:
        self._link = _Link(account)
        self._stopper = Stopper(interrupt=self._link.interrupt, abandon=self._link.abandon)

    def ping(self) -> None:
        try:
            self._link.ask("SELECT 1")
        except (LinkLost, StatementFailed) as error:
            raise Unreachable(str(error)) from None

    def run(self, statements: Sequence[str], *, read_only: bool, limits: Limits, sink: RowSink) -> Outcome:
        return run(self._link, self._stopper, statements, read_only=read_only, limits=limits, sink=sink)

    def explain(self, statement: str, *, timeout: timedelta) -> Plan:
        # Neither server plans a change in a read-only transaction. The one it gets instead is rolled back as well, and
        # what rolling back does not undo is not reached: see `_refuse_code`.
        self._link.plans_change = first_word(statement) in CHANGES
        return explain(Dialect.MYSQL, self._link, self._stopper, statement, timeout=timeout)

    def migrate(self, script: Script, *, limits: Limits) -> Broken | None:
        return migrate(self._link, self._stopper, script, limits=limits, gentle=True)

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


class _Cursor(SSCursor):
    description: Any
    _result: Any

    def fields(self) -> list[tuple[str, Field]]:
        return [
            (field.name, Field(field.type_code, field.flags, field.charsetnr, field.length, field.scale))
            for field in self._result.fields
        ]

    def forget(self) -> None:
        """Lets go of a result that will not be read to its end: closing would read it."""
        if self._result is not None:
            self._result.unbuffered_active = False
            self._result.connection = None
            self._result.has_next = False
        self.connection = None  # type: ignore[assignment]  # as PyMySQL's own close does


class _Link:
    def __init__(self, account: Account) -> None:
        self.notices: list[str] = []
        self.kept: str | None = None
        self.plans_change = False
        self._account = account
        self._connection, self._line = account.connect()
        self._thread_id = self._connection.server_thread_id[0]
        self._mariadb = "mariadb" in self._connection.server_version.lower()
        self._begin = ""
        self._ran = 0
        self._reading: _Cursor | None = None

    def begin(self, *, read_only: bool, limits: Limits) -> None:
        """READ ONLY for the session as well: DDL ends a transaction before it begins, and would run outside it."""
        read_only = read_only and not self.plans_change
        self._set(limits)
        self._do(f"SET SESSION TRANSACTION READ {'ONLY' if read_only else 'WRITE'}")
        self._begin = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY" if read_only else _BEGIN
        self._do(self._begin)

    def begin_file(self, *, transactional: bool, limits: Limits) -> None:
        self._set(limits)
        # The run before, if it was ours, has given it up with its connection, which the server may yet have to notice.
        name = lock_name(self._account.database, "file")
        if self.ask(f"SELECT GET_LOCK('{name}', {LOCK_WAIT:.0f})") != [(b"1",)]:
            raise StatementFailed(BUSY)
        self._do("SET SESSION TRANSACTION READ WRITE")
        if transactional:
            self._begin = _BEGIN
            self._do(self._begin)

    def execute_alone(self, sql: str, results: Results) -> None:
        self.execute(sql, results, last=False, read_only=False)

    def record_alone(self, records: Sequence[str]) -> None:
        for sql in (_BEGIN, *records, "COMMIT"):
            self._do(sql)

    def forget(self) -> None:
        """The session ends with its connection."""

    def _set(self, limits: Limits) -> None:
        timeout = limits.statement_timeout.total_seconds()
        lock_wait = max(1, round(min(timeout or LOCK_WAIT, LOCK_WAIT)))
        limit = f"max_statement_time = {timeout:.3f}" if self._mariadb else f"max_execution_time = {timeout * 1000:.0f}"
        self._do(
            f"SET SESSION sql_mode = '{SQL_MODE}', {_CHARSET}, SESSION time_zone = '+00:00', SESSION autocommit = 1,"
            f" SESSION lock_wait_timeout = {lock_wait}, SESSION innodb_lock_wait_timeout = {lock_wait},"
            f" SESSION net_write_timeout = {WRITE_TIMEOUT_SECS}, SESSION {limit}"
        )

    def execute(self, sql: str, results: Results, *, last: bool, read_only: bool) -> int:
        if self.plans_change:
            self._refuse_code(sql)
        word = first_word(sql)
        affected = 0
        with self._translated():
            cursor = self._reading = _Cursor(self._connection)
            cursor.execute(sql)
            while True:
                if cursor.description is None:
                    affected += max(cursor.rowcount, 0) if word in _COUNTED else 0
                else:
                    count = self._rows(cursor, results, last=last and word in _TRANSACTIONAL, read_only=read_only)
                    if count is None:
                        return affected
                    affected += count if word in _RETURNING else 0
                if not cursor.nextset():
                    break
            self._reading = None
            cursor.close()
        self._ran += 1
        if not read_only and self._begin:
            self._follow(sql)
        return affected

    def commits_by_itself(self, sql: str) -> bool:
        return first_word(sql) not in _TRANSACTIONAL

    def settle(self) -> None:
        """Nothing is put off until the commit."""

    def commit(self) -> None:
        self._do("COMMIT")

    def undo(self) -> None:
        if not self._connection.open:
            return
        if self._reading is not None:
            self._cut()
            return
        try:
            warnings = self._do("ROLLBACK")
            if warnings and any(row[1] == str(_NOT_ROLLED_BACK).encode() for row in self.ask("SHOW WARNINGS")):
                self._keep("Changes to tables without transactions (MyISAM, Aria, MEMORY) stay.")
        except (LinkLost, StatementFailed):
            self.close()  # closing rolls back as well

    def close(self) -> None:
        self._forget()
        if self._connection.open:
            self._connection.close()
        self._line.close()

    def interrupt(self) -> None:
        """KILL QUERY from a connection of its own, the only way there is."""
        killer, line = self._account.connect(read_timeout=KILL_TIMEOUT)
        try:
            killer.query(f"KILL QUERY {self._thread_id}")
        finally:
            line.close()
            killer.close()

    def abandon(self) -> None:
        cut(self._line)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Runs our own SQL and returns its rows."""
        with self._translated(), self._connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def _refuse_code(self, sql: str) -> None:
        """Planning runs what a view or a stored function does, and changes of tables without transactions stay."""
        said = sql.casefold().replace("``", "`")
        words = set(_NAME.findall(said))
        for (name,) in self.ask(_CODE):
            known = name.decode(errors="replace").casefold()
            if known in words or (_NAME.fullmatch(known) is None and known in said):
                message = f"planning this change may run the code of the view or function {known}"
                raise StatementFailed(StatementError(NOT_PLANNED, message))

    def _do(self, sql: str) -> int:
        """Runs our own SQL and returns the number of warnings."""
        with self._translated(), self._connection.cursor() as cursor:
            cursor.execute(sql)
            return int(cursor.warning_count)

    def _rows(self, cursor: _Cursor, results: Results, *, last: bool, read_only: bool) -> int | None:
        """How many rows came; None when reading stopped at a full result, and the connection with it."""
        fields = cursor.fields()
        writer = results.open(named_columns([(name, column_type(field)) for name, field in fields]), last=last)
        readers = [reader(field) for _, field in fields]
        count = 0
        while (row := cursor.read_next()) is not None:
            count += 1
            if not writer.full:
                _write(row, readers, writer)
            if writer.full and last and read_only:
                self._cut()
                return None
        return count

    def _follow(self, sql: str) -> None:
        """After each statement: is this still our transaction?"""
        with self._translated():
            self._connection.ping(reconnect=False)
        if self._in_transaction():
            return
        self._keep(f"Statement {self._ran} and what came before it is committed: {_said(sql)} commits implicitly.")
        self._do(self._begin)

    def _in_transaction(self) -> bool:
        return bool(self._connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    def _keep(self, sentence: str) -> None:
        self.kept = f"{self.kept} {sentence}" if self.kept else sentence
        self.notices.append(sentence)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (pymysql.MySQLError, OSError) as error:
            number, message, sqlstate = parts_of(error)
            if number in _LOST or not self._connection.open:
                self._forget()
                raise LinkLost(message) from None
            self._reading = None
            failure = StatementError(StatementFailed.code, message, sqlstate=sqlstate, detail=f"MySQL error {number}.")
            if number in _TIMED_OUT:
                failure = timed_out(sqlstate)
            self._after_error(number)
            raise StatementFailed(failure) from None

    def _after_error(self, number: int) -> None:
        """A failed DDL statement has committed what came before it, too."""
        if not self._begin or number in _ROLLED_BACK:
            return
        try:
            self._connection.ping(reconnect=False)
        except (pymysql.MySQLError, OSError):
            return
        if self._in_transaction():
            return
        if self._ran:
            self._keep("What came before this statement is committed: it commits implicitly even when it fails.")
        elif number == _UNKNOWN_TABLE:
            self._keep("Other tables named in the statement may have been dropped.")

    def _cut(self) -> None:
        """Ends a statement under way together with its connection, which rolls back."""
        try:
            self.interrupt()
        except (pymysql.MySQLError, OSError, Unreachable, CredentialsRefused):
            pass
        finally:
            self.close()

    def _forget(self) -> None:
        if self._reading is not None:
            self._reading.forget()
            self._reading = None


def _catalog_settings(version: str) -> Iterator[str]:
    yield f"SET SESSION sql_mode = '{SQL_MODE}', SESSION lock_wait_timeout = {LOCK_WAIT_SECS}"
    yield "SET SESSION TRANSACTION READ ONLY"
    if "mariadb" in version.lower():
        yield f"SET SESSION max_statement_time = {TIMEOUT_SECS}"
    else:
        yield f"SET SESSION max_execution_time = {TIMEOUT_SECS * 1000}"
        yield "SET SESSION information_schema_stats_expiry = 0"  # else row counts are of yesterday


def _said(sql: str) -> str:
    return first_word(sql) or "it"


def _write(row: Sequence[bytes | None], readers: Sequence[Any], writer: RowWriter) -> None:
    writer.add([None if raw is None else read(raw) for raw, read in zip(row, readers, strict=True)])
