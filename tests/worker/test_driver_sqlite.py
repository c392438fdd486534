"""SQLite: what the guard stops, locks, virtual tables, declared types, URLs."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from dbward.errors import Misconfigured
from tests.worker.targets import LIMITS, Collected, TargetDb, limits, run, sqlite, value
from worker.drivers import open_driver
from worker.drivers.errors import StatementFailed, Unreachable
from worker.drivers.sqlite import connect
from worker.drivers.sqlite_guard import guard


@pytest.fixture(params=["delete", "wal"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> TargetDb:
    made = sqlite(tmp_path / "a file with % and ?.db")
    made.direct(
        f"PRAGMA journal_mode = {request.param}",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name VARCHAR(20), price DECIMAL(10,2))",
        "INSERT INTO t VALUES (1, 'one', 1.5)",
        "CREATE VIEW v AS SELECT * FROM t",
        "CREATE VIRTUAL TABLE words USING fts5(body)",
        "INSERT INTO words VALUES ('hello world')",
        "CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1)",
        "CREATE VIRTUAL TABLE old USING fts4(body)",
        "INSERT INTO old VALUES ('hello again')",
    )
    return TargetDb(f"sqlite:///{tmp_path}/a file with % and ?.db", made.dialect, "", "")


@pytest.fixture
def path(db: TargetDb, tmp_path: Path) -> Path:
    return tmp_path / "a file with % and ?.db"


def rows(path: Path, sql: str = "SELECT * FROM t") -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH '{dir}/other.db' AS other",
        "VACUUM INTO '{dir}/copy.db'",
        "VACUUM",
        "DETACH main",
        "SELECT load_extension('{dir}/x.so')",
        "SELECT fts3_tokenizer('simple')",
        "PRAGMA writable_schema = ON",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = MEMORY",
        "PRAGMA hard_heap_limit = 1",
        "PRAGMA user_version = 7",
        "PRAGMA temp_store_directory = '/'",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "EXPLAIN PRAGMA query_only = OFF",
        "EXPLAIN PRAGMA writable_schema = ON",
        "SELECT * FROM pragma_optimize",
        "SELECT * FROM pragma_wal_checkpoint",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT s",
        "SELECT 1; SELECT 2",
        "SELECT ?",
        "SELECT :name",
    ],
)
def test_never_runs(db: TargetDb, path: Path, sql: str, read_only: bool) -> None:
    before = sorted(p.name for p in path.parent.iterdir())
    with pytest.raises(StatementFailed):
        run(db.url, sql.format(dir=path.parent), "SELECT 1", read_only=read_only)
    assert {p.name for p in path.parent.iterdir()} <= {*before, path.name + "-shm", path.name + "-wal"}
    assert rows(path) == [(1, "one", 1.5)]
    assert rows(path, "PRAGMA user_version") == [(0,)]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (2, 'two', 2)",
        "CREATE TEMP TABLE x (a)",
        "REINDEX",
        "ANALYZE",
        "INSERT INTO words(words) VALUES ('optimize')",
        "SELECT optimize(old) FROM old",
        "WITH x AS (SELECT 1) DELETE FROM t",
        "PRAGMA optimize",
        "PRAGMA incremental_vacuum",
    ],
)
def test_refused_on_the_read_path(db: TargetDb, path: Path, sql: str) -> None:
    with pytest.raises(StatementFailed):
        run(db.url, sql)
    assert rows(path) == [(1, "one", 1.5)]


def test_the_guard_alone_holds_on_a_writable_connection(path: Path) -> None:
    connection = connect(path, read_only=False)
    connection.set_authorizer(guard(read_only=True))
    try:
        for sql in ("DELETE FROM t", "CREATE TABLE x (a)", "PRAGMA user_version = 3", "VACUUM", "BEGIN"):
            with pytest.raises(sqlite3.DatabaseError):
                connection.execute(sql)
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT name FROM v", [["one"]]),
        ("SELECT value FROM json_each('[1, 2]')", [[1], [2]]),
        ("SELECT count(*) FROM json_tree('{\"a\": [1]}')", [[3]]),
        ("SELECT body FROM words WHERE words MATCH 'hello'", [["hello world"]]),
        ("SELECT highlight(words, 0, '<', '>') FROM words WHERE words MATCH 'hello'", [["<hello> world"]]),
        ("SELECT body FROM old WHERE old MATCH 'again'", [["hello again"]]),
        ("SELECT count(*) FROM boxes WHERE x0 > 1", [[0]]),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n",
            [[1], [2], [3]],
        ),
        ("SELECT name FROM pragma_table_info('t')", [["id"], ["name"], ["price"]]),
        ("PRAGMA user_version", [[0]]),
        ("SELECT name FROM sqlite_master WHERE type = 'view'", [["v"]]),
        ("SELECT sum(price) OVER (ORDER BY id) FROM t", [[1.5]]),
        ("VALUES (1, 'a')", [[1, "a"]]),
        ("SELECT '{\"a\":1}' ->> '$.a'", [[1]]),
        ("SELECT date('2024-02-29', '+1 day')", [["2024-03-01"]]),
        ("EXPLAIN QUERY PLAN SELECT 1", [[1, 0, 0, "SCAN CONSTANT ROW"]]),
    ],
)
def test_reads(db: TargetDb, sql: str, expected: object) -> None:
    got = run(db.url, sql)[1].rows_
    if sql.startswith("EXPLAIN"):
        got = [[1, 0, 0, got[0][3]]]
    assert got == expected


@pytest.mark.parametrize(
    ("sql", "kind", "expected"),
    [
        ("SELECT NULL", "ANY", None),
        ("SELECT 9223372036854775807", "INTEGER", 2**63 - 1),
        ("SELECT -9223372036854775808", "INTEGER", -(2**63)),
        ("SELECT 0.1", "REAL", 0.1),
        ("SELECT 1.0", "REAL", 1.0),
        ("SELECT 1e999", "REAL", "Infinity"),
        ("SELECT -1e999", "REAL", "-Infinity"),
        ("SELECT x'00ff'", "BLOB", "\\x00ff"),
        ("SELECT ''", "TEXT", ""),
        ("SELECT 'é' || char(0) || '😀'", "TEXT", "é\0😀"),
        ("SELECT cast(x'fffe' AS TEXT)", "TEXT", "\\xfffe"),
        ("SELECT price FROM t", "DECIMAL(10,2)", 1.5),
        ("SELECT name AS other FROM v", "VARCHAR(20)", "one"),
        ("SELECT name FROM t -- the end", "VARCHAR(20)", "one"),
        ("SELECT id FROM t;", "INTEGER", 1),
        ("SELECT count(*) FROM t", "INTEGER", 1),
        ("SELECT json('[1]')", "TEXT", "[1]"),
    ],
)
def test_values_and_types(db: TargetDb, sql: str, kind: str, expected: object) -> None:
    _, sink = run(db.url, sql)
    assert (sink.types, sink.rows_) == ([kind], [[expected]])


def test_the_type_of_an_expression_is_its_first_real_value(db: TargetDb) -> None:
    _, sink = run(db.url, "SELECT nullif(column1, 1) FROM (VALUES (1), (2))")
    assert (sink.types, sink.rows_) == (["INTEGER"], [[None], [2]])


def test_changes_are_counted_whatever_the_statement_begins_with(db: TargetDb, path: Path) -> None:
    outcome, _ = run(
        db.url,
        "WITH n(i) AS (VALUES (10), (11), (12)) INSERT INTO t SELECT i, 'n', 0 FROM n",
        "CREATE TABLE u (a)",
        "/* c */ WITH x AS (SELECT 10 AS id) DELETE FROM t WHERE id IN (SELECT id FROM x)",
        "ALTER TABLE u ADD COLUMN b",
        "INSERT INTO words VALUES ('more')",
        "SELECT * FROM t",
        read_only=False,
    )
    assert (outcome.rows_affected, outcome.row_count) == (5, 3)
    assert len(rows(path)) == 3


def test_ddl_is_in_the_transaction(db: TargetDb, path: Path) -> None:
    with pytest.raises(StatementFailed):
        run(db.url, "CREATE TABLE u (a)", "DROP TABLE t", "SELECT nope", read_only=False)
    assert rows(path) == [(1, "one", 1.5)]


def test_a_deferred_foreign_key_fails_at_the_commit_and_nothing_stays(db: TargetDb, path: Path) -> None:
    sqlite3.connect(path).execute(
        "CREATE TABLE c (id INTEGER REFERENCES t DEFERRABLE INITIALLY DEFERRED)"
    ).connection.close()
    with pytest.raises(StatementFailed, match="FOREIGN KEY"):
        run(db.url + "?foreign_keys=on", "INSERT INTO c VALUES (7)", read_only=False)
    assert rows(path, "SELECT * FROM c") == []
    assert run(db.url, "INSERT INTO c VALUES (7)", read_only=False)[0].rows_affected == 1


def test_a_value_larger_than_the_agents_memory_should_hold(db: TargetDb) -> None:
    with pytest.raises(StatementFailed) as failed:
        run(db.url, "SELECT zeroblob(300000000)")
    assert "SQLITE_TOOBIG" in (failed.value.error.detail or "")


def test_a_writer_in_the_way(db: TargetDb, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StatementFailed, match="locked"):
            run(db.url, "UPDATE t SET name = 'x'", read_only=False, limits=limits(seconds=0.3))
        open_driver(db.url).ping()
    finally:
        other.close()
    assert run(db.url, "UPDATE t SET name = 'x'", read_only=False)[0].rows_affected == 1


def test_a_reader_sees_one_moment(db: TargetDb, path: Path) -> None:
    if rows(path, "PRAGMA journal_mode") != [("wal",)]:
        return
    assert value(db.url, "SELECT count(*) FROM t") == 1


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://host/a.db",
        "sqlite:///a.db?foreign_keys=maybe",
        "sqlite:a.db",
    ],
)
def test_a_url_that_cannot_work(url: str) -> None:
    with pytest.raises(Misconfigured):
        open_driver(url)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"no database, but long enough to be taken for one" * 100)
    with pytest.raises(Unreachable, match="not a SQLite database"):
        open_driver(f"sqlite:///{tmp_path}/x.db").ping()


def test_a_file_that_vanished_is_not_made_anew(db: TargetDb, path: Path) -> None:
    with open_driver(db.url).open() as session:
        for each in path.parent.iterdir():
            each.unlink()
        with pytest.raises(StatementFailed) as failed:
            session.run(["DELETE FROM t"], read_only=False, limits=LIMITS, sink=Collected())
    assert failed.value.code == "connection.lost"
    assert list(path.parent.iterdir()) == []
