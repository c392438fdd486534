"""Migrations when two run at once, when somebody stops one, and when the line or the whole agent is lost."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from dbward.client.agent_api import AgentApi
from dbward.domain.model import Dialect
from tests.worker.migrations import DOWN, ENGINES, UP, Bench, applied, ids, insert, pinned, said, steps, versions
from tests.worker.targets import TargetDb, empty, mysql_connection, proxied
from tests.worker.tiny_server import TinyServer
from worker.drivers import open_driver
from worker.drivers.ledger_mysql import lock_name
from worker.lease import Stop


def made(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> TargetDb:
    db = empty(engine, request, tmp_path / "target.db")
    db.direct("CREATE TABLE t (id integer PRIMARY KEY, name varchar(40))")
    return db


@pytest.fixture(params=ENGINES)
def db(request: pytest.FixtureRequest, tmp_path: Path) -> TargetDb:
    return made(request.param, request, tmp_path)


@pytest.fixture(params=["postgresql", "mysql"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> TargetDb:
    """On a server, which goes on when its client is gone."""
    return made(request.param, request, tmp_path)


@pytest.fixture
def pg(request: pytest.FixtureRequest, tmp_path: Path) -> TargetDb:
    return made("postgresql", request, tmp_path)


@pytest.fixture
def my(request: pytest.FixtureRequest, tmp_path: Path) -> TargetDb:
    return made("mysql", request, tmp_path)


@pytest.fixture
def on(server: TinyServer, api: AgentApi) -> Iterator[Callable[[str], Bench]]:
    """Makes an agent on the database of a URL."""
    benches: list[Bench] = []

    def make(url: str) -> Bench:
        benches.append(Bench(server, api, url, name=f"e{len(benches)}-"))
        return benches[-1]

    yield make
    for one in benches:
        one.close()


def until(true: Callable[[], Any]) -> None:
    while not true():
        time.sleep(0.01)


@contextmanager
def in_the_way(db: TargetDb) -> Iterator[Callable[[], None]]:
    """Another connection, because of which `insert(99)` has to wait until what this gives is called."""
    connection: Any
    if db.dialect is Dialect.POSTGRESQL:
        connection = psycopg.connect(db.url)
    elif db.dialect is Dialect.MYSQL:
        connection = mysql_connection(db.url)
        connection.begin()
    else:
        connection = sqlite3.connect(db.url.removeprefix("sqlite://"), check_same_thread=False)
    try:
        connection.cursor().execute(insert(99))
        yield connection.rollback
    finally:
        connection.close()


def waits(db: TargetDb) -> bool:
    """Whether somebody waits for a lock in this database; on SQLite, whether somebody has the right to migrate it."""
    if db.dialect is Dialect.SQLITE:
        return Path(db.url.removeprefix("sqlite://") + "-dbward").exists()
    if db.dialect is Dialect.POSTGRESQL:
        sql = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    else:
        # What InnoDB tells of its locks is of a tenth of a second ago, and older for whoever asks often.
        sql = "SELECT 1 FROM information_schema.processlist WHERE db = DATABASE() AND info LIKE 'INSERT%(99,%'"
    return db.direct(sql) != []


RUNS = (
    "FROM pg_locks WHERE locktype = 'advisory' AND objid = 1"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
"""The lock of a run in this database of PostgreSQL's; other tests have theirs in others."""


# --- two at once -----------------------------------------------------------------------------------------------------


def test_of_two_runs_at_once_one_is_put_off(db: TargetDb, on: Callable[[str], Bench]) -> None:
    first, second = on(db.url), on(db.url)
    first.run(UP, pinned(1, insert(1)))
    with ThreadPoolExecutor(1) as threads, in_the_way(db) as go:
        running = threads.submit(first.run, UP, pinned(1, insert(1)), pinned(2, insert(2), insert(99)))
        until(lambda: waits(db))
        released = second.released(UP, pinned(2, insert(2), insert(99)), pinned(3, insert(3)))
        assert (released["delay_secs"], "migrated by another run" in released["reason"]) == (5, True)
        go()
        assert steps(running.result()) == [("1", "skipped"), ("2", "applied")]
    assert second.server.started.keys() == first.server.outcomes.keys()
    assert steps(second.run(UP, pinned(2, insert(2), insert(99)), pinned(3, insert(3)))) == [
        ("2", "skipped"),
        ("3", "applied"),
    ]
    assert ids(db) == [1, 2, 3, 99]


