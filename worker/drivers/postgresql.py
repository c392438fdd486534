"""PostgreSQL, over psycopg's libpq layer.

Neither SQLAlchemy nor a psycopg cursor stands between: the text goes out as it came, in the extended protocol, so the
server itself refuses a second statement in it and no `%` is looked at; the columns' types are known before it runs; and
rows come in chunks with the connection never buffering more. A session is a fresh connection, so nothing is left of the
one before: no settings, locks, temporary tables or prepared statements. A pooler between does not change that.
"""

from __future__ import annotations

import os
import re
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from time import monotonic
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import conninfo, pq
from sqlalchemy import Connection

from dbward.domain.model import Dialect, Limits, StatementError
from dbward.domain.plans import Plan
from dbward.errors import Misconfigured
from worker.drivers.base import Broken, Outcome, Script
from worker.drivers.errors import CredentialsRefused, StatementFailed, Unreachable
from worker.drivers.explain import explain
from worker.drivers.ledger import Ledger
from worker.drivers.ledger_postgresql import TRY_FILE_LOCK, PostgresqlLock, read
from worker.drivers.migrating import BUSY, migrate
from worker.drivers.reflect import LOCK_WAIT_SECS, TIMEOUT_SECS, catalog_engine, reading
from worker.drivers.run import LOCK_WAIT, LinkLost, run, timed_out
from worker.drivers.stopper import Stopper
from worker.drivers.urls import connect_timeout, malformed, no_database, scrubbed
from worker.rows import Results, RowSink, RowWriter, named_columns
from worker.values_postgresql import PgTypes

CHUNK_ROWS = 256
CANCEL_TIMEOUT = 5.0
IDLE_IN_TRANSACTION_MS = 120_000

_REFUSED = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects|is not permitted to log in"
    r'|role "[^"]*" does not exist',
)
"""libpq gives no SQLSTATE for a refused connection, only the server's words."""

_QUERY_CANCELED = "57014"
"""Of a statement timeout and of `pg_cancel_backend` alike; the server's words differ, but are translated."""
_IN_TRANSACTION = "25001"
"""Of a statement that must not run in a transaction. The server looks at that first, so nothing of it has run."""
_COUNTED = ("INSERT", "UPDATE", "DELETE", "MERGE", "COPY")
_ENDS_TRANSACTION = ("COMMIT", "ROLLBACK", "PREPARE TRANSACTION")

_ROWS = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.SINGLE_TUPLE, pq.ExecStatus.TUPLES_CHUNK)
_COPIES = (pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH)

_ROLLBACK_AND_FORGET = (
    "ROLLBACK; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL; DEALLOCATE ALL; UNLISTEN *;"
    "SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES; DISCARD PLANS"
)
"""Rolling back leaves advisory locks and more with the session, and behind a pooler that outlives our connection. As
one message, since such a pooler may hand the next one to another session; DISCARD ALL would refuse to be part of it."""


class PostgresqlDriver:
    dialect = Dialect.POSTGRESQL

    def __init__(self, url: str) -> None:
        try:
            given: dict[str, Any] = conninfo.conninfo_to_dict(url)
        except psycopg.Error:  # its text may quote a part of the password
            raise malformed() from None
        if not given.get("dbname"):
            raise no_database()
        if "," in str(given.get("port", "")) or "," in str(given.get("host", "")):
            raise Misconfigured("the database URL names several hosts; name one")
        if not str(given.get("port", "5432")).isdecimal():  # what an unescaped / or ? in a password leads to
            raise malformed()
        self._password = given.get("password")
        self._parameters: dict[str, Any] = {
            "application_name": "dbward",
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            **given,
            "connect_timeout": max(2, round(connect_timeout(given))),
            "client_encoding": "UTF8",
        }
        self._types = PgTypes()
        # A prepared statement would be met again on another server connection behind a pooler.
        self._catalog = catalog_engine(
            "postgresql+psycopg://", lambda: self._connect(autocommit=False, prepare_threshold=None)
        )

    def ping(self) -> None:
        with self.open() as session:
            session.ping()

    def open(self) -> PostgresqlSession:
        return PostgresqlSession(self._connect(autocommit=True), self._types)

    def reflect(self) -> AbstractContextManager[Connection]:
        settings = [
            "SET LOCAL search_path = pg_catalog",  # so that every name comes with its schema
            f"SET LOCAL statement_timeout = {TIMEOUT_SECS * 1000}",
            f"SET LOCAL lock_timeout = {LOCK_WAIT_SECS * 1000}",
            f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS}",
        ]
        return reading(self._catalog, settings=settings, postgresql_readonly=True)

    def lock_migrations(self) -> PostgresqlLock | None:
        return PostgresqlLock.take(self._connect(autocommit=True, prepare_threshold=None))

    def ledger(self) -> Ledger:
        return read(self._connect(autocommit=True, prepare_threshold=None))

    def close(self) -> None:
        """Nothing is kept open between sessions."""

    def _connect(self, **options: Any) -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(**self._parameters, **options)
        except psycopg.Error as error:
            message = scrubbed(str(error).strip(), self._password)
            if _REFUSED.search(message):
                raise CredentialsRefused(message) from None
            raise Unreachable(message) from None


