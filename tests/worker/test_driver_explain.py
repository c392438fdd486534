"""Asking real engines for plans: what they answer, and that nothing of the statement runs."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbward.domain.model import Dialect
from dbward.domain.plans import Plan, render
from tests.worker.targets import TargetDb, empty, mysql, mysql_connection, postgresql, sqlite
from worker.drivers import open_driver
from worker.drivers.errors import StatementFailed, StatementTimeout

TABLES = (
    "CREATE TABLE customers (id integer PRIMARY KEY, name varchar(40))",
    "CREATE TABLE orders (id integer PRIMARY KEY, customer_id integer, state varchar(10))",
    "CREATE INDEX orders_customer ON orders (customer_id)",
)


@pytest.fixture(params=["postgresql", "mysql", "sqlite"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> TargetDb:
    made = empty(request.param, request, tmp_path / "target.db")
    made.direct(
        *TABLES,
        f"INSERT INTO customers SELECT n, 'c' FROM ({made.numbers.format(n=50)}) AS numbers",
        f"INSERT INTO orders SELECT n, n, 'open' FROM ({made.numbers.format(n=3000)}) AS numbers",
        *(["ANALYZE"] if made.dialect is not Dialect.MYSQL else ["ANALYZE TABLE customers, orders"]),
    )
    return made


def explain(db: TargetDb, statement: str, *, seconds: float = 10) -> Plan:
    with open_driver(db.url).open() as session:
        return session.explain(statement, timeout=timedelta(seconds=seconds))


def failure(db: TargetDb, statement: str) -> StatementFailed:
    with pytest.raises(StatementFailed) as caught:
        explain(db, statement)
    return caught.value


def everything(db: TargetDb) -> list[Any]:
    return [db.direct("SELECT * FROM customers ORDER BY id"), db.direct("SELECT * FROM orders ORDER BY id")]


def scanned(plan: Plan) -> list[str]:
    return [scan.table.rpartition(".")[2] for scan in plan.scans]


def test_a_look_up_uses_its_index(db: TargetDb) -> None:
    plan = explain(db, "SELECT * FROM orders WHERE customer_id = 7")
    assert plan.indexes == ("orders_customer",)
    assert plan.scans == ()
    assert plan.rows == (None if db.dialect is Dialect.SQLITE else 1)


def test_a_condition_without_an_index_reads_the_whole_table(db: TargetDb) -> None:
    plan = explain(db, "SELECT * FROM orders WHERE state = 'open'")
    assert scanned(plan) == ["orders"]
    assert "Read from end to end" in render(plan)
    if db.dialect is Dialect.POSTGRESQL:
        assert plan.rows == 3000
        assert plan.cost is not None


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM orders WHERE state = 'open'",
        "UPDATE orders SET state = 'shut'",
        "INSERT INTO customers SELECT id + 1000, state FROM orders WHERE state = 'open'",
    ],
)
def test_a_change_is_planned_and_not_made(db: TargetDb, statement: str) -> None:
    before = everything(db)
    assert scanned(explain(db, statement)) == ["orders"]
    assert everything(db) == before


def test_a_change_under_with_is_planned(db: TargetDb) -> None:
    if db.dialect is Dialect.MYSQL:
        pytest.skip("MariaDB has no WITH before a change")
    before = everything(db)
    statement = (
        "WITH old AS (SELECT id FROM orders WHERE state = 'x') DELETE FROM customers WHERE id IN (SELECT * FROM old)"
    )
    assert "orders" in scanned(explain(db, statement))
    assert everything(db) == before


def test_comments_and_percent_signs_stay_as_they_are(db: TargetDb) -> None:
    plan = explain(db, "/* 100% */ SELECT * FROM orders -- %s\n WHERE state LIKE '%s%'")
    assert scanned(plan) == ["orders"]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE t (a int)",
        "ANALYZE SELECT 1",
        "ANALYZE orders",
        "FOR CONNECTION 1",
        "PRAGMA query_only = OFF",
        "SHOW TABLES",
        "EXECUTE p",
        "(ANALYZE) SELECT 1",
        "/*!50000 ANALYZE */ SELECT 1",
        "",
        ";",
    ],
)
def test_what_has_no_plan_is_not_even_sent(db: TargetDb, statement: str) -> None:
    assert failure(db, statement).error.code == "explain.not_planned"


def test_the_databases_own_words_come_back(db: TargetDb) -> None:
    error = failure(db, "SELECT * FROM nowhere").error
    assert error.code == "statement.failed"
    assert "nowhere" in error.message


def test_a_position_is_one_in_the_statement_itself(db: TargetDb) -> None:
    error = failure(db, "SELECT missing FROM orders").error
    assert error.position == (8 if db.dialect is Dialect.POSTGRESQL else None)


def test_a_second_statement_is_refused(db: TargetDb) -> None:
    before = everything(db)
    failure(db, "SELECT 1; DELETE FROM orders")
    assert everything(db) == before


def test_the_session_holds_nothing_back(db: TargetDb) -> None:
    explain(db, "DELETE FROM orders")
    db.direct("DELETE FROM orders WHERE id = 1", "DROP TABLE customers")


# --- nothing runs -----------------------------------------------------------------------------------------------------


def test_postgresql_lets_no_function_write_while_it_plans(postgres_url: str) -> None:
    """The classification keeps such functions from being planned at all; under it, the transaction is read-only."""
    db = postgresql(postgres_url)
    db.direct(
        "CREATE TABLE marks (at timestamptz)",
        "CREATE FUNCTION write_mark() RETURNS integer LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO marks VALUES (now()); RETURN 1; END'",
        "CREATE FUNCTION mark() RETURNS integer LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN write_mark(); END'",
    )
    assert "read-only" in failure(db, "SELECT * FROM marks WHERE mark() = 1").error.message
    assert "read-only" in failure(db, "DELETE FROM marks WHERE mark() = 1").error.message
    assert db.direct("SELECT count(*) FROM marks") == [(0,)]


def test_mariadb_lets_no_function_write_while_it_plans_a_read(mariadb_url: str) -> None:
    db = mysql(mariadb_url)
    db.direct(
        "CREATE TABLE marks (at integer)",
        "CREATE FUNCTION mark() RETURNS integer DETERMINISTIC MODIFIES SQL DATA"
        " BEGIN INSERT INTO marks VALUES (1); RETURN 1; END",
    )
    failure(db, "SELECT * FROM (SELECT mark() AS one) AS derived")
    assert db.direct("SELECT count(*) FROM marks") == [(0,)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE t JOIN reached ON reached.a = t.a SET t.a = 5",
        "UPDATE t JOIN Reached AS r ON r.a = t.a SET t.a = 5",
        "DELETE FROM t WHERE EXISTS (SELECT 1 FROM `reached`)",
        "INSERT INTO t SELECT one FROM `odd ``name`",
        "INSERT INTO t SELECT one FROM (SELECT mark() AS one) AS derived",
    ],
)
def test_mariadb_plans_no_change_that_reaches_a_view_or_a_function(mariadb_url: str, statement: str) -> None:
    """Planning would run them, and what they did to a table without transactions would stay."""
    db = mysql(mariadb_url)
    db.direct(
        "CREATE TABLE marks (at integer) ENGINE = MyISAM",
        "CREATE TABLE t (a integer) ENGINE = InnoDB",
        "INSERT INTO t VALUES (1), (2)",
        "CREATE FUNCTION mark() RETURNS integer DETERMINISTIC MODIFIES SQL DATA"
        " BEGIN INSERT INTO marks VALUES (1); RETURN 1; END",
        "CREATE VIEW reached AS SELECT a FROM t WHERE mark() = 1",
        "CREATE VIEW `odd ``name` AS SELECT mark() AS one",
    )
    assert failure(db, statement).error.code == "explain.not_planned"
    assert db.direct("SELECT count(*) FROM marks") == [(0,)]
    assert scanned(explain(db, "UPDATE t SET a = 3")) == ["t"]


def test_sqlite_plans_no_function_that_it_does_not_know(tmp_path: Path) -> None:
    db = sqlite(tmp_path / "target.db")
    db.direct("CREATE TABLE t (a)")
    assert "not authorized" in failure(db, "SELECT load_extension('x')").error.message
    assert "not authorized" in failure(db, "DELETE FROM t WHERE a = load_extension('x')").error.message


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_a_locked_table_on_postgresql_ends_in_a_time_out(postgres_url: str) -> None:
    db = postgresql(postgres_url)
    db.direct(*TABLES)
    with psycopg.connect(db.url) as other:
        other.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StatementFailed) as caught:
            explain(db, "SELECT * FROM orders", seconds=0.3)
        assert caught.value.error.code in {StatementTimeout.code, StatementFailed.code}
        other.rollback()
    assert explain(db, "SELECT * FROM orders").scans


def test_a_locked_row_does_not_keep_mariadb_from_planning_for_long(mariadb_url: str) -> None:
    db = mysql(mariadb_url)
    db.direct(*TABLES, "INSERT INTO orders VALUES (1, 1, 'open')")
    other = mysql_connection(db.url)
    try:
        other.begin()
        other.cursor().execute("UPDATE orders SET state = 'shut' WHERE id = 1")
        explain(db, "UPDATE orders SET state = 'x' WHERE id = 1", seconds=2)
    finally:
        other.close()


def test_it_can_be_cancelled(postgres_url: str) -> None:
    db = postgresql(postgres_url)
    db.direct(*TABLES)
    with psycopg.connect(db.url) as other, open_driver(db.url).open() as session:
        other.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        threading.Timer(0.2, session.cancel).start()
        with pytest.raises(Exception, match="cancelled"):
            session.explain("SELECT * FROM orders", timeout=timedelta(seconds=60))
