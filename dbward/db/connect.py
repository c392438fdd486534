"""Connections to the state database: how they are opened, and what their errors mean to a caller.

SQLite runs with the `unix-excl` VFS by default: one owning process, the wal-index on the heap instead of in a shared
file, which is right on network file systems too. Its lock is the process's: opening the file by any other means in this
process and closing it again would drop it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psycopg2
from psycopg2 import extensions as pg
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from dbward.db.filesystem import Filesystem, filesystem_of
from dbward.errors import Misconfigured, Unavailable
from dbward.settings.server import StateSettings

READERS: Final = 8  # connections kept open for reading; as many again under load
_POOL_WAIT_SECS: Final = 10
_BUSY_SECS: Final = 10
_OPEN_SECS: Final = 0.2
_RETRY_SECS: Final = 0.2
LOCAL_WAIT: Final = timedelta(seconds=10)
NETWORK_WAIT: Final = timedelta(minutes=5)
_PRAGMAS: Final = ("synchronous=FULL", "temp_store=MEMORY", "journal_size_limit=67108864", "cache_size=-8192")
_POSTGRES: Final = {
    "application_name": "dbward",
    "connect_timeout": 5,
    # A peer that vanished is noticed in about 25 s, not in the system's two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
# A writer that hangs while it holds the head of the audit chain would stop every replica.
_WRITER_SESSION: Final = "SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '30s'"


def parse_url(settings: StateSettings) -> URL:
    """The URL with the driver this module uses; what follows `sqlite:///` is a path, character by character.

    Raises Misconfigured for another dialect or a relative path.
    """
    scheme, _, rest = settings.url.partition(":///")
    if scheme == "sqlite" and Path(rest).is_absolute():
        return URL.create("sqlite+pysqlite", database=rest)
    try:
        url = make_url(settings.url)
    except (ArgumentError, ValueError):  # the text of either may repeat the password
        raise Misconfigured(
            "[state] url cannot be read", hint="use sqlite:////absolute/path or postgresql://…"
        ) from None
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg2")
    raise Misconfigured(
        "[state] url must name a SQLite file by its absolute path, or a PostgreSQL database",
        hint="use sqlite:////absolute/path or postgresql://user:password@host/database",
    )


def sqlite_path(url: URL) -> Path:
    assert url.database is not None
    return Path(url.database)


def check_filesystem(settings: StateSettings, look: Callable[[Path], Filesystem] = filesystem_of) -> list[str]:
    """What is doubtful about the place of the SQLite file, in sentences; nothing on PostgreSQL.

    Raises Misconfigured when it would be shared through memory on a network file system (`state_on_network`), or when
    other machines would not see our locks there (`state_unlocked`), and OSError.
    """
    url = parse_url(settings)
    if url.get_backend_name() != "sqlite":
        return []
    directory = sqlite_path(url).parent
    found = look(directory)
    if found.network and not settings.exclusive:
        raise Misconfigured(
            f"{directory} is on a network file system ({found.kind}), where [state] exclusive = false corrupts the "
            "database",
            code="state_on_network",
            hint="set [state] exclusive = true, which is the default, use a local disk, or keep the state in "
            "PostgreSQL",
        )
    if found.local_locks:
        raise Misconfigured(
            f"{directory} is mounted ({found.kind}) with {', '.join(sorted(found.local_locks))}: its locks would not "
            "keep a server on another machine out",
            code="state_unlocked",
            hint="mount it without that option, use a local disk, or keep the state in PostgreSQL",
        )
    doubts = []
    if found.gives_up:
        doubts.append(
            f"{directory} is mounted ({found.kind}) with {', '.join(sorted(found.gives_up))}: a file server that is "
            "slow to answer ends this server; mount it hard"
        )
    if found.locks_unknown:
        doubts.append(
            f"{directory} is on {found.kind}: make sure that no other machine runs a server on it, for its locks may "
            "not be seen there"
        )
    return doubts


def patience(settings: StateSettings, directory: Path) -> timedelta:
    """How long to wait until another owner lets go: as it is set, or else long enough for how it may have ended.

    On this machine the kernel lets go the moment a process ends. A file server keeps the locks of a machine that
    vanished until its lease is over. Raises OSError.
    """
    if settings.lock_wait is not None:
        return settings.lock_wait
    return NETWORK_WAIT if filesystem_of(directory).network else LOCAL_WAIT


def writer_engine(settings: StateSettings) -> Engine:
    """One connection that may write. Each transaction takes SQLite's write lock at its start, so it never has to
    upgrade.
    """
    return _engine(settings, write=True, size=1, overflow=0)


def reader_engine(settings: StateSettings) -> Engine:
    """A pool whose connections cannot write; a transaction sees one snapshot from its first statement on."""
    return _engine(settings, write=False, size=READERS, overflow=READERS)


def _engine(settings: StateSettings, *, write: bool, size: int, overflow: int) -> Engine:
    url = parse_url(settings)
    # hide_parameters: errors are logged, and the values may be SQL or token hashes
    pool: dict[str, Any] = {
        "poolclass": QueuePool,
        "pool_size": size,
        "max_overflow": overflow,
        "pool_timeout": _POOL_WAIT_SECS,
        "pool_use_lifo": True,
        "hide_parameters": True,
    }
    if url.get_backend_name() == "sqlite":
        path, exclusive = sqlite_path(url), settings.exclusive
        engine = create_engine(
            "sqlite+pysqlite://", creator=lambda: open_sqlite(path, exclusive=exclusive, write=write), **pool
        )
        begin = "BEGIN IMMEDIATE" if write else "BEGIN"

        @event.listens_for(engine, "begin")
        def _begin(conn: Connection) -> None:
            conn.exec_driver_sql(begin)
    else:
        engine = create_engine(url, connect_args=_link(url), **pool)

        @event.listens_for(engine, "connect")
        def _connect(raw: pg.connection, _record: object) -> None:
            if write:
                with raw.cursor() as cursor:
                    cursor.execute(_WRITER_SESSION)
                raw.commit()
            else:  # part of every BEGIN, so it costs no round trip
                raw.set_session(isolation_level="REPEATABLE READ", readonly=True)

    return engine


def _link(url: URL) -> dict[str, Any]:
    """What we ask of the connection, unless the URL itself says otherwise."""
    return {key: value for key, value in _POSTGRES.items() if key not in url.query}


def open_sqlite(path: Path, *, exclusive: bool, write: bool) -> sqlite3.Connection:
    """A connection in autocommit, set up like all others. Raises sqlite3.Error, Misconfigured."""
    uri = f"file:{quote(str(path))}" + ("?vfs=unix-excl" if exclusive else "")
    # A short patience first: while another process owns the file, `wait_until_open` does the waiting.
    raw = sqlite3.connect(
        uri, uri=True, timeout=_OPEN_SECS, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        for pragma in _PRAGMAS:
            raw.execute(f"PRAGMA {pragma}")
        raw.execute("PRAGMA foreign_keys=ON")
        if write:
            (mode,) = raw.execute("PRAGMA journal_mode=WAL").fetchone()
            if mode != "wal":
                raise Misconfigured(
                    f"{path} cannot use a write-ahead log here (journal mode {mode})", code="state_journal"
                )
        else:
            raw.execute("PRAGMA query_only=ON")
        raw.execute(f"PRAGMA busy_timeout={_BUSY_SECS * 1000}")
    except BaseException:
        raw.close()
        raise
    return raw


def open_listener(settings: StateSettings) -> pg.connection:
    """A PostgreSQL connection of its own, in autocommit. Raises psycopg2.Error."""
    url = parse_url(settings)
    _, where = url.get_dialect()().create_connect_args(url)
    raw: pg.connection = psycopg2.connect(**where, **_link(url))
    raw.set_session(autocommit=True)
    return raw


def wait_until_open(engine: Engine, settings: StateSettings) -> None:
    """Connect once, being patient with another process that has the SQLite file. Raises Misconfigured, Unavailable."""
    began = time.monotonic()
    while True:
        try:
            with engine.connect() as conn, conn.begin():
                conn.execute(text("SELECT 1"))
        except DBAPIError as error:
            if not is_busy(error):
                raise explain_open(error, settings) from None
            path = sqlite_path(parse_url(settings))
            if time.monotonic() - began >= patience(settings, path.parent).total_seconds():
                raise Misconfigured(
                    f"another process is using {path}",
                    code="state_locked",
                    hint="stop the other server, or whatever has the file open",
                ) from None
            time.sleep(_RETRY_SECS)  # SQLite tells nobody that a lock is free
        else:
            return


def explain_open(error: DBAPIError, settings: StateSettings) -> Exception:
    if isinstance(error.orig, sqlite3.Error):
        path = sqlite_path(parse_url(settings))
        return Misconfigured(f"{path} cannot be opened: {error.orig}", code="state_unreadable")
    return Unavailable(f"the state database cannot be reached: {first_line(error)}", code="state_unreachable")


def translate(error: BaseException) -> BaseException:
    """What a caller sees: Unavailable when trying later may work, else the error itself: what was asked is wrong."""
    if isinstance(error, PoolTimeout):
        seen = Unavailable("every connection to the state database is busy")
    elif not isinstance(error, DBAPIError) or not _is_passing(error):
        return error
    else:
        seen = Unavailable(f"the state database is not available{reason(error)}")
    seen.__cause__ = error
    return seen


def _is_passing(error: DBAPIError) -> bool:
    if isinstance(
        error.orig, sqlite3.Error
    ):  # for SQLite a wrong statement, and a write by a reader, are operational too
        wrong = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_READONLY)
        return isinstance(error, OperationalError) and _sqlite_code(error) not in wrong
    return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)


def is_fatal(error: BaseException) -> bool:
    """SQLite can no longer read or trust its file. After a lost network lock that is what the old owner sees, so it
    must not go on.
    """
    fatal = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return isinstance(error, DBAPIError) and isinstance(error.orig, sqlite3.Error) and _sqlite_code(error) in fatal


def is_io_error(error: BaseException) -> bool:
    """SQLite's file cannot be read or written; a full disk is not meant."""
    return (
        isinstance(error, DBAPIError)
        and isinstance(error.orig, sqlite3.Error)
        and _sqlite_code(error) == sqlite3.SQLITE_IOERR
    )


