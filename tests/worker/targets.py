"""Real target databases for the driver tests, and what is spelled differently on each."""

from __future__ import annotations

import socket
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
import pymysql
import pytest

from dbward.client.wire import ResultColumn
from dbward.domain.model import Dialect, Limits
from worker.drivers import open_driver
from worker.drivers.base import Batch, JsonValue, Outcome

LIMITS = Limits(statement_timeout=timedelta(seconds=60), max_rows=10_000, max_bytes=10_000_000)


def limits(*, seconds: float = 60, max_rows: int = 10_000, max_bytes: int = 10_000_000) -> Limits:
    return Limits(statement_timeout=timedelta(seconds=seconds), max_rows=max_rows, max_bytes=max_bytes)


@dataclass
class Collected:
    """A sink that keeps everything."""

    columns_: list[ResultColumn] = field(default_factory=list)
    rows_: list[list[JsonValue]] = field(default_factory=list)
    lines: bytes = b""
    begun: int = 0

    def columns(self, columns: Sequence[ResultColumn], /) -> None:
        self.begun += 1
        self.columns_ = list(columns)

    def rows(self, rows: Batch, /) -> None:
        self.rows_ += rows
        self.lines += rows.encoded

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns_]

    @property
    def keys(self) -> list[str]:
        return [column.key for column in self.columns_]

    @property
    def types(self) -> list[str]:
        return [column.type for column in self.columns_]


def run(url: str, *statements: str, read_only: bool = True, limits: Limits = LIMITS) -> tuple[Outcome, Collected]:
    sink = Collected()
    with open_driver(url).open() as session:
        return session.run(statements, read_only=read_only, limits=limits, sink=sink), sink


def value(url: str, sql: str) -> JsonValue:
    return run(url, sql)[1].rows_[0][0]


@dataclass(frozen=True)
class TargetDb:
    url: str
    dialect: Dialect
    forever: str
    """A query that runs until it is stopped."""
    numbers: str
    """A query for the integers from 1 to {n}, as column `n`."""

    def direct(self, *statements: str) -> list[tuple[Any, ...]]:
        """Past the driver: runs and commits each statement, returns the rows of the last."""
        connection: Any
        if self.dialect is Dialect.SQLITE:
            connection = sqlite3.connect(self.url.removeprefix("sqlite://"), isolation_level=None)
        elif self.dialect is Dialect.POSTGRESQL:
            connection = psycopg.connect(self.url, autocommit=True)
        else:
            connection = mysql_connection(self.url)
        try:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def busy(self) -> int:
        """How many other connections run the endless query; SQLite runs in this process and has none."""
        if self.dialect is Dialect.POSTGRESQL:
            table, conditions, me = "pg_stat_activity", "state = 'active' AND query", "pid <> pg_backend_pid()"
        else:
            table, conditions, me = "information_schema.processlist", "info", "id <> connection_id()"
        sql = f"SELECT count(*) FROM {table} WHERE {conditions} LIKE '%endless%' AND {me}"
        return int(self.direct(sql)[0][0])


def mysql_connection(url: str) -> pymysql.Connection[Any]:
    parts = urlsplit(url)
    return pymysql.connect(
        host=parts.hostname,
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=parts.path.removeprefix("/"),
        autocommit=True,
    )


def postgresql(url: str) -> TargetDb:
    return TargetDb(
        url,
        Dialect.POSTGRESQL,
        forever="WITH RECURSIVE endless(n) AS (SELECT 1 UNION ALL SELECT n FROM endless) SELECT count(*) FROM endless",
        numbers="SELECT generate_series(1, {n}) AS n",
    )


def mysql(url: str) -> TargetDb:
    return TargetDb(
        url,
        Dialect.MYSQL,
        forever="SELECT count(*) AS endless FROM seq_1_to_100000 a, seq_1_to_100000 b, seq_1_to_100000 c",
        numbers="SELECT seq AS n FROM seq_1_to_{n}",
    )


def sqlite(path: object) -> TargetDb:
    return TargetDb(
        f"sqlite://{path}",
        Dialect.SQLITE,
        forever="WITH RECURSIVE endless(n) AS (SELECT 1 UNION ALL SELECT n FROM endless) SELECT count(*) FROM endless",
        numbers="WITH RECURSIVE up(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < {n}) SELECT n FROM up",
    )


class Proxy:
    """A TCP proxy that can cut both sides, or swallow what the server says, once the client has sent certain bytes."""

    def __init__(self, host: str, port: int) -> None:
        self._there = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut_on: bytes | None = None
        """Forwards the message that holds these bytes, and closes in place of passing the answer on."""
        self.silent_on: bytes | None = None
        """From the message that holds these bytes on, nothing is passed in either direction."""
        self.seen = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._sockets):
            _shut(sock)
        for thread in list(self._threads):
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _start(self, work: Any, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._there)
            self._sockets += [near, far]
            state = {"swallow": False, "cut": False}
            self._start(self._up, near, far, state)
            self._start(self._down, near, far, state)

    def _up(self, near: socket.socket, far: socket.socket, state: dict[str, bool]) -> None:
        while data := _receive(near):
            if self.silent_on is not None and self.silent_on in data:
                state["swallow"] = True
                self.seen.set()
            if self.cut_on is not None and self.cut_on in data:
                state["cut"] = True
                self.seen.set()
            if not state["swallow"]:
                _send(far, data)
        if not state["swallow"]:
            _shut(far)

    def _down(self, near: socket.socket, far: socket.socket, state: dict[str, bool]) -> None:
        while data := _receive(far):
            if state["cut"]:
                break
            if not state["swallow"]:
                _send(near, data)
        _shut(near)
        _shut(far)


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except OSError:
        return b""


def _send(sock: socket.socket, data: bytes) -> None:
    """To an end that may be gone already, which the next read tells."""
    with suppress(OSError):
        sock.sendall(data)


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxied(url: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy in front of the server of `url`, and the URL through it."""
    parts = urlsplit(url)
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 0)
    account = parts.netloc.rpartition("@")[0]
    try:
        yield proxy, parts._replace(netloc=f"{account}@127.0.0.1:{proxy.port}").geturl()
    finally:
        proxy.close()


def empty(engine: str, request: pytest.FixtureRequest, path: Path) -> TargetDb:
    """An empty database on `engine`: postgresql, mysql, which mariadb means too, or sqlite in a file at `path`."""
    match engine:
        case "postgresql":
            return postgresql(request.getfixturevalue("postgres_url"))
        case "mysql" | "mariadb":
            return mysql(request.getfixturevalue("mariadb_url"))
        case "sqlite":
            return sqlite(path)
        case _:
            raise ValueError(engine)
