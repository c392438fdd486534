"""MySQL and MariaDB: the read path's walls, implicit commits, tables without transactions, lost connections, URLs."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from dbward.errors import Misconfigured
from tests.worker.targets import TargetDb, limits, mysql, proxied, run, value
from worker.drivers import open_driver
from worker.drivers.errors import OutcomeUnknown, StatementFailed, StatementTimeout, Unreachable
from worker.drivers.words import first_word


@pytest.fixture
def db(mariadb_url: str) -> TargetDb:
    made = mysql(mariadb_url)
    made.direct(
        "CREATE TABLE t (id int PRIMARY KEY, name varchar(40)) ENGINE=InnoDB",
        "INSERT INTO t VALUES (1, 'one')",
        "CREATE FUNCTION writes() RETURNS int BEGIN INSERT INTO t VALUES (99, 'written'); RETURN 1; END",
        "CREATE PROCEDURE several() BEGIN SELECT 1 AS a; UPDATE t SET name = 'called'; SELECT 2 AS b, 3 AS c; END",
    )
    return made


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT writes()",
        "CALL several()",
        "CREATE TABLE u (a int)",
        "CREATE USER dbward_nobody",
        "GRANT ALL ON *.* TO dbward_nobody",
        "SET PASSWORD = ''",
        "TRUNCATE t",
        "RENAME TABLE t TO u",
        "ANALYZE DELETE FROM t",
        "SET STATEMENT max_statement_time = 1 FOR DELETE FROM t",
        "SELECT 1; DELETE FROM t",
        "SELECT {# \n x 1}; DELETE FROM t # #} 1",
        "/*!50000 DELETE */ FROM t",
        "/*M!100000 DELETE */ FROM t",
        "LOAD DATA LOCAL INFILE '/etc/hostname' INTO TABLE t",
        "BEGIN NOT ATOMIC DELETE FROM t; END",
        "CREATE OR REPLACE VIEW v AS SELECT 1",
        "OPTIMIZE TABLE t",
    ],
)
def test_refused_on_the_read_path(db: TargetDb, sql: str) -> None:
    before = db.direct("SELECT count(*) FROM information_schema.tables WHERE table_schema = database()")
    with suppress(StatementFailed):
        run(db.url, sql)
    assert db.direct("SELECT * FROM t") == [(1, "one")]
    assert db.direct("SELECT count(*) FROM information_schema.tables WHERE table_schema = database()") == before
    assert db.direct("SELECT count(*) FROM mysql.user WHERE user = 'dbward_nobody'") == [(0,)]


def test_a_read_write_switch_does_not_reach_the_next_statement(db: TargetDb) -> None:
    with pytest.raises(StatementFailed):
        run(db.url, "SET SESSION TRANSACTION READ WRITE", "DELETE FROM t")
    assert db.direct("SELECT * FROM t") == [(1, "one")]


def test_settings_of_the_session(db: TargetDb) -> None:
    _, sink = run(
        db.url,
        "SELECT @@sql_mode, @@time_zone, @@character_set_client, @@character_set_results, @@max_statement_time,"
        " @@innodb_lock_wait_timeout, @@autocommit",
        limits=limits(seconds=7),
    )
    mode = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
    assert sink.rows_ == [[mode, "+00:00", "utf8mb4", "utf8mb4", 7.0, 7, 1]]


def test_ddl_in_a_list_commits_and_the_outcome_says_so(db: TargetDb) -> None:
    outcome, _ = run(
        db.url, "UPDATE t SET name = 'x'", "CREATE TABLE u (a int)", "INSERT INTO u VALUES (1)", read_only=False
    )
    assert outcome.notices == ("Statement 2 and what came before it is committed: CREATE commits implicitly.",)
    assert outcome.rows_affected == 2


def test_what_ddl_committed_before_a_failure_is_said(db: TargetDb) -> None:
    with pytest.raises(StatementFailed) as failed:
        run(
            db.url,
            "UPDATE t SET name = 'x'",
            "CREATE TABLE u (a int)",
            "UPDATE t SET name = 'y'",
            "INSERT INTO t VALUES (1, 'again')",
            read_only=False,
        )
    assert failed.value.partly_committed
    assert failed.value.error.sqlstate == "23000"
    assert "Statement 2 and what came before it is committed" in (failed.value.error.detail or "")
    assert db.direct("SELECT name FROM t") == [("x",)]


def test_failing_ddl_commits_what_came_before_it(db: TargetDb) -> None:
    with pytest.raises(StatementFailed) as failed:
        run(db.url, "UPDATE t SET name = 'x'", "CREATE TABLE t (a int)", read_only=False)
    assert failed.value.partly_committed == (db.direct("SELECT name FROM t") == [("x",)])


def test_failing_ddl_alone_committed_nothing(db: TargetDb) -> None:
    with pytest.raises(StatementFailed) as failed:
        run(db.url, "CREATE TABLE t (a int)", read_only=False)
    assert failed.value.error.code == "statement.failed"


def test_a_drop_that_dropped_some(db: TargetDb) -> None:
    with pytest.raises(StatementFailed) as failed:
        run(db.url, "DROP TABLE t, missing", read_only=False)
    assert failed.value.partly_committed


def test_a_syntax_error_after_dml_rolls_back(db: TargetDb) -> None:
    with pytest.raises(StatementFailed) as failed:
        run(db.url, "UPDATE t SET name = 'x'", "UPDAET t", read_only=False)
    assert (failed.value.partly_committed, failed.value.error.sqlstate) == (False, "42000")
    assert db.direct("SELECT name FROM t") == [("one",)]


def test_tables_without_transactions_are_owned_up_to(db: TargetDb) -> None:
    db.direct("CREATE TABLE m (a int PRIMARY KEY) ENGINE=MyISAM")
    with pytest.raises(StatementFailed) as failed:
        run(db.url, "INSERT INTO m VALUES (1)", "UPDATE t SET name = 'x'", "SELECT nope FROM t", read_only=False)
    assert failed.value.partly_committed
    assert "MyISAM" in (failed.value.error.detail or "")
    assert db.direct("SELECT a FROM m") == [(1,)]
    assert db.direct("SELECT name FROM t") == [("one",)]


def test_a_procedure_with_several_results(db: TargetDb) -> None:
    _, sink = run(db.url, "CALL several()", read_only=False)
    assert (sink.begun, sink.names, sink.rows_) == (1, ["b", "c"], [[2, 3]])
    assert db.direct("SELECT name FROM t") == [("called",)]


def test_matched_rows_are_counted_as_elsewhere(db: TargetDb) -> None:
    assert run(db.url, "UPDATE t SET name = 'one'", read_only=False)[0].rows_affected == 1


def test_an_error_in_the_middle_of_the_rows(db: TargetDb) -> None:
    with pytest.raises(StatementFailed):
        run(
            db.url,
            "SELECT seq, CASE WHEN seq = 5000 THEN (SELECT 1 UNION SELECT 2) ELSE seq END FROM seq_1_to_10000",
        )


def test_the_line_lost_while_dml_runs(db: TargetDb) -> None:
    with proxied(db.url) as (proxy, url):
        proxy.cut_on = b"'cut here'"
        with pytest.raises(StatementFailed) as failed:
            run(
                url + "?ssl-mode=DISABLED", "UPDATE t SET name = 'x'", "UPDATE t SET name = 'cut here'", read_only=False
            )
    assert failed.value.error.code == "connection.lost"
    assert db.direct("SELECT name FROM t") == [("one",)]


def test_the_line_lost_while_ddl_runs_is_an_unknown_outcome(db: TargetDb) -> None:
    with proxied(db.url) as (proxy, url):
        proxy.cut_on = b"CREATE TABLE"
        with pytest.raises(OutcomeUnknown):
            run(url + "?ssl-mode=DISABLED", "CREATE TABLE u (a int)", read_only=False)


def test_the_line_lost_at_the_commit_is_an_unknown_outcome(db: TargetDb) -> None:
    with proxied(db.url) as (proxy, url):
        proxy.cut_on = b"COMMIT"
        with pytest.raises(OutcomeUnknown):
            run(url + "?ssl-mode=DISABLED", "UPDATE t SET name = 'x'", read_only=False)
    assert db.direct("SELECT name FROM t") == [("x",)]


def test_a_server_that_falls_silent_is_given_up(db: TargetDb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.drivers.stopper.GIVE_UP", 0.5)
    monkeypatch.setattr("worker.drivers.stopper.MARGIN", 0.2)
    with proxied(db.url) as (proxy, url):
        proxy.silent_on = b"falls silent"
        with pytest.raises(StatementTimeout):
            run(url + "?ssl-mode=DISABLED", "SELECT 'falls silent'", limits=limits(seconds=0.3))


def test_a_killed_connection_is_lost_and_committed_nothing(db: TargetDb) -> None:
    ended: list[BaseException] = []

    def work() -> None:
        try:
            run(db.url, "UPDATE t SET name = 'x'", "SELECT SLEEP(600) AS endless", read_only=False)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    find = "SELECT id FROM information_schema.processlist WHERE info LIKE '%endless%' AND id <> connection_id()"
    while not (found := db.direct(find)):
        time.sleep(0.01)
    db.direct(f"KILL {found[0][0]}")
    thread.join()
    assert [getattr(error, "code", error) for error in ended] == ["connection.lost"]
    assert db.direct("SELECT name FROM t") == [("one",)]


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("select 1", "SELECT"),
        (" \n(( SELECT 1))", "SELECT"),
        ("/* DROP */ -- DROP\n # DROP\nUPDATE t", "UPDATE"),
        ("--\nDROP TABLE t", "DROP"),
        ("--x SELECT", ""),
        ("/*! SELECT */ DROP TABLE t", ""),
        ("SELECT /*M! 1 */", ""),
        ("", ""),
        ("-- only", ""),
    ],
)
def test_first_word(sql: str, word: str) -> None:
    assert first_word(sql) == word


# --- URLs ------------------------------------------------------------------------------------------------------------


def test_a_password_with_every_awkward_character(db: TargetDb) -> None:
    password = "p@ss:/?#[]%20 &=+é"
    db.direct("DROP USER IF EXISTS dbward_awkward", f"CREATE USER dbward_awkward IDENTIFIED BY '{password}'")
    parts = urlsplit(db.url)
    db.direct(f"GRANT ALL ON `{parts.path[1:]}`.* TO dbward_awkward")
    try:
        netloc = f"dbward_awkward:{quote(password, safe='')}@{parts.hostname}:{parts.port}"
        for scheme in ("mysql", "mariadb"):
            url = parts._replace(scheme=scheme, netloc=netloc).geturl()
            assert value(url, "SELECT current_user()") == "dbward_awkward@%"
    finally:
        db.direct("DROP USER dbward_awkward")


def test_a_unix_socket(db: TargetDb) -> None:
    path = db.direct("SELECT @@socket")[0][0]
    if not Path(path).exists():
        return  # a server whose socket is not visible from here
    parts = urlsplit(db.url)
    login = parts.netloc.rpartition("@")[0]
    url = f"mysql://{login}@localhost{parts.path}?unix_socket={quote(path, safe='')}"
    assert str(value(url, "SELECT substring_index(user(), '@', -1)")) == "localhost"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:very-secret@localhost",
        "mysql://u:very-secret@localhost/",
        "mysql://u:very-secret@localhost/a/b",
        "mysql://u:very#secret@localhost/db",
        "mysql://u:very/secret@localhost/db",
        "mysql://u:very?secret@localhost/db",
        "mysql://localhost/db",
        "mysql://u:very-secret@localhost:port/db",
        "mysql://u:very-secret@[::1/db",
        "mysql://u:very-secret@localhost/db?no_such=1",
        "mysql://u:very-secret@localhost/db?ssl_mode=sometimes",
        "mysql://u:very-secret@localhost/db?ssl_ca=/no/such/file",
        "mysql://u:very-secret@localhost/db?charset=latin1",
        "mysql://u:very-secret@localhost/db?connect_timeout=0",
    ],
)
def test_a_url_that_cannot_work(url: str) -> None:
    with pytest.raises(Misconfigured) as failed:
        open_driver(url)
    assert "secret" not in str(failed.value) + (failed.value.hint or "")


def test_an_ipv6_host(free_port: int) -> None:
    with pytest.raises(Unreachable, match="::1"):
        open_driver(f"mysql://u:p@[::1]:{free_port}/db").open()


def test_a_missing_database_is_not_a_wrong_password(db: TargetDb) -> None:
    with pytest.raises(Unreachable, match="no_such_database"):
        open_driver(urlsplit(db.url)._replace(path="/no_such_database").geturl()).ping()


def test_tls_is_insisted_on_when_asked_for(db: TargetDb) -> None:
    if db.direct("SELECT @@have_ssl") == [("YES",)]:
        return
    with pytest.raises(Unreachable):
        open_driver(db.url + "?ssl-mode=REQUIRED").open()
