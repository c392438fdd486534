"""Bringing the state database to the tables of this version: forwards only, in one transaction, a SQLite file copied
first. Servers of the version before may go on meanwhile, unless a migration says otherwise (`dbward.db.revisions`).
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from dbward.db import connect, revisions, servers, snapshot
from dbward.db.filesystem import Filesystem, filesystem_of
from dbward.db.revisions import SCHEMA
from dbward.errors import Misconfigured
from dbward.settings.server import StateSettings

_RETRY_SECS: Final = 0.2
_LEAVING: Final = timedelta(seconds=10)
"""How long servers of the version before may take to go, where `[state] lock_wait_secs` does not say."""
_LOCK: Final = (  # replicas that start together migrate one after the other, however long the first one takes
    "SET LOCAL lock_timeout = '10min'",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    "SELECT pg_advisory_xact_lock(7236274)",
)


def migrate(
    settings: StateSettings, *, scripts: Path = SCHEMA, look: Callable[[Path], Filesystem] = filesystem_of
) -> str | None:
    """Upgrade the state database to the last revision in `scripts`; returns the one it came from or None (empty).

    A database that is newer and says that this code works on it is left alone. A SQLite file that is about to change is
    first copied to `<name>.before-<revision>` beside it. Raises `Misconfigured` when a newer dbward has written the
    database and this one does not work on it (`state_newer`), when servers run that would not survive the upgrade
    (`state_in_use`), when it holds tables of something else (`state_foreign`), is in use by another process
    (`state_locked`) or cannot be opened, and `Unavailable` when PostgreSQL cannot be reached. After an error the
    database is as it was.
    """
    connect.check_filesystem(settings, look)
    path = _prepare_file(settings)
    engine = connect.writer_engine(settings)
    try:
        connect.wait_until_open(engine, settings)
        with engine.connect() as conn:
            if path is not None:  # tables are copied and dropped while they change; checked as a whole below
                _raw(conn).execute("PRAGMA foreign_keys=OFF")
            with conn.begin():
                return _upgrade(conn, settings, path, script_config(scripts))
    except DBAPIError as error:
        if (seen := connect.translate(error)) is error:
            raise
        raise seen from error
    finally:
        engine.dispose()


def _upgrade(conn: Connection, settings: StateSettings, path: Path | None, config: Config) -> str | None:
    if path is None:
        for statement in _LOCK:
            conn.exec_driver_sql(statement)
    scripts = ScriptDirectory.from_config(config)
    target = scripts.get_current_head()
    revision, known = revisions.check(conn, scripts)
    if revision == target or not known:
        return revision
    if path is None and revision is not None and revisions.breaks(scripts, revision):
        _keep_servers_out(conn, settings, target)
    if path is not None and revision is not None:
        _copy_aside(path, path.with_name(f"{path.name}.before-{target}"), exclusive=settings.exclusive)
    config.attributes["connection"] = conn
    command.upgrade(config, "head")
    revisions.note_floor(conn, scripts)
    if path is not None and (broken := conn.exec_driver_sql("PRAGMA foreign_key_check").first()) is not None:
        raise Misconfigured(f"after the upgrade rows of {broken[0]} would refer to nothing", code="state_broken")
    return revision


def _keep_servers_out(conn: Connection, settings: StateSettings, target: str | None) -> None:
    """Wait for a while until no server is on the state, and let none in until the end. Raises Misconfigured."""
    wait = _LEAVING if settings.lock_wait is None else settings.lock_wait
    deadline = time.monotonic() + wait.total_seconds()
    while not servers.keep_out(conn):
        if time.monotonic() >= deadline:
            raise Misconfigured(
                f"the upgrade of the state database to revision {target} changes what running servers rely on",
                code="state_in_use",
                hint="stop all servers of the version before, then start this one",
            )
        time.sleep(_RETRY_SECS)


def _prepare_file(settings: StateSettings) -> Path | None:
    """Path of the SQLite file, made readable by its owner only; None on PostgreSQL."""
    url = connect.parse_url(settings)
    if url.get_backend_name() != "sqlite":
        return None
    path = connect.sqlite_path(url)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A file that exists is never opened here: closing it would drop the lock SQLite may hold on it in this process.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise Misconfigured(f"the state database cannot be opened: {error}", code="state_unreadable") from error
    return path


def _copy_aside(path: Path, copy: Path, *, exclusive: bool) -> None:
    """A complete copy of the last committed state, durable before this returns; an older copy of that name is kept."""
    n = 1
    while copy.exists():
        n += 1
        copy = copy.with_name(f"{copy.name.removesuffix(f'-{n - 1}')}-{n}")
    draft = copy.with_name(f"{copy.name}.tmp")
    snapshot.copy(path, draft, exclusive=exclusive)
    draft.rename(copy)
    directory = os.open(copy.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _raw(conn: Connection) -> sqlite3.Connection:
    raw = conn.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


def script_config(scripts: Path) -> Config:
    """Alembic's, for the revisions in that directory."""
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
