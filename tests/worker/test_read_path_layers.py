"""Each layer of the read path alone, with the classification deliberately wrong: a write is given to it as a read.

All layers but one are taken away, and that one must hold. Then that one is taken away too, and the write must get
through: else the test would prove nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymysql.constants import CLIENT

from tests.support import services
from tests.worker.targets import LIMITS, Collected, TargetDb, limits, mysql, postgresql, run, sqlite, value
from worker.drivers import mysql as mysql_driver
from worker.drivers import mysql_account, open_driver, stopper
from worker.drivers import postgresql as postgresql_driver
from worker.drivers import sqlite as sqlite_driver
from worker.drivers.errors import StatementFailed, StatementTimeout

Edits = dict[str, str]
"""What stands for what in the driver's own SQL."""


def attempt(db: TargetDb, *statements: str) -> None:
    """As a read; whether it is refused or undone makes no difference here."""
    with suppress(StatementFailed):
        run(db.url, *statements)


# --- PostgreSQL ------------------------------------------------------------------------------------------------------

WITHOUT_READ_ONLY = {"BEGIN READ ONLY": "BEGIN"}
WITHOUT_PIN = {"; SELECT 1": "", ";SELECT 1": ""}
WITHOUT_ROLLBACK = {"ROLLBACK": "COMMIT"}


@pytest.fixture
def pg(postgres_url: str) -> TargetDb:
    made = postgresql(postgres_url)
    made.direct(
        "CREATE TABLE t (id int)",
        "INSERT INTO t VALUES (1)",
        "CREATE SEQUENCE s",
        "CREATE FUNCTION w() RETURNS int LANGUAGE sql AS $$ INSERT INTO t VALUES (2) RETURNING id $$",
        "CREATE VIEW v AS SELECT w()",
    )
    return made


def edit_postgresql(monkeypatch: pytest.MonkeyPatch, *edits: Edits) -> None:
    _edit(monkeypatch, postgresql_driver._Link, "ask", edits)


def _edit(monkeypatch: pytest.MonkeyPatch, link: Any, method: str, edits: tuple[Edits, ...]) -> None:
    original = getattr(link, method)

    def edited(self: Any, sql: str) -> Any:
        for found, put in (pair for each in edits for pair in each.items()):
            sql = sql.replace(found, put)
        return original(self, sql)

    monkeypatch.setattr(link, method, edited)