def is_busy(error: DBAPIError) -> bool:
    return isinstance(error.orig, sqlite3.Error) and _sqlite_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_disconnect(error: BaseException) -> bool:
    return isinstance(error, DBAPIError) and error.connection_invalidated


def in_transaction(conn: Connection) -> bool:
    """Whether the database still has the transaction open and healthy; a local look, no round trip."""
    if conn.invalidated:
        return False
    raw = conn.connection.driver_connection
    if isinstance(raw, sqlite3.Connection):
        return raw.in_transaction
    with suppress(psycopg2.Error):
        assert isinstance(raw, pg.connection)
        return raw.get_transaction_status() == pg.TRANSACTION_STATUS_INTRANS
    return False


def _sqlite_code(error: DBAPIError) -> int:
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else sqlite3.SQLITE_ERROR


def reason(error: SQLAlchemyError) -> str:
    """What callers are told of why the database does not answer, behind a colon. Of PostgreSQL that is nothing: its
    messages hold its address and login, and are in the log.
    """
    return f": {first_line(error)}" if isinstance(getattr(error, "orig", None), sqlite3.Error) else ""


def first_line(error: SQLAlchemyError) -> str:
    """The driver's message without the statement."""
    return str(error.orig if isinstance(error, DBAPIError) else error).partition("\n")[0]
