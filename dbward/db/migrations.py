"""Bringing the state database to the tables of this version: forwards only, in one transaction, a SQLite file copied
first.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from dbward.db import connect
from dbward.db.filesystem import Filesystem, filesystem_of
from dbward.db.tables import metadata
from dbward.errors import Misconfigured
from dbward.settings.server import StateSettings

SCHEMA: Final = Path(__file__).with_name("schema")
_LOCK: Final = (  # replicas that start together migrate one after the other, however long the first one takes
    "SET LOCAL lock_timeout = '10min'",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    "SELECT pg_advisory_xact_lock(7236274)",
)


def migrate(
    settings: StateSettings, *, scripts: Path = SCHEMA, look: Callable[[Path], Filesystem] = filesystem_of
) -> str | None:
    """Upgrade the state database to the last revision in `scripts`; returns the one it came from or None (empty).

    A SQLite file that is about to change is first copied to `<name>.before-<revision>` beside it. Raises
    `Misconfigured` when the database was written by a newer dbward (`state_newer`), holds tables of something else
    (`state_foreign`), is in use by another process (`state_locked`) or cannot be opened, and `Unavailable` when
    PostgreSQL cannot be reached. After an error the database is as it was.
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
                return _upgrade(conn, settings, path, _config(scripts))
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
    revision = _check(conn, scripts)
    if revision == target:
        return revision
    if path is not None and revision is not None:
        _copy_aside(path, path.with_name(f"{path.name}.before-{target}"), exclusive=settings.exclusive)
    config.attributes["connection"] = conn
    command.upgrade(config, "head")
    if path is not None and (broken := conn.exec_driver_sql("PRAGMA foreign_key_check").first()) is not None:
        raise Misconfigured(f"after the upgrade rows of {broken[0]} would refer to nothing", code="state_broken")
    return revision


def _check(conn: Connection, scripts: ScriptDirectory) -> str | None:
    """The revision of the database. Raises Misconfigured when it is not one we can start from."""
    revisions = MigrationContext.configure(conn).get_current_heads()
    known = {script.revision for script in scripts.walk_revisions()}
    if unknown := [revision for revision in revisions if revision not in known]:
        raise Misconfigured(
            f"the state database is at revision {unknown[0]}, written by a newer version of dbward than this one",
            code="state_newer",
            hint="run that newer version, or put back a copy made before its upgrade",
        )
    if revisions:
        return revisions[0]
    if strangers := sorted(set(inspect(conn).get_table_names()) & set(metadata.tables)):
        raise Misconfigured(
            f"the state database has a table {strangers[0]} that dbward did not make",
            code="state_foreign",
            hint="give dbward a database of its own",
        )
    return None


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
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with closing(connect.open_sqlite(path, exclusive=exclusive, write=False)) as source:
            source.execute("PRAGMA query_only=OFF")  # it forbids writing to the copy as well
            source.execute("VACUUM INTO ?", (str(draft),))
        os.fsync(fd)
    finally:
        os.close(fd)
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


def _config(scripts: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