def test_the_lock_is_for_one_database_and_can_be_lost(db: TargetDb) -> None:
    driver = open_driver(db.url)
    with closing(driver.lock_migrations()) as lock:  # type: ignore[type-var]  # free
        assert lock.held()
        assert driver.lock_migrations() is None
        if db.dialect is Dialect.POSTGRESQL:
            db.direct(f"SELECT pg_terminate_backend(pid) {RUNS}")
        elif db.dialect is Dialect.MYSQL:
            (killed,) = db.direct("SELECT id FROM information_schema.processlist WHERE db = DATABASE() ORDER BY id")[0]
            db.direct(f"KILL {killed}")
        else:
            Path(db.url.removeprefix("sqlite://") + "-dbward").unlink()
        until(lambda: not lock.held())
    until(lambda: (again := driver.lock_migrations()) is not None and again.close() is None)


def test_a_run_that_loses_its_lock_begins_no_further_file(pg: TargetDb, on: Callable[[str], Bench]) -> None:
    agent = on(pg.url)
    lose = f"SELECT pg_terminate_backend(pid, 5000) {RUNS}"
    outcome = agent.run(UP, pinned(1, insert(1), lose), pinned(2, insert(2)))
    assert (outcome["outcome"], outcome["error"]["code"]) == ("failed", "migration.lock_lost")
    assert steps(outcome) == [("1", "applied"), ("2", "not_run")]
    assert outcome["error"]["detail"] == "Applied before it, and staying so: 1."


def test_the_lock_keeps_no_index_from_being_built(pg: TargetDb, on: Callable[[str], Bench]) -> None:
    agent = on(pg.url)
    both = ["CREATE INDEX CONCURRENTLY one ON t (name)", "CREATE INDEX CONCURRENTLY two ON t (name, id)"]
    assert steps(agent.run(UP, pinned(1, *both, transactional=False))) == [("1", "applied")]
    assert len(pg.direct("SELECT 1 FROM pg_indexes WHERE indexname IN ('one', 'two')")) == 2


# --- the agent dies --------------------------------------------------------------------------------------------------

CHILD = """
import sys
from contextlib import closing
from datetime import timedelta
from dbward.domain.model import Limits
from worker.drivers import open_driver
from worker.drivers.ledger_mysql import lock_name
from worker.drivers.base import Script

url, transactional, *statements = sys.argv[1:]
driver = open_driver(url)
with closing(driver.lock_migrations()), driver.open() as session:
    print("begins", flush=True)
    limits = Limits(statement_timeout=timedelta(0), max_rows=0, max_bytes=0)
    records = ("INSERT INTO schema_migrations VALUES ('2')",)
    session.migrate(Script(tuple(statements), records, bool(transactional)), limits=limits)
"""


