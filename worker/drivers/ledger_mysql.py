"""The lock and the record of migrations on MySQL and MariaDB.

Named locks belong to a session and to one server: a cluster that takes writes on several nodes needs its agents to
point at the same one while they migrate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Final

import pymysql

from dbward.domain.model import Dialect, StatementError
from worker.drivers.errors import CONNECTION_LOST, StatementFailed, Unreachable
from worker.drivers.ledger import DETAILS, VERSIONS, Ledger, ledger, reading
from worker.drivers.mysql_account import Account, Connection, parts_of
from worker.drivers.reflect import LOCK_WAIT_SECS, TIMEOUT_SECS

_FOREVER: Final = 31_536_000
"""Seconds: the most that `wait_timeout` takes."""


class MysqlLock:
    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    @classmethod
    def take(cls, account: Account) -> MysqlLock | None:
        """None when another run has the lock. Raises Unreachable or CredentialsRefused."""
        connection = _connect(account)
        run, file = (lock_name(account.database, what) for what in ("run", "file"))
        try:
            _ask(connection, f"SET SESSION autocommit = 1, SESSION wait_timeout = {_FOREVER}")
            if all(_ask(connection, f"SELECT GET_LOCK('{name}', 0)") == 1 for name in (run, file)):
                _ask(connection, f"DO RELEASE_LOCK('{file}')")
                return cls(connection, run)
        except (pymysql.MySQLError, OSError) as error:
            connection.close()
            raise Unreachable(parts_of(error)[1]) from None
        connection.close()
        return None

    def held(self) -> bool:
        try:
            return _ask(self._connection, f"SELECT IS_USED_LOCK('{self._name}') = CONNECTION_ID()") == 1
        except (pymysql.MySQLError, OSError):
            return False

    def close(self) -> None:
        """The server takes a moment to see that a connection is gone, so the lock is given up before."""
        if self._connection.open:
            try:
                _ask(self._connection, f"DO RELEASE_LOCK('{self._name}')")
            except (pymysql.MySQLError, OSError):
                pass
            finally:
                self._connection.close()


def lock_name(database: str, what: str) -> str:
    """Of at most 64 characters, for the whole server. `file` is of whoever is in the middle of a file: when an agent
    dies, the server may work on for a while without it, and the next run must not begin before."""
    return f"dbward.{what}.{sha256(database.lower().encode()).hexdigest()[:32]}"


def place(account: Account) -> str:
    return "`" + account.database.replace("`", "``") + "`."


def read(account: Account) -> Ledger:
    """Raises Unreachable, CredentialsRefused or StatementFailed."""
    with _reading(account) as connection, connection.cursor() as cursor:
        limit = f"max_statement_time = {TIMEOUT_SECS}"
        if "mariadb" not in connection.server_version.lower():
            limit = f"max_execution_time = {TIMEOUT_SECS * 1000}"
        cursor.execute(f"SET SESSION autocommit = 1, SESSION lock_wait_timeout = {LOCK_WAIT_SECS}, SESSION {limit}")
        cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        # The database is not asked for by name: what a name looks like is the server's business.
        cursor.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
            " AND table_name IN (%s, %s)",
            (VERSIONS, DETAILS),
        )
        tables = [row[0].lower() for row in cursor.fetchall()]
        rows = {}
        for table, sql in reading(place(account), tables).items():
            cursor.execute(sql)
            rows[table] = cursor.fetchall()
    return ledger(Dialect.MYSQL, place(account), rows)


@contextmanager
def _reading(account: Account) -> Iterator[Connection]:
    connection = _connect(account)
    try:
        yield connection
    except (pymysql.MySQLError, OSError) as error:
        number, message, sqlstate = parts_of(error)
        code = StatementFailed.code if connection.open and number else CONNECTION_LOST
        raise StatementFailed(StatementError(code, message, sqlstate=sqlstate)) from None
    finally:
        if connection.open:
            connection.close()


def _connect(account: Account) -> Connection:
    connection, line = account.connect(read_timeout=TIMEOUT_SECS + LOCK_WAIT_SECS, decoded=True)
    line.close()
    return connection


def _ask(connection: Connection, sql: str) -> object:
    """The first value of the first row, None without one."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone()
    return row[0] if row else None
