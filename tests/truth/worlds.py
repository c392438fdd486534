"""A database with what the corpus names, on a server that nobody else uses, and the two ways to run a read on it.

Through the agent's read path; or bare: on one connection for all, with every right, nothing read-only, and each
statement committed. What writes although no text shows it, such as a view that calls a function, is in the worlds of
the read path only, which alone can stop it. With `hostile`, the read path has the account that an agent should have,
with no right but to read, and is given anything.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Protocol
from urllib.parse import urlsplit

import psycopg
import pymysql
from pymysql.constants import CLIENT

from dbward.domain.model import Dialect
from tests.truth import photographs
from tests.truth.corpus import texts
from tests.truth.photographs import Photograph
from tests.worker.targets import limits
from tests.worker.targets import run as run_as_the_agent
from worker.drivers.errors import StatementFailed

NAME = "app"
"""The database, as a few statements of the corpus call it."""
PATIENCE = 0.4
"""Seconds a statement may take: some of the corpus would run for ever."""
LITTLE_PATIENCE = 0.1
"""For hostile ones, many of which would."""


class World(Protocol):
    """`run` says whether the engine ran it; a statement that is stopped at its time limit did run."""

    def run(self, statements: Sequence[str]) -> bool: ...
    def photograph(self) -> Photograph: ...


def schema(name: str) -> str:
    return (Path(__file__).parent / "worlds" / f"{name}.sql").read_text()


class _Agent:
    """Through the drivers, on their read path."""

    def __init__(self, url: str, *, hostile: bool = False) -> None:
        self.url = url
        self._hostile = hostile
        self._limits = limits(seconds=LITTLE_PATIENCE if hostile else PATIENCE, max_rows=1000)

    def run(self, statements: Sequence[str]) -> bool:
        try:
            run_as_the_agent(self.url, *statements, limits=self._limits)
        except StatementFailed as failed:
            if "not authorized" in str(failed) and not self._hostile:
                raise AssertionError(f"a read that SQLite's guard refuses: {statements}") from failed
            return failed.error.code == "statement.timeout"
        return True


@contextmanager
def postgresql(admin: str, *, bare: bool, hostile: bool = False) -> Iterator[World]:
    url = urlsplit(admin)._replace(path=f"/{NAME}").geturl()
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {NAME} TEMPLATE template0")
    with psycopg.connect(url, autocommit=True, application_name=photographs.PHOTOGRAPHER) as camera:
        camera.execute(schema("postgresql"))
        if not bare:
            camera.execute(schema("postgresql_out_of_sight"))
        for channel in _channels():
            camera.execute(f"LISTEN {channel}")
        if not bare:
            if hostile:
                camera.execute(_PG_READER)
                url = urlsplit(url)._replace(netloc=f"reader:reader@{urlsplit(url).netloc.rpartition('@')[2]}").geturl()
            yield _Postgresql(camera, _Agent(url, hostile=hostile).run)
            return
        with psycopg.connect(
            url, autocommit=True, application_name=photographs.PHOTOGRAPHER, prepare_threshold=None
        ) as pooled:
            pooled.execute(f"SET statement_timeout = {round(PATIENCE * 1000)}")
            yield _Postgresql(camera, lambda statements: _run_psycopg(pooled, statements), pooled)


_PG_READER = """
    DO $$ BEGIN CREATE ROLE reader LOGIN PASSWORD 'reader'; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
    REVOKE ALL ON SCHEMA public FROM PUBLIC;
    GRANT USAGE ON SCHEMA public, app TO reader;
    GRANT SELECT ON ALL TABLES IN SCHEMA public, app TO reader;
    GRANT SELECT ON ALL SEQUENCES IN SCHEMA public, app TO reader;
"""
_MY_READER = f"""
    CREATE OR REPLACE USER reader IDENTIFIED BY 'reader';
    GRANT SELECT, SHOW VIEW, EXECUTE ON {NAME}.* TO reader;