@contextmanager
def child(db: TargetDb, *statements: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own in the middle of a migration of these statements."""
    argv = [sys.executable, "-c", CHILD, db.url, "yes", *statements]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begins\n"
        try:
            yield process
        finally:
            process.kill()


def test_killed_in_the_middle_of_a_file(db: TargetDb, on: Callable[[str], Bench]) -> None:
    agent = on(db.url)
    agent.run(UP, pinned(1, insert(1)))
    driver = open_driver(db.url)
    if db.dialect is Dialect.SQLITE:
        endless = f"INSERT INTO t (id) {db.forever}"
        path = db.url.removeprefix("sqlite://")
        with child(db, insert(2), endless) as process:
            until(lambda: Path(path + "-journal").exists())
            assert driver.lock_migrations() is None
            process.kill()
    else:
        with in_the_way(db) as go, child(db, insert(2), insert(99)) as process:
            until(lambda: waits(db))
            process.kill()
            process.wait()
            # The server has not noticed yet, and works on: the next run must not begin before it has.
            until(lambda: not runs(db))
            released = agent.released(UP, pinned(2, insert(2)))
            assert "migrated by another run" in released["reason"]
            go()
    until(lambda: (lock := driver.lock_migrations()) is not None and lock.close() is None)
    assert (ids(db), versions(db)) == ([1], ["1"])
    assert steps(agent.run(UP, pinned(1, insert(1)), pinned(2, insert(2)))) == [("1", "skipped"), ("2", "applied")]


def runs(db: TargetDb) -> bool:
    """Whether somebody has the right to migrate this database."""
    if db.dialect is Dialect.POSTGRESQL:
        return db.direct(f"SELECT 1 {RUNS}") != []
    name = lock_name(urlsplit(db.url).path.removeprefix("/"), "run")
    return db.direct(f"SELECT IS_USED_LOCK('{name}')") != [(None,)]


# --- the line is lost ------------------------------------------------------------------------------------------------

COMMIT = {Dialect.POSTGRESQL: b"COMMIT\0", Dialect.MYSQL: b"\x03COMMIT"}
NO_TLS = {Dialect.POSTGRESQL: "?sslmode=disable", Dialect.MYSQL: "?ssl-mode=DISABLED"}


@pytest.mark.parametrize("transactional", [True, False])
def test_the_line_lost_at_the_commit_is_an_unknown_outcome(
    served: TargetDb, on: Callable[[str], Bench], transactional: bool
) -> None:
    on(served.url).run(UP, pinned(1, insert(1)))
    with proxied(served.url) as (proxy, url):
        agent = on(url + NO_TLS[served.dialect])
        proxy.cut_on = COMMIT[served.dialect]
        outcome = agent.run(UP, pinned(2, insert(2), transactional=transactional), pinned(3, insert(3)))
    assert outcome["outcome"] == "unknown"
    assert steps(outcome) == [("2", "unknown"), ("3", "not_run")]
    assert outcome["error"]["message"].startswith("2_step, when it was recorded: the connection was lost")
    assert "migrate status" in outcome["error"]["hint"]
    assert (ids(served), versions(served)) == ([1, 2], ["1", "2"])  # this time it did arrive
    assert agent.changed != []


def test_the_line_lost_in_a_statement_is_a_failure_where_nothing_can_stay(
    served: TargetDb, on: Callable[[str], Bench]
) -> None:
    on(served.url).run(UP, pinned(1, insert(1)))
    with proxied(served.url) as (proxy, url):
        agent = on(url + NO_TLS[served.dialect])
        proxy.cut_on = b"cut here"
        outcome = agent.run(UP, pinned(2, insert(2), insert(3, "cut here")))
    assert (outcome["outcome"], outcome["error"]["code"]) == ("failed", "connection.lost")
    assert steps(outcome) == [("2", "failed")]
    assert "Nothing of this file stays" in outcome["error"]["detail"]
    until(lambda: (lock := open_driver(served.url).lock_migrations()) is not None and lock.close() is None)
    assert (ids(served), versions(served)) == ([1], ["1"])


@pytest.mark.parametrize(
    ("statement", "transactional"), [("CREATE TABLE cut_here (id int)", True), (insert(3, "cut_here"), False)]
)
def test_the_line_lost_in_a_statement_that_commits_by_itself_is_unknown(
    my: TargetDb, on: Callable[[str], Bench], statement: str, transactional: bool
) -> None:
    on(my.url).run(UP, pinned(1, insert(1)))
    with proxied(my.url) as (proxy, url):
        agent = on(url + NO_TLS[my.dialect])
        proxy.cut_on = b"cut_here"
        outcome = agent.run(UP, pinned(2, insert(2), statement, transactional=transactional))
    assert (outcome["outcome"], steps(outcome)) == ("unknown", [("2", "unknown")])
    assert "2_step, statement 2 of 2" in outcome["error"]["message"]
    if not transactional:
        assert "Its first statement took effect and stays." in outcome["error"]["detail"]
    assert versions(my) == ["1"]


# --- stopped ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False])
def test_cancelled_in_a_file_that_can_be_taken_back(db: TargetDb, on: Callable[[str], Bench], before: bool) -> None:
    agent = on(db.url)
    endless = "DO SLEEP(1) /* endless */" if db.dialect is Dialect.MYSQL else db.forever
    files = [*([pinned(1, insert(1))] if before else []), pinned(2, insert(2), endless, insert(3))]
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(agent.run, UP, *files)
        # In this process nobody can be asked whether it runs yet; the lease is renewed after a second.
        until(lambda: agent.server.longest_wait if db.dialect is Dialect.SQLITE else db.busy() == 1)
        agent.jobs.stop_all(Stop.CANCELLED)
        outcome = running.result()
    assert outcome["error"]["code"] == "statement.cancelled"
    assert steps(outcome) == [*([("1", "applied")] if before else []), ("2", "failed")]
    assert "Nothing of this file stays." in outcome["error"]["detail"]
    # What was applied before stays, so it is not as if nothing had been.
    assert outcome["outcome"] == ("failed" if before else "cancelled")
    assert ids(db) == ([1] if before else [])


def test_cancelled_between_two_files(db: TargetDb, on: Callable[[str], Bench]) -> None:
    agent = on(db.url)
    agent.run(UP, pinned(1, insert(1)))
    with ThreadPoolExecutor(1) as threads, in_the_way(db) as go:
        file = pinned(2, insert(99), transactional=db.dialect is Dialect.SQLITE)
        running = threads.submit(agent.run, UP, file, pinned(3, insert(3)))
        until(lambda: waits(db))
        agent.jobs.stop_all(Stop.CANCELLED)
        go()
        outcome = running.result()
    if db.dialect is Dialect.SQLITE:  # it waited for its turn, and nothing had begun
        assert (outcome["outcome"], steps(outcome)) == ("cancelled", [("2", "not_run"), ("3", "not_run")])
    else:  # a statement whose end nothing can take back is let finish, and its file with it
        assert (outcome["outcome"], steps(outcome)) == ("failed", [("2", "applied"), ("3", "not_run")])
        assert "Applied before it, and staying so: 2." in outcome["error"]["detail"]


@pytest.mark.parametrize("transactional", [True, False])
def test_stopping_waits_for_a_statement_of_mysql_and_says_what_stays(
    my: TargetDb, on: Callable[[str], Bench], transactional: bool
) -> None:
    agent = on(my.url)
    with ThreadPoolExecutor(1) as threads, in_the_way(my) as go:
        file = pinned(2, "CREATE TABLE u (id int)", insert(99), "CREATE TABLE v (id int)", transactional=transactional)
        running = threads.submit(agent.run, UP, file)
        until(lambda: waits(my))
        agent.jobs.stop_all(Stop.DRAINED)
        go()
        outcome = running.result()
    assert (outcome["outcome"], outcome["error"]["code"]) == ("failed", "agent.stopped")
    stays = "Its first statement took effect and stays." if transactional else "Its first 2 statements took effect"
    assert stays in outcome["error"]["detail"]
    where = "2_step, statement 2 of 3: " if transactional else "2_step, after statement 2 of 3: "
    assert outcome["error"]["message"].startswith(where)
    assert "record it as applied: dbward -d app -e test migrate repair" in outcome["error"]["hint"]
    assert ids(my) == ([] if transactional else [99])
    assert my.direct("SHOW TABLES LIKE 'u'") == [("u",)]


def test_over_its_time_a_statement_is_stopped(db: TargetDb, on: Callable[[str], Bench]) -> None:
    outcome = on(db.url).run(UP, pinned(1, insert(1)), pinned(2, insert(2), db.forever), timeout_ms=500)
    assert (outcome["outcome"], outcome["error"]["code"]) == ("failed", "statement.timeout")
    assert steps(outcome) == [("1", "applied"), ("2", "failed")]
    assert (ids(db), versions(db)) == ([1], ["1"])


# --- what stays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_what_mysql_committed_by_itself_is_said(my: TargetDb, on: Callable[[str], Bench], bad: int) -> None:
    statements = ["CREATE TABLE u (id int)", "ALTER TABLE u ADD name int", "ALTER TABLE u ADD more int"]
    statements[bad - 1] = "ALTER TABLE nowhere ADD x int"
    outcome = on(my.url).run(UP, pinned(1, *statements))
    stays = ["Nothing of this file stays", "Its first statement took effect", "Its first 2 statements took effect"]
    assert stays[bad - 1] in outcome["error"]["detail"]
    assert ("migrate repair" in (outcome["error"]["hint"] or "")) is (bad > 1)
    assert versions(my) == []


def test_what_failing_ddl_commits_is_said(my: TargetDb, on: Callable[[str], Bench]) -> None:
    outcome = on(my.url).run(UP, pinned(1, insert(1), "CREATE TABLE t (id int)"))
    assert ("Nothing of this file stays" in outcome["error"]["detail"]) is (ids(my) == [])


def test_an_index_that_may_have_stayed_is_said(pg: TargetDb, on: Callable[[str], Bench]) -> None:
    pg.direct("INSERT INTO t VALUES (1, 'x'), (2, 'x')")
    broken = "CREATE UNIQUE INDEX CONCURRENTLY one ON t (name)"
    outcome = on(pg.url).run(UP, pinned(1, insert(3), broken, transactional=False))
    assert "Its first statement took effect and stays. What it built concurrently" in outcome["error"]["detail"]
    assert "Undo by hand" in outcome["error"]["hint"]
    assert pg.direct("SELECT indisvalid FROM pg_index WHERE indexrelid = 'one'::regclass") == [(False,)]


def test_a_constraint_that_is_checked_at_the_end(pg: TargetDb, on: Callable[[str], Bench]) -> None:
    pg.direct("CREATE TABLE c (id int REFERENCES t DEFERRABLE INITIALLY DEFERRED)")
    outcome = on(pg.url).run(UP, pinned(1, "INSERT INTO c VALUES (7)"))
    assert (steps(outcome), outcome["error"]["sqlstate"]) == ([("1", "failed")], "23503")
    assert versions(pg) == []


# --- sessions --------------------------------------------------------------------------------------------------------


def test_what_a_file_sets_ends_with_it(pg: TargetDb, on: Callable[[str], Bench]) -> None:
    setting = ["SELECT pg_catalog.set_config('search_path', '', false)", "SET standard_conforming_strings = off"]
    outcome = on(pg.url).run(UP, pinned(1, *setting, "SET timezone = 'Asia/Tokyo'"), pinned(2, insert(2)))
    assert steps(outcome) == [("1", "applied"), ("2", "applied")]
    assert (ids(pg), versions(pg)) == ([2], ["1", "2"])


def test_the_tables_are_in_the_schema_of_the_search_path(pg: TargetDb, on: Callable[[str], Bench]) -> None:
    pg.direct('CREATE SCHEMA "My-Schema"')
    url = pg.url + "?options=-csearch_path%3D%22My-Schema%22%2Cpublic"
    on(url).run(UP, pinned(1, insert(1)))
    assert pg.direct("SELECT schemaname FROM pg_tables WHERE tablename ~ '_migrations$'") == [("My-Schema",)] * 2
    assert [one.version for one in open_driver(url).ledger().applied] == ["1"]
    assert applied(pg) == ()


def test_reading_needs_no_right_to_make_tables(pg: TargetDb, on: Callable[[str], Bench]) -> None:
    on(pg.url).run(UP, pinned(1, insert(1)))
    pg.direct(
        "DROP ROLE IF EXISTS dbward_reader",
        "CREATE ROLE dbward_reader LOGIN PASSWORD 'x'",
        "GRANT SELECT ON schema_migrations, dbward_migrations TO dbward_reader",
    )
    account = pg.url.partition("://")[2].rpartition("@")[0]
    url = pg.url.replace(account, "dbward_reader:x", 1)
    try:
        assert [one.version for one in open_driver(url).ledger().applied] == ["1"]
        outcome = on(url).run(UP, pinned(2, insert(2)))
        assert (outcome["outcome"], outcome["error"]["sqlstate"]) == ("failed", "42501")
        pg.direct("DROP TABLE dbward_migrations")
        outcome = on(url).run(UP, pinned(2, insert(2)))
        assert "the tables of the record cannot be made" in outcome["error"]["message"]
        assert steps(outcome) == [("2", "not_run")]
        pg.direct("REVOKE ALL ON schema_migrations FROM dbward_reader")
        assert "the record of migrations cannot be read" in said(on(url).run(DOWN, pinned(1, insert(2))))
    finally:
        pg.direct("DROP OWNED BY dbward_reader", "DROP ROLE dbward_reader")


def test_another_database_of_the_session_is_not_where_it_is_recorded(my: TargetDb, on: Callable[[str], Bench]) -> None:
    outcome = on(my.url).run(UP, pinned(1, "USE information_schema"), pinned(2, insert(2)))
    assert steps(outcome) == [("1", "applied"), ("2", "applied")]
    assert (ids(my), versions(my)) == ([2], ["1", "2"])


def test_where_the_directory_cannot_be_written_it_fails(tmp_path: Path, on: Callable[[str], Bench]) -> None:
    db = empty("sqlite", None, tmp_path / "target.db")  # type: ignore[arg-type]  # not looked at for a file
    db.direct("CREATE TABLE t (id integer)")
    (tmp_path / "target.db-dbward").mkdir()  # root may write everywhere
    outcome = on(db.url).run(UP, pinned(1, insert(1)))
    assert (outcome["outcome"], outcome["error"]["code"]) == ("failed", "migration.no_lock")
    assert outcome["migrations"] is None
    assert db.direct("SELECT * FROM t") == []
