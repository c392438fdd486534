"""The lock and the record of migrations on PostgreSQL.

The lock is that of a transaction which stays open, not of a session: a transaction pooler keeps its connection for it,
and gives it up with it. The transaction holds no snapshot, so neither vacuum nor an index built concurrently waits.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import psycopg

from dbward.domain.model import Dialect, StatementError
from worker.drivers.errors import CONNECTION_LOST, StatementFailed, Unreachable
from worker.drivers.ledger import DETAILS, VERSIONS, Ledger, ledger, reading
from worker.drivers.reflect import LOCK_WAIT_SECS, TIMEOUT_SECS

LOCK_SPACE: Final = 0x64627764
"""The first number of our advisory locks, which are of one database: `dbwd`."""
_RUN, _FILE = 1, 2
"""A run holds the first. The second is of whoever is in the middle of a file: when an agent dies, the server may work
on for a while without it, and the next run must not begin before."""

TRY_FILE_LOCK: Final = f"SELECT pg_catalog.pg_try_advisory_xact_lock({LOCK_SPACE}, {_FILE})"

_TAKE: Final = f"SELECT pg_catalog.pg_try_advisory_xact_lock({LOCK_SPACE}, {_RUN})"
_STAY: Final = (
    "SELECT pg_catalog.set_config(name, '0', true) FROM pg_catalog.pg_settings"
    " WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')"
)
_PLACE: Final = "SELECT pg_catalog.quote_ident(coalesce(pg_catalog.current_schema(), 'public'))"
"""As dbmate has it."""
_TABLES: Final = """
    SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = coalesce(pg_catalog.current_schema(), 'public') AND c.relname = ANY (%s)
"""


class PostgresqlLock:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    @classmethod
    def take(cls, connection: psycopg.Connection[Any]) -> PostgresqlLock | None:
        """With a fresh connection; None, and it is closed, when another run has the lock. Raises Unreachable."""
        try:
            connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY")
            connection.execute(_STAY)
            if _yes(connection, _TAKE):
                connection.execute("SAVEPOINT file")
                free = _yes(connection, TRY_FILE_LOCK)
                connection.execute("ROLLBACK TO SAVEPOINT file")
                if free:
                    return cls(connection)
        except psycopg.Error as error:
            connection.close()
            raise Unreachable(_said(error)) from None
        connection.close()
        return None

    def held(self) -> bool:
        try:
            return _yes(self._connection, "SELECT true")
        except psycopg.Error:
            return False

    def close(self) -> None:
        with suppress(psycopg.Error):
            self._connection.execute("ROLLBACK")  # else a pooler has to find out
        self._connection.close()


def read(connection: psycopg.Connection[Any]) -> Ledger:
    """With a fresh connection, which is closed. Raises StatementFailed."""
    try:
        with connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(f"SET LOCAL statement_timeout = {TIMEOUT_SECS * 1000}")
            connection.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_SECS * 1000}")
            place = f"{connection.execute(_PLACE).fetchall()[0][0]}."
            tables = [row[0] for row in connection.execute(_TABLES, ([VERSIONS, DETAILS],))]
            rows = {table: connection.execute(sql).fetchall() for table, sql in reading(place, tables).items()}
            connection.execute("ROLLBACK")
    except psycopg.Error as error:
        code = CONNECTION_LOST if error.sqlstate is None else StatementFailed.code
        raise StatementFailed(StatementError(code, _said(error), sqlstate=error.sqlstate)) from None
    return ledger(Dialect.POSTGRESQL, place, rows)


def _yes(connection: psycopg.Connection[Any], sql: str) -> bool:
    return bool(connection.execute(sql).fetchall()[0][0])


def _said(error: psycopg.Error) -> str:
    return error.diag.message_primary or " ".join(str(error).split())