"""
"""The account that an agent should have."""


def _channels() -> set[str]:
    """Those that the corpus notifies."""
    said = " ".join(sql for _, sql in texts(Dialect.POSTGRESQL))
    return {a or b for a, b in re.findall(r"(?i)\bNOTIFY (\w+)|pg_notify\('(\w+)'", said)}


class _Postgresql:
    def __init__(
        self, camera: psycopg.Connection[Any], run: Any, pooled: psycopg.Connection[Any] | None = None
    ) -> None:
        self._camera = camera
        self._pooled = pooled
        self.run = run

    def photograph(self) -> Photograph:
        mine = {} if self._pooled is None else photographs.of_postgresql_session(self._pooled)
        return photographs.of_postgresql(self._camera) | mine


def _run_psycopg(connection: psycopg.Connection[Any], statements: Sequence[str]) -> bool:
    try:
        for statement in statements:
            connection.execute(statement.encode())
    except psycopg.errors.QueryCanceled:
        return True
    except psycopg.Error:
        return False
    return True


@contextmanager
def mysql(admin: str, *, bare: bool, hostile: bool = False) -> Iterator[World]:
    """Bare, several statements in one text would all run."""
    url = urlsplit(admin)._replace(path=f"/{NAME}").geturl()
    camera = _connect_mariadb(admin)
    pooled = None
    try:
        with camera.cursor() as make:
            make.execute(f"DROP DATABASE IF EXISTS {NAME}")
            make.execute(f"CREATE DATABASE {NAME} CHARACTER SET utf8mb4")
            make.execute("SET GLOBAL innodb_stats_auto_recalc = OFF")
            make.execute("INSTALL SONAME 'metadata_lock_info'")
            make.execute(f"USE {NAME}")
            make.execute(schema("mysql") + ("" if bare else schema("mysql_out_of_sight")) + _MY_READER)
            while make.nextset():
                pass
        if not bare:
            if hostile:
                url = urlsplit(url)._replace(netloc=f"reader:reader@{urlsplit(url).netloc.rpartition('@')[2]}").geturl()
            yield _Mysql(camera, _Agent(url, hostile=hostile).run)
            return
        pooled = _connect_mariadb(url)
        with pooled.cursor() as limit:
            limit.execute(f"SET SESSION max_statement_time = {PATIENCE}")
        yield _Mysql(camera, lambda statements: _run_pymysql(pooled, statements), pooled)
    finally:
        camera.close()
        if pooled is not None:
            pooled.close()


class _Mysql:
    def __init__(self, camera: Any, run: Any, pooled: Any = None) -> None:
        self._camera = camera
        self._pooled = pooled
        self.run = run

    def photograph(self) -> Photograph:
        mine = {} if self._pooled is None else photographs.of_mariadb_session(self._pooled)
        return photographs.of_mariadb(self._camera, [self._pooled.thread_id()] if self._pooled else []) | mine


def _connect_mariadb(url: str) -> pymysql.Connection[Any]:
    parts = urlsplit(url)
    return pymysql.connect(
        host=parts.hostname,
        port=parts.port or 3306,
        user=parts.username,
        password=parts.password or "",
        database=parts.path.removeprefix("/"),
        client_flag=CLIENT.MULTI_STATEMENTS,
        autocommit=True,
    )


def _run_pymysql(connection: pymysql.Connection[Any], statements: Sequence[str]) -> bool:
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
                while cursor.nextset():
                    pass
    except pymysql.MySQLError as error:
        return error.args[0] in (1969, 3024)
    return True


@contextmanager
def sqlite(directory: Path, *, bare: bool, hostile: bool = False) -> Iterator[World]:
    """Bare, every statement of a text runs, without the guard, and `w` and `bump` are functions that leave a mark."""
    path = directory / "target.db"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = wal")
        connection.executescript(schema("sqlite"))
        if bare:
            world = _Sqlite(directory, lambda statements: _run_sqlite(connection, statements), connection)
            for name in ("w", "bump"):
                connection.create_function(name, -1, world.mark)
            yield world
            return
    finally:
        connection.close()
    yield _Sqlite(directory, _Agent(f"sqlite:///{path}", hostile=hostile).run)


class _Sqlite:
    def __init__(self, directory: Path, run: Any, pooled: sqlite3.Connection | None = None) -> None:
        self._directory = directory
        self._pooled = pooled
        self._marks = 0
        self.run = run

    def mark(self, *_: object) -> int:
        self._marks += 1
        return self._marks

    def photograph(self) -> Photograph:
        mine = {} if self._pooled is None else photographs.of_sqlite_session(self._pooled)
        return photographs.of_sqlite(self._directory) | mine | {"marks": self._marks}


def _run_sqlite(connection: sqlite3.Connection, statements: Sequence[str]) -> bool:
    due = monotonic() + PATIENCE
    connection.set_progress_handler(lambda: int(monotonic() > due), 20_000)
    try:
        for statement in statements:
            connection.executescript(statement)
    except sqlite3.OperationalError as error:
        return error.sqlite_errorname == "SQLITE_INTERRUPT"
    except (sqlite3.Error, ValueError):  # ValueError: a NUL character
        return False
    finally:
        connection.set_progress_handler(None, 0)
    return True