class PostgresqlSession:
    def __init__(self, connection: psycopg.Connection[Any], types: PgTypes) -> None:
        self._link = _Link(connection, types)
        self._stopper = Stopper(interrupt=self._link.interrupt, abandon=self._link.abandon)

    def ping(self) -> None:
        try:
            self._link.ask("SELECT 1")
        except (LinkLost, StatementFailed) as error:
            raise Unreachable(str(error)) from None

    def run(self, statements: Sequence[str], *, read_only: bool, limits: Limits, sink: RowSink) -> Outcome:
        return run(self._link, self._stopper, statements, read_only=read_only, limits=limits, sink=sink)

    def explain(self, statement: str, *, timeout: timedelta) -> Plan:
        return explain(Dialect.POSTGRESQL, self._link, self._stopper, statement, timeout=timeout)

    def migrate(self, script: Script, *, limits: Limits) -> Broken | None:
        return migrate(self._link, self._stopper, script, limits=limits, gentle=not script.transactional)

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


class _Link:
    def __init__(self, connection: psycopg.Connection[Any], types: PgTypes) -> None:
        self.notices: list[str] = []
        self.kept: str | None = None
        self._connection = connection
        self._pg = connection.pgconn
        self._types = types
        self._timeout = 0.0
        self._began = 0.0
        self._executed = 0
        self._by_itself = False
        self._asked = 0
        self._poll = select.poll()
        self._poll.register(self._pg.socket, select.POLLIN)
        self._line = socket.socket(fileno=os.dup(self._pg.socket))

    def begin(self, *, read_only: bool, limits: Limits) -> None:
        """One message: the settings last as long as the transaction, and `SELECT 1` takes its snapshot, after which
        the server refuses to make it read-write again."""
        self._timeout = limits.statement_timeout.total_seconds()
        timeout_ms = round(self._timeout * 1000)
        lock_ms = round(min(self._timeout or LOCK_WAIT, LOCK_WAIT) * 1000)
        self.ask(
            f"BEGIN {'READ ONLY' if read_only else 'READ WRITE'};"
            f"SET LOCAL statement_timeout = {timeout_ms};"
            f"SET LOCAL lock_timeout = {lock_ms};"
            f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS};"
            "SET LOCAL standard_conforming_strings = on;"
            "SET LOCAL DateStyle = 'ISO';"
            "SET LOCAL IntervalStyle = 'postgres';"
            "SET LOCAL TimeZone = 'UTC';"
            "SET LOCAL extra_float_digits = 1;"
            "SET LOCAL bytea_output = 'hex';"
            f"SET LOCAL client_encoding = '{self._encoding()}';"
            "SELECT 1"
        )

    def execute(self, sql: str, results: Results, *, last: bool, read_only: bool) -> int:
        alone = last and not self._executed and not read_only
        self._executed += 1
        try:
            return self._execute(sql.encode(), results, last=last, read_only=read_only)
        except StatementFailed as refused:
            if refused.error.sqlstate != _IN_TRANSACTION or not alone:
                raise
        self._leave_transaction(sql)
        return self._execute(sql.encode(), results, last=last, read_only=read_only)

    def begin_file(self, *, transactional: bool, limits: Limits) -> None:
        if transactional:
            self.begin(read_only=False, limits=limits)
            if self.ask(TRY_FILE_LOCK) != [[b"t"]]:
                raise StatementFailed(BUSY)
        else:  # without the lock: it would be the session's, and a pooler may keep that
            self._timeout = limits.statement_timeout.total_seconds()

    def execute_alone(self, sql: str, results: Results) -> None:
        self._set_outside(sql)
        try:
            self._execute(sql.encode(), results, last=False, read_only=False)
        except (StatementFailed, LinkLost):
            if _is_concurrent(sql):
                self.kept = "What it built concurrently may have stayed, such as an invalid index."
            raise

    def record_alone(self, records: Sequence[str]) -> None:
        self.ask(f"BEGIN; {'; '.join(records)}; COMMIT")

    def forget(self) -> None:
        with suppress(LinkLost, StatementFailed):
            self.ask(_ROLLBACK_AND_FORGET)

    def _leave_transaction(self, sql: str) -> None:
        """For VACUUM, CREATE INDEX CONCURRENTLY and their like."""
        self.ask("ROLLBACK")
        self._set_outside(sql)
        self.kept = "It ran outside a transaction, so a part of it may have stayed, such as an invalid index."

    def _set_outside(self, sql: str) -> None:
        """What is done concurrently waits for others without anybody waiting for it, so it may do so for all of its
        time."""
        wait = self._timeout if _is_concurrent(sql) else min(self._timeout or LOCK_WAIT, LOCK_WAIT)
        self.ask(f"SET statement_timeout = {round(self._timeout * 1000)}")
        self.ask(f"SET lock_timeout = {round(wait * 1000)}")
        self.ask("SET standard_conforming_strings = on")
        self._by_itself = True

    def _execute(self, text: bytes, results: Results, *, last: bool, read_only: bool) -> int:
        self._began = monotonic()
        fields = self._describe(text)
        writer = None
        if fields:
            before = self._asked
            readers = self._types.resolve([(oid, mod) for _, oid, mod in fields], self.ask)
            if self._asked != before:  # which took the place of the unnamed statement
                self._prepare(text)
            columns = named_columns([(name, kind) for (name, _, _), (kind, _) in zip(fields, readers, strict=True)])
            writer = results.open(columns, last=last)
        affected = 0
        self._send(lambda: self._pg.send_query_prepared(b"", [], result_format=pq.Format.TEXT))
        self._stream()
        for result in self._results():
            if result.status in _ROWS and writer is not None:
                _write(result, [reader for _, reader in readers], writer)
                if writer.full and last and read_only:
                    self._cut()
                    return affected
            if result.command_status:  # on the last result with rows, or on an empty one after it
                affected += self._finished(result)
        return affected

    def commits_by_itself(self, sql: str) -> bool:  # noqa: ARG002  nothing does inside a transaction block
        return self._by_itself

    def settle(self) -> None:
        """Deferred triggers, and the filling of cursors WITH HOLD, would run inside COMMIT, where statement_timeout is
        off and a lost line leaves the outcome unknown."""
        if self._by_itself:
            return
        self._began = monotonic()
        self.ask("SET CONSTRAINTS ALL IMMEDIATE; CLOSE ALL")

    def commit(self) -> None:
        if self._by_itself:
            self.ask(_ROLLBACK_AND_FORGET)  # the settings are the session's, and a pooler may keep that
            return
        tag = b""
        self._send(lambda: self._pg.send_query(b"COMMIT"))
        for result in self._results():
            tag = result.command_status or b""
        if tag != b"COMMIT":  # the server's way to say that the transaction had failed before
            raise StatementFailed(StatementError(StatementFailed.code, "the transaction was rolled back at the commit"))

    def undo(self) -> None:
        if self._pg.status != pq.ConnStatus.OK:
            return
        if self._pg.transaction_status == pq.TransactionStatus.ACTIVE:
            self._cut()
            return
        try:
            self.ask(_ROLLBACK_AND_FORGET)
        except (LinkLost, StatementFailed):
            self.close()  # closing rolls back as well

    def close(self) -> None:
        self._connection.close()
        self._line.close()

    def interrupt(self) -> None:
        self._connection.cancel_safe(timeout=CANCEL_TIMEOUT)

    def abandon(self) -> None:
        """Cuts the line, which wakes the thread that waits on it."""
        try:
            self._line.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def ask(self, sql: str) -> list[list[bytes | None]]:
        """Runs our own SQL and returns the rows of its last result."""
        self._asked += 1
        rows: list[list[bytes | None]] = []
        self._send(lambda: self._pg.send_query(sql.encode()))
        for result in self._results():
            rows = [
                [result.get_value(row, column) for column in range(result.nfields)] for row in range(result.ntuples)
            ]
        return rows

    def _encoding(self) -> str:
        """A SQL_ASCII database holds any bytes; only a client that names the same encoding is given them."""
        return "SQL_ASCII" if self._pg.parameter_status(b"server_encoding") == b"SQL_ASCII" else "UTF8"

    def _describe(self, sql: bytes) -> list[tuple[str, int, int]]:
        """Name, type OID and type modifier of each column; empty for a statement without rows."""
        self._prepare(sql)
        fields: list[tuple[str, int, int]] = []
        self._send(lambda: self._pg.send_describe_prepared(b""))
        for result in self._results():
            fields = [
                ((result.fname(i) or b"").decode(errors="backslashreplace"), result.ftype(i), result.fmod(i))
                for i in range(result.nfields)
            ]
        return fields

    def _prepare(self, sql: bytes) -> None:
        self._send(lambda: self._pg.send_prepare(b"", sql))
        for _ in self._results():
            pass

    def _finished(self, result: pq.abc.PGresult) -> int:
        tag = (result.command_status or b"").decode(errors="replace")
        if tag.startswith(_ENDS_TRANSACTION):
            if not tag.startswith("ROLLBACK"):
                self.kept = "A statement of the list committed what came before it."
            raise StatementFailed(
                StatementError("transaction.ended", f"{tag} inside a list: dbward begins and ends the transaction")
            )
        return (result.command_tuples or 0) if tag.startswith(_COUNTED) else 0

    def _send(self, send: Any) -> None:
        try:
            send()
            while self._pg.flush():
                self._wait(select.POLLIN | select.POLLOUT)
                self._pg.consume_input()  # the server may need us to read before it reads on
        except psycopg.Error as error:
            raise LinkLost(_short(error)) from None

    def _stream(self) -> None:
        if pq.version() >= 170000:
            self._pg.set_chunked_rows_mode(CHUNK_ROWS)
        else:
            self._pg.set_single_row_mode()

    def _results(self) -> Iterator[pq.abc.PGresult]:
        """Each result as it arrives. An error is raised after the server has said all, so the connection is usable."""
        failed: pq.abc.PGresult | None = None
        while (result := self._next()) is not None:
            if result.status in _COPIES:
                self._cut()
                raise StatementFailed(
                    StatementError("copy.unsupported", "COPY to or from the client cannot be run through dbward")
                )
            if result.status == pq.ExecStatus.FATAL_ERROR:
                failed = failed or result
            elif failed is None:
                yield result
        if failed is not None:
            raise self._failure(failed)

    def _next(self) -> pq.abc.PGresult | None:
        try:
            while self._pg.is_busy():
                self._wait(select.POLLIN)
                self._pg.consume_input()
            return self._pg.get_result()
        except psycopg.Error as error:
            raise LinkLost(_short(error)) from None

    def _wait(self, events: int) -> None:
        self._poll.modify(self._pg.socket, events)
        self._poll.poll()

    def _cut(self) -> None:
        """Ends a statement under way together with its connection, which rolls back."""
        try:
            self.interrupt()
        except psycopg.Error:
            pass
        finally:
            self.close()

    def _failure(self, result: pq.abc.PGresult) -> Exception:
        def field(which: pq.DiagnosticField) -> str | None:
            raw = result.error_field(which)
            return None if raw is None else raw.decode(errors="replace")

        sqlstate = field(pq.DiagnosticField.SQLSTATE)
        message = field(pq.DiagnosticField.MESSAGE_PRIMARY) or _short(result.error_message.decode(errors="replace"))
        lost = self._pg.status != pq.ConnStatus.OK
        if lost or field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) in ("FATAL", "PANIC"):
            return LinkLost(message)
        if sqlstate == _QUERY_CANCELED and self._timeout and monotonic() - self._began >= self._timeout:
            return StatementFailed(timed_out(sqlstate))
        position = field(pq.DiagnosticField.STATEMENT_POSITION)
        return StatementFailed(
            StatementError(
                StatementFailed.code,
                message,
                sqlstate=sqlstate,
                detail=field(pq.DiagnosticField.MESSAGE_DETAIL),
                hint=field(pq.DiagnosticField.MESSAGE_HINT),
                position=int(position) if position else None,
            )
        )


def _is_concurrent(sql: str) -> bool:
    return "CONCURRENTLY" in sql.upper()


def _write(result: pq.abc.PGresult, readers: Sequence[Any], writer: RowWriter) -> None:
    get = result.get_value
    for row in range(result.ntuples):
        if writer.full:
            return
        writer.add([None if (raw := get(row, column)) is None else read(raw) for column, read in enumerate(readers)])


def _short(error: object) -> str:
    return " ".join(str(error).split())
