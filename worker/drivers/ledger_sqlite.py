"""The lock and the record of migrations on SQLite.

SQLite's own write lock is held for one file's transaction, and so keeps everybody else out of that. It cannot be held
for a run: what other connections may see of it would wait for its last file, and a setting that is refused in a
transaction could not be changed. For the run there is a lock of the operating system's on a file of its own beside the
database, which ends with its process. Not on the database itself: to close a second handle on that would take away the
locks that SQLite holds on it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Final

from dbward.domain.model import Dialect, StatementError
from worker.drivers.errors import CONNECTION_LOST, StatementFailed
from worker.drivers.ledger import DETAILS, VERSIONS, Ledger, ledger, reading
from worker.drivers.reflect import LOCK_WAIT_SECS

SUFFIX: Final = "-dbward"
_PLACE: Final = "main."


class SqliteLock:
    def __init__(self, path: Path, handle: int) -> None:
        self._path = path
        self._handle: int | None = handle

    @classmethod
    def take(cls, database: Path) -> SqliteLock | None:
        """None when another run has the lock. Raises StatementFailed where its file cannot be made."""
        path = Path(os.path.realpath(database) + SUFFIX)
        while True:
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            except OSError as error:
                raise _unlockable(f"{path} cannot be written: {error.strerror}") from None
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return None
            except OSError as error:
                os.close(handle)
                raise _unlockable(f"{path} cannot be locked: {error.strerror}") from None
            if _same(path, handle):
                return cls(path, handle)
            os.close(handle)  # the run before removed it between our two steps: lock the new one

    def held(self) -> bool:
        return self._handle is not None and _same(self._path, self._handle)

    def close(self) -> None:
        if self._handle is None:
            return
        if _same(self._path, self._handle):
            self._path.unlink(missing_ok=True)  # while it is locked, so that nobody else's is removed
        os.close(self._handle)
        self._handle = None


def read(connection: sqlite3.Connection) -> Ledger:
    """With a read-only connection, which is closed. Raises StatementFailed."""
    try:
        connection.execute(f"PRAGMA busy_timeout = {LOCK_WAIT_SECS * 1000}")
        connection.execute("BEGIN")
        names = connection.execute(
            "SELECT name FROM main.sqlite_master WHERE type IN ('table', 'view') AND name IN (?, ?)",
            (VERSIONS, DETAILS),
        )
        tables = [row[0] for row in names.fetchall()]
        rows = {table: connection.execute(sql).fetchall() for table, sql in reading(_PLACE, tables).items()}
    except sqlite3.Error as error:
        lost = not error.sqlite_errorname.startswith(("SQLITE_ERROR", "SQLITE_BUSY", "SQLITE_LOCKED"))
        code = CONNECTION_LOST if lost else StatementFailed.code
        raise StatementFailed(StatementError(code, str(error), detail=f"{error.sqlite_errorname}.")) from None
    finally:
        connection.close()
    return ledger(Dialect.SQLITE, _PLACE, rows)


def _same(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _unlockable(message: str) -> StatementFailed:
    return StatementFailed(
        StatementError("migration.no_lock", message, hint="the agent must be able to write in the database's directory")
    )