def pg_state(db: TargetDb) -> object:
    return db.direct("SELECT (SELECT array_agg(id ORDER BY id) FROM t), (SELECT is_called FROM s)")


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM t",
        "SELECT w()",
        "SELECT * FROM v",
        "SELECT nextval('s')",
        "WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone",
    ],
)
def test_postgresql_read_only_transaction(pg: TargetDb, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    before = pg_state(pg)
    with monkeypatch.context() as layers:
        edit_postgresql(layers, WITHOUT_PIN, WITHOUT_ROLLBACK)
        attempt(pg, sql)
        assert pg_state(pg) == before
        edit_postgresql(layers, WITHOUT_READ_ONLY)
        attempt(pg, sql)
        assert pg_state(pg) != before


@pytest.mark.parametrize("sql", ["SET transaction_read_only = off", "SET TRANSACTION READ WRITE"])
def test_postgresql_snapshot_that_pins_it(pg: TargetDb, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    before = pg_state(pg)
    with monkeypatch.context() as layers:
        edit_postgresql(layers, WITHOUT_ROLLBACK)
        attempt(pg, sql, "DELETE FROM t")
        assert pg_state(pg) == before
        edit_postgresql(layers, WITHOUT_PIN)
        attempt(pg, sql, "DELETE FROM t")
        assert pg_state(pg) != before


def test_postgresql_one_statement_a_message(pg: TargetDb, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pg_state(pg)
    with monkeypatch.context() as layers:
        edit_postgresql(layers, WITHOUT_READ_ONLY, WITHOUT_ROLLBACK)
        attempt(pg, "SELECT 1; DELETE FROM t")
        assert pg_state(pg) == before
        prepare = postgresql_driver._Link._prepare
        simply = lambda self, sql: (self.ask(sql.decode()), prepare(self, b"SELECT 1"))  # noqa: E731
        layers.setattr(postgresql_driver._Link, "_prepare", simply)  # through the simple protocol
        attempt(pg, "SELECT 1; DELETE FROM t")
        assert pg_state(pg) != before


def test_postgresql_rollback(pg: TargetDb, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pg_state(pg)
    with monkeypatch.context() as layers:
        edit_postgresql(layers, WITHOUT_READ_ONLY)
        run(pg.url, "DELETE FROM t")
        assert pg_state(pg) == before
        edit_postgresql(layers, WITHOUT_ROLLBACK)
        run(pg.url, "DELETE FROM t")
        assert pg_state(pg) != before


@pytest.mark.parametrize(
    ("sql", "left"),
    [
        ("SELECT pg_advisory_lock(4711)", "SELECT count(*) FROM pg_locks WHERE objid = 4711"),
        ("PREPARE p AS SELECT 1", "SELECT count(*) FROM pg_prepared_statements"),
        ("LISTEN ch", "SELECT count(*) FROM pg_listening_channels()"),
        ("SET work_mem = '7MB'", "SELECT count(*) FROM pg_settings WHERE name = 'work_mem' AND setting = '7168'"),
        ("SET ROLE pg_monitor", "SELECT count(*) WHERE current_user = 'pg_monitor'"),
        ("CREATE TEMP TABLE x AS SELECT 1", "SELECT count(*) FROM pg_class WHERE relname = 'x'"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "SELECT count(*) FROM pg_cursors"),
    ],
)
def test_postgresql_session_reset(pg: TargetDb, monkeypatch: pytest.MonkeyPatch, sql: str, left: str) -> None:
    """On a connection that outlives the session, as behind a pooler, and although the transaction was committed."""
    with monkeypatch.context() as layers:
        edit_postgresql(layers, WITHOUT_READ_ONLY, WITHOUT_ROLLBACK)
        assert _what_a_pooled_session_left(layers, pg, sql, left) == 0
        layers.setattr(postgresql_driver, "_ROLLBACK_AND_FORGET", "COMMIT")
        assert _what_a_pooled_session_left(layers, pg, sql, left) == 1


def _what_a_pooled_session_left(layers: pytest.MonkeyPatch, db: TargetDb, sql: str, left: str) -> int:
    session: Any = open_driver(db.url).open()
    link = session._link
    try:
        with layers.context() as pooled:
            pooled.setattr(postgresql_driver._Link, "close", lambda self: None)
            session.run([sql], read_only=True, limits=LIMITS, sink=Collected())
            return int(link.ask(left)[0][0])
    finally:
        link.close()


def test_a_pooled_session_goes_on_when_it_cannot_be_reset(pg: TargetDb, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that knows no DISCARD, for one: what was asked for is answered, and the connection closed."""
    with monkeypatch.context() as layers:
        layers.setattr(postgresql_driver, "_ROLLBACK_AND_FORGET", "ROLLBACK; DISCARD NOTHING")
        assert value(pg.url, "SELECT 7") == 7


# --- MariaDB ---------------------------------------------------------------------------------------------------------

WITHOUT_SESSION_READ_ONLY = {"SESSION TRANSACTION READ ONLY": "SESSION TRANSACTION READ WRITE"}
WITHOUT_TRANSACTION_READ_ONLY = {"WITH CONSISTENT SNAPSHOT, READ ONLY": "READ WRITE"}


@pytest.fixture
def my(mariadb_url: str) -> TargetDb:
    made = mysql(mariadb_url)
    made.direct(
        "CREATE TABLE t (id int) ENGINE=InnoDB",
        "INSERT INTO t VALUES (1)",
        "CREATE FUNCTION w() RETURNS int BEGIN INSERT INTO t VALUES (2); RETURN 1; END",
        "CREATE VIEW v AS SELECT w()",
    )
    return made


def edit_mysql(monkeypatch: pytest.MonkeyPatch, *edits: Edits) -> None:
    _edit(monkeypatch, mysql_driver._Link, "_do", edits)


def my_state(db: TargetDb) -> object:
    return db.direct(
        "SELECT (SELECT group_concat(id) FROM t), (SELECT group_concat(table_name ORDER BY table_name)"
        " FROM information_schema.tables WHERE table_schema = database())"
    )


def test_mysql_read_only_session(my: TargetDb, monkeypatch: pytest.MonkeyPatch) -> None:
    """DDL ends the transaction before it begins: only the session's own setting stops it."""
    before = my_state(my)
    with monkeypatch.context() as layers:
        edit_mysql(layers, WITHOUT_ROLLBACK)
        edit_mysql(layers, {"WITH CONSISTENT SNAPSHOT, READ ONLY": ""})
        for sql in ("CREATE TABLE u (a int)", "DELETE FROM t", "SELECT w()", "SELECT * FROM v", "TRUNCATE t"):
            attempt(my, sql)
            assert my_state(my) == before, sql
        edit_mysql(layers, WITHOUT_SESSION_READ_ONLY)
        attempt(my, "CREATE TABLE u (a int)")
        assert my_state(my) != before


@pytest.mark.parametrize("sql", ["DELETE FROM t", "SELECT w()", "SELECT * FROM v"])
def test_mysql_read_only_transaction(my: TargetDb, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    before = my_state(my)
    with monkeypatch.context() as layers:
        edit_mysql(layers, WITHOUT_ROLLBACK, WITHOUT_SESSION_READ_ONLY)
        attempt(my, sql)
        assert my_state(my) == before
        edit_mysql(layers, WITHOUT_TRANSACTION_READ_ONLY)
        attempt(my, sql)
        assert my_state(my) != before


def test_mysql_rollback(my: TargetDb, monkeypatch: pytest.MonkeyPatch) -> None:
    before = my_state(my)
    with monkeypatch.context() as layers:
        edit_mysql(layers, WITHOUT_SESSION_READ_ONLY, WITHOUT_TRANSACTION_READ_ONLY)
        run(my.url, "DELETE FROM t")
        assert my_state(my) == before
        edit_mysql(layers, WITHOUT_ROLLBACK)
        run(my.url, "DELETE FROM t")
        assert my_state(my) != before


def test_mysql_one_statement_a_text(my: TargetDb, monkeypatch: pytest.MonkeyPatch) -> None:
    before = my_state(my)
    with monkeypatch.context() as layers:
        edit_mysql(layers, WITHOUT_ROLLBACK, WITHOUT_SESSION_READ_ONLY, WITHOUT_TRANSACTION_READ_ONLY)
        attempt(my, "SELECT 1; DELETE FROM t")
        assert my_state(my) == before
        flags = SimpleNamespace(FOUND_ROWS=CLIENT.FOUND_ROWS | CLIENT.MULTI_STATEMENTS)
        layers.setattr(mysql_account, "CLIENT", flags)
        attempt(my, "SELECT 1; DELETE FROM t")
        assert my_state(my) != before


@pytest.fixture(scope="module")
def hostile_mariadb() -> Iterator[str]:
    """A server that makes sessions in which SQL reads differently, for accounts that are no administrator's."""
    with services.own_mariadb() as admin:
        db = mysql(admin)
        db.direct(
            "CREATE DATABASE app",
            "CREATE USER reader IDENTIFIED BY 'pw'",
            "GRANT SELECT ON app.* TO reader",
            "SET GLOBAL sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'",
            "SET GLOBAL init_connect = 'SET NAMES gbk'",
        )
        parts = urlsplit(admin)
        yield f"mysql://reader:pw@{parts.hostname}:{parts.port}/app"


@pytest.mark.parametrize(
    ("sql", "expected", "unpinned"),
    [
        (
            r"SELECT '\'; DELETE FROM t; -- '",
            "'; DELETE FROM t; -- ",
            {"sql_mode = '": "sql_mode = 'NO_BACKSLASH_ESCAPES,"},
        ),
        ('SELECT "x"', "x", {"sql_mode = '": "sql_mode = 'ANSI_QUOTES,"}),
        ("SELECT @@character_set_client", "utf8mb4", {"character_set_client = utf8mb4": "character_set_client = gbk"}),
        ("SELECT '中\\'; DELETE FROM t; -- '", "中'; DELETE FROM t; -- ", {"_client = utf8mb4": "_client = gbk"}),
    ],
)
def test_mysql_settings_that_change_how_sql_is_read(
    hostile_mariadb: str, monkeypatch: pytest.MonkeyPatch, sql: str, expected: str, unpinned: Edits
) -> None:
    assert value(hostile_mariadb, sql) == expected
    with monkeypatch.context() as layers:
        edit_mysql(layers, unpinned)
        assert _value_or_none(hostile_mariadb, sql) != expected


def _value_or_none(url: str, sql: str) -> object:
    """None when the server reads something else in it, and refuses it."""
    try:
        return value(url, sql)
    except StatementFailed:
        return None


# --- SQLite ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lite(tmp_path: Path) -> TargetDb:
    made = sqlite(tmp_path / "target.db")
    made.direct("CREATE TABLE t (id INTEGER)", "INSERT INTO t VALUES (1)")
    return TargetDb(f"sqlite:///{tmp_path / 'target.db'}", made.dialect, made.forever, made.numbers)


def lite_state(tmp_path: Path) -> object:
    connection = sqlite3.connect(tmp_path / "target.db")
    try:
        dump = list(connection.iterdump())
        return dump, connection.execute("PRAGMA user_version").fetchone(), sorted(p.name for p in tmp_path.iterdir())
    finally:
        connection.close()


def unguarded(*, read_only: bool) -> Callable[..., int]:
    return lambda *_: sqlite3.SQLITE_OK


def writable(path: Path, *, read_only: bool) -> sqlite3.Connection:
    return connect_sqlite(path, read_only=False)


connect_sqlite = sqlite_driver.connect


@pytest.mark.parametrize("sql", ["DELETE FROM t", "PRAGMA user_version = 3", "DROP TABLE t"])
def test_sqlite_opened_read_only(lite: TargetDb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    before = lite_state(tmp_path)
    with monkeypatch.context() as layers:
        layers.setattr(sqlite_driver, "guard", unguarded)
        layers.setattr(sqlite_driver._Link, "undo", sqlite_driver._Link.commit)
        attempt(lite, sql)
        assert lite_state(tmp_path) == before
        layers.setattr(sqlite_driver, "connect", writable)
        attempt(lite, sql)
        assert lite_state(tmp_path) != before


@pytest.mark.parametrize("sql", ["DELETE FROM t", "PRAGMA user_version = 3", "DROP TABLE t"])
def test_sqlite_guard(lite: TargetDb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    before = lite_state(tmp_path)
    with monkeypatch.context() as layers:
        layers.setattr(sqlite_driver, "connect", writable)
        layers.setattr(sqlite_driver._Link, "undo", sqlite_driver._Link.commit)
        attempt(lite, sql)
        assert lite_state(tmp_path) == before
        layers.setattr(sqlite_driver, "guard", unguarded)
        attempt(lite, sql)
        assert lite_state(tmp_path) != before


def test_sqlite_rollback(lite: TargetDb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lite_state(tmp_path)
    with monkeypatch.context() as layers:
        layers.setattr(sqlite_driver, "connect", writable)
        layers.setattr(sqlite_driver, "guard", unguarded)
        attempt(lite, "DELETE FROM t")
        assert lite_state(tmp_path) == before
        layers.setattr(sqlite_driver._Link, "undo", sqlite_driver._Link.commit)
        attempt(lite, "DELETE FROM t")
        assert lite_state(tmp_path) != before


def test_sqlite_attaches_no_other_file(lite: TargetDb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read-only or not, ATTACH makes a file: the guard and the limit on attached databases each prevent it."""
    before = lite_state(tmp_path)
    sql = f"ATTACH '{tmp_path / 'other.db'}' AS other"
    with monkeypatch.context() as layers:
        layers.setattr(sqlite_driver, "guard", unguarded)
        attempt(lite, sql)
        assert lite_state(tmp_path) == before
    with monkeypatch.context() as layers:
        layers.setattr(sqlite_driver, "connect", attaching)
        attempt(lite, sql)
        assert lite_state(tmp_path) == before
        layers.setattr(sqlite_driver, "guard", unguarded)
        attempt(lite, sql)
        assert lite_state(tmp_path) != before


def attaching(path: Path, *, read_only: bool) -> sqlite3.Connection:
    connection = connect_sqlite(path, read_only=read_only)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 1)
    return connection


def test_sqlite_copies_no_file(lite: TargetDb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the guard there is still the transaction, in which SQLite refuses VACUUM."""
    before = lite_state(tmp_path)
    with monkeypatch.context() as layers:
        layers.setattr(sqlite_driver, "guard", unguarded)
        layers.setattr(sqlite_driver, "connect", attaching)
        attempt(lite, f"VACUUM INTO '{tmp_path / 'copy.db'}'")
        assert lite_state(tmp_path) == before


def test_sqlite_progress_limit(lite: TargetDb, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as layers:
        layers.setattr(sqlite_driver._Link, "interrupt", lambda self: None)
        with pytest.raises(StatementTimeout):
            run(lite.url, lite.forever, limits=limits(seconds=0.2))


def test_sqlite_interrupt_behind_it(lite: TargetDb, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as layers:
        layers.setattr(sqlite_driver._Link, "_watch_the_clock", lambda self, connection: None)
        layers.setattr(stopper, "MARGIN", 0.1)
        with pytest.raises(StatementTimeout):
            run(lite.url, lite.forever, limits=limits(seconds=0.1))
