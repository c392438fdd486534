"""PostgreSQL: the read path's walls, errors in full, connections lost at each point, URLs."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from dbward.errors import Misconfigured
from tests.worker.targets import TargetDb, limits, postgresql, proxied, run, value
from worker.drivers import open_driver
from worker.drivers.errors import CredentialsRefused, OutcomeUnknown, StatementFailed, StatementTimeout, Unreachable


@pytest.fixture
def db(postgres_url: str) -> TargetDb:
    made = postgresql(postgres_url)
    made.direct(
        "CREATE TABLE t (id int PRIMARY KEY, name text)",
        "INSERT INTO t VALUES (1, 'one')",
        "CREATE SEQUENCE s",
        """CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO t VALUES (99, 'written'); RETURN 1; END $$""",
    )
    return made


@pytest.mark.parametrize(
    "sql",
    [
        "SET transaction_read_only = off",
        "SET TRANSACTION READ WRITE",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "SELECT writes()",
        "WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone",
        "SELECT nextval('s')",
        "SELECT * INTO copied FROM t",
        "SELECT 1; COMMIT; DELETE FROM t",
        "COPY t FROM STDIN",
        "COPY t TO STDOUT",
        "VACUUM t",
        "PREPARE TRANSACTION 'x'",
        "SELECT 1 FROM t FOR UPDATE",
    ],
)
def test_refused_on_the_read_path(db: TargetDb, sql: str) -> None:
    with pytest.raises(StatementFailed):
        run(db.url, sql)
    assert db.direct("SELECT * FROM t") == [(1, "one")]


@pytest.mark.parametrize(
    "sql",
    [
        "EXPLAIN ANALYZE CREATE TABLE made AS SELECT 1",
        "SELECT lo_create(4711)",
        "NOTIFY someone",
        "ANALYZE t",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    ],
)
def test_what_read_only_lets_through_is_rolled_back(db: TargetDb, sql: str) -> None:
    before = db.direct("SELECT count(*) FROM pg_class")
    with suppress(StatementFailed):
        run(db.url, sql)
    assert db.direct("SELECT count(*) FROM pg_class") == before
    assert db.direct("SELECT count(*) FROM pg_largeobject_metadata WHERE oid = 4711") == [(0,)]


def test_session_locks_do_not_outlive_the_session(db: TargetDb) -> None:
    run(db.url, "SELECT pg_advisory_lock(4711)")
    while db.direct("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711") != [(0,)]:
        pass


def test_an_error_in_full(db: TargetDb) -> None:
    db.direct("CREATE TABLE c (id int REFERENCES t)")
    with pytest.raises(StatementFailed) as failed:
        run(db.url, "INSERT INTO c VALUES (7)", read_only=False)
    error = failed.value.error
    assert (error.sqlstate, error.detail) == ("23503", 'Key (id)=(7) is not present in table "t".')
    with pytest.raises(StatementFailed) as failed:
        run(db.url, "SELECT 'é', nmae FROM t")
    error = failed.value.error
    assert (error.sqlstate, error.position) == ("42703", 13)
    assert error.hint is not None
    assert "t.name" in error.hint


def test_a_deferred_constraint_fails_at_the_commit_and_nothing_stays(db: TargetDb) -> None:
    db.direct("CREATE TABLE c (id int REFERENCES t DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(StatementFailed) as failed:
        run(db.url, "INSERT INTO c VALUES (7)", read_only=False)
    assert failed.value.error.sqlstate == "23503"
    assert db.direct("SELECT * FROM c") == []


def test_a_trigger_that_runs_at_the_commit_is_under_the_time_limit(db: TargetDb) -> None:
    db.direct(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(600); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    with pytest.raises(StatementTimeout):
        run(db.url, "INSERT INTO t VALUES (2, 'two')", read_only=False, limits=limits(seconds=0.5))
    assert db.direct("SELECT * FROM t") == [(1, "one")]


@pytest.mark.parametrize("end", ["COMMIT", "COMMIT AND CHAIN", "PREPARE TRANSACTION 'x'"])
def test_a_statement_that_ends_the_transaction_ends_the_list(db: TargetDb, end: str) -> None:
    with pytest.raises(StatementFailed) as failed:
        run(db.url, "INSERT INTO t VALUES (2, 'two')", end, "INSERT INTO t VALUES (3, 'three')", read_only=False)
    rows = db.direct("SELECT id FROM t ORDER BY id")
    assert failed.value.partly_committed == (rows == [(1,), (2,)])
    assert (3,) not in rows


def test_ddl_is_in_the_transaction(db: TargetDb) -> None:
    with pytest.raises(StatementFailed):
        run(db.url, "CREATE TABLE u (a int)", "ALTER TABLE t ADD x int", "SELECT 1/0", read_only=False)
    assert db.direct("SELECT count(*) FROM pg_class WHERE relname = 'u'") == [(0,)]


@pytest.mark.parametrize(
    "sql", ["VACUUM t", "VACUUM FULL t", "CREATE INDEX CONCURRENTLY i ON t (name)", "REINDEX TABLE CONCURRENTLY t"]
)
def test_what_cannot_be_in_a_transaction_runs_alone(db: TargetDb, sql: str) -> None:
    outcome, _ = run(db.url, sql, read_only=False)
    assert outcome.rows_affected == 0
    assert db.direct("SELECT indexname FROM pg_indexes WHERE indexname = 'i'") == [("i",)] or " i ON " not in sql


def test_beside_others_it_does_not_run_and_nothing_stays(db: TargetDb) -> None:
    for statements in (
        ("INSERT INTO t VALUES (2, 'two')", "VACUUM t"),
        ("VACUUM t", "INSERT INTO t VALUES (2, 'two')"),
    ):
        with pytest.raises(StatementFailed) as caught:
            run(db.url, *statements, read_only=False)
        assert (caught.value.error.sqlstate, caught.value.error.code) == ("25001", StatementFailed.code)
    assert db.direct("SELECT id FROM t") == [(1,)]


def test_a_failure_outside_a_transaction_says_what_may_stay(db: TargetDb) -> None:
    db.direct("INSERT INTO t VALUES (2, 'one')")
    with pytest.raises(StatementFailed) as caught:
        run(db.url, "CREATE UNIQUE INDEX CONCURRENTLY u ON t (name)", read_only=False)
    assert caught.value.error.code == "statement.partly_committed"
    assert "invalid index" in (caught.value.error.detail or "")
    assert db.direct("SELECT indisvalid FROM pg_index WHERE indexrelid = 'u'::regclass") == [(False,)]


def test_the_time_limit_holds_outside_a_transaction(db: TargetDb) -> None:
    with psycopg.connect(db.url) as other:
        other.execute("INSERT INTO t VALUES (3, 'three')")  # an index made concurrently waits for its end
        with pytest.raises(StatementFailed, match="longer than its time limit") as caught:
            run(db.url, "CREATE INDEX CONCURRENTLY i ON t (name)", read_only=False, limits=limits(seconds=1))
    assert caught.value.error.code == "statement.partly_committed"


def test_counts_of_every_kind_of_statement(db: TargetDb) -> None:
    outcome, sink = run(
        db.url,
        "INSERT INTO t SELECT n, 'n' FROM generate_series(10, 1009) n RETURNING id",
        "CREATE TABLE copied AS SELECT * FROM t",
        "SELECT * FROM t",
        "MERGE INTO t USING (VALUES (1, 'new')) v(id, name) ON t.id = v.id WHEN MATCHED THEN UPDATE SET name = v.name",
        "DELETE FROM t WHERE id > 9 RETURNING id",
        read_only=False,
    )
    assert (outcome.rows_affected, len(sink.rows_)) == (2001, 1000)


def test_the_line_lost_while_a_statement_runs(db: TargetDb) -> None:
    with pytest.raises(StatementFailed) as failed:
        run(db.url, "UPDATE t SET name = 'x'", "SELECT pg_terminate_backend(pg_backend_pid())", read_only=False)
    assert failed.value.error.code == "connection.lost"
    assert db.direct("SELECT name FROM t") == [("one",)]


def test_the_line_lost_at_the_commit_is_an_unknown_outcome(db: TargetDb) -> None:
    with proxied(db.url) as (proxy, url):
        proxy.cut_on = b"COMMIT"
        with pytest.raises(OutcomeUnknown):
            run(url + "?sslmode=disable", "UPDATE t SET name = 'x'", read_only=False)
    assert db.direct("SELECT name FROM t") == [("x",)]


def test_a_server_that_falls_silent_is_given_up(db: TargetDb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.drivers.stopper.GIVE_UP", 0.5)
    monkeypatch.setattr("worker.drivers.stopper.MARGIN", 0.2)
    with proxied(db.url) as (proxy, url):
        proxy.silent_on = b"pg_sleep"
        with pytest.raises(StatementTimeout):
            run(url + "?sslmode=disable", "SELECT pg_sleep(0)", limits=limits(seconds=0.3))


def test_another_ones_cancel_is_not_a_timeout(db: TargetDb) -> None:
    with pytest.raises(StatementFailed) as failed:
        run(db.url, "SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(60)")
    assert (type(failed.value), failed.value.error.sqlstate) == (StatementFailed, "57014")


def test_settings_of_the_session(db: TargetDb) -> None:
    _, sink = run(
        db.url,
        "SELECT current_setting('TimeZone'), current_setting('statement_timeout'), current_setting('lock_timeout'),"
        " current_setting('standard_conforming_strings'), current_setting('transaction_read_only'),"
        " current_setting('idle_in_transaction_session_timeout')",
        limits=limits(seconds=7),
    )
    assert sink.rows_ == [["UTC", "7s", "7s", "on", "on", "2min"]]


def test_a_type_made_in_the_list_itself(db: TargetDb) -> None:
    _, sink = run(db.url, "CREATE TYPE mood AS ENUM ('ok')", "SELECT 'ok'::mood, ARRAY['ok'::mood]", read_only=False)
    assert (sink.types, sink.rows_) == (["mood", "mood[]"], [["ok", ["ok"]]])


# --- URLs ------------------------------------------------------------------------------------------------------------


def account(db: TargetDb, name: str, password: str) -> str:
    quoted = password.replace("'", "''")
    db.direct(f"DROP ROLE IF EXISTS {name}", f"CREATE ROLE {name} LOGIN PASSWORD '{quoted}'")
    parts = urlsplit(db.url)
    login = f"{name}:{quote(password, safe='')}"
    return parts._replace(netloc=f"{login}@{parts.hostname}:{parts.port}").geturl()


def test_a_password_with_every_awkward_character(db: TargetDb) -> None:
    url = account(db, "dbward_awkward", "p@ss:/?#[]%20 &=+'é")
    try:
        assert value(url, "SELECT current_user::text") == "dbward_awkward"
        assert value(url.replace("postgresql://", "postgres://"), "SELECT 1") == 1
    finally:
        db.direct("DROP ROLE dbward_awkward")


def test_a_unix_socket(db: TargetDb) -> None:
    parts = urlsplit(db.url)
    directories = db.direct("SELECT current_setting('unix_socket_directories')")[0][0]
    directory = directories.split(",")[0].strip()
    if not directory:
        return
    login = parts.netloc.rpartition("@")[0]
    url = f"postgresql://{login}@/{parts.path[1:]}?host={quote(directory, safe='')}&port={parts.port}"
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return  # a server whose socket directory is not visible from here
    assert value(url, "SELECT inet_server_addr() IS NULL") is True


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:very-secret@localhost",
        "postgresql://u:very-secret@localhost/",
        "postgresql://u:very#secret@localhost:x/db",
        "postgresql://u:very-secret@localhost/db?no_such=1",
        "postgresql://u:very-secret@localhost/db?connect_timeout=soon",
        "postgresql://u:very-secret@a,b/db",
        "postgresql://u:very-secret@[::1/db",
        "oracle://u:very-secret@localhost/db",
        "very-secret",
        "",
    ],
)
def test_a_url_that_cannot_work(url: str) -> None:
    with pytest.raises(Misconfigured) as failed:
        open_driver(url)
    assert "secret" not in str(failed.value) + (failed.value.hint or "")


def test_an_ipv6_host(free_port: int) -> None:
    with pytest.raises(Unreachable, match="::1"):
        open_driver(f"postgresql://u:p@[::1]:{free_port}/db").open()


def test_a_missing_database_is_not_a_wrong_password(db: TargetDb) -> None:
    with pytest.raises(Unreachable, match="no_such_database"):
        open_driver(urlsplit(db.url)._replace(path="/no_such_database").geturl()).ping()


def test_tls_is_asked_for(db: TargetDb) -> None:
    if db.direct("SHOW ssl") == [("on",)]:
        return
    with pytest.raises(Unreachable, match="SSL"):
        open_driver(db.url + "?sslmode=require").open()


def test_a_role_that_may_not_log_in_is_refused(db: TargetDb) -> None:
    db.direct("DROP ROLE IF EXISTS dbward_locked", "CREATE ROLE dbward_locked NOLOGIN PASSWORD 'very-secret'")
    parts = urlsplit(db.url)
    url = parts._replace(netloc=f"dbward_locked:very-secret@{parts.hostname}:{parts.port}").geturl()
    try:
        with pytest.raises(CredentialsRefused, match="log in"):
            open_driver(url).open()
    finally:
        db.direct("DROP ROLE dbward_locked")
