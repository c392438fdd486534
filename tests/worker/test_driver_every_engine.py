"""What holds on every engine."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dbward.client.wire import ResultColumn
from dbward.domain.model import Dialect
from tests.worker.targets import LIMITS, Collected, TargetDb, empty, limits, run, value
from worker.drivers import open_driver
from worker.drivers.base import Batch
from worker.drivers.errors import (
    CredentialsRefused,
    ResultTooLarge,
    StatementCancelled,
    StatementFailed,
    StatementTimeout,
    Unreachable,
)


@pytest.fixture(params=["postgresql", "mysql", "sqlite"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> TargetDb:
    made = empty(request.param, request, tmp_path / "target.db")
    made.direct(
        "CREATE TABLE t (id integer PRIMARY KEY, name varchar(40))", "INSERT INTO t VALUES (1, 'one'), (2, 'two')"
    )
    return made


def names(db: TargetDb) -> list[str]:
    return [row[0] for row in db.direct("SELECT name FROM t ORDER BY id")]


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_select_gives_columns_rows_and_an_outcome(db: TargetDb) -> None:
    outcome, sink = run(db.url, "SELECT id, name FROM t ORDER BY id")
    assert sink.names == ["id", "name"]
    assert sink.rows_ == [[1, "one"], [2, "two"]]
    assert sink.lines == b'[1,"one"]\n[2,"two"]\n'
    assert (outcome.rows_affected, outcome.row_count, outcome.truncated, outcome.truncation_reason) == (
        None,
        2,
        False,
        None,
    )


def test_no_rows_still_have_columns(db: TargetDb) -> None:
    outcome, sink = run(db.url, "SELECT id, name FROM t WHERE id = 99")
    assert (sink.names, sink.rows_, outcome.row_count) == (["id", "name"], [], 0)


def test_repeated_column_names_keep_every_value(db: TargetDb) -> None:
    _, sink = run(db.url, "SELECT 1 AS a, 2 AS a, 3 AS a_2, 4 AS a")
    assert sink.names == ["a", "a", "a_2", "a"]
    assert sink.keys == ["a", "a_3", "a_2", "a_4"]
    assert sink.rows_ == [[1, 2, 3, 4]]


AWKWARD = "100% %s %(x)s :name ? $1 {{ x }} -- no comment /* nor this */ \t é 😀"


def test_the_text_reaches_the_database_unchanged(db: TargetDb) -> None:
    assert value(db.url, f"SELECT '{AWKWARD}' -- a comment, with 100% and :name and ?") == AWKWARD


def test_backslashes_mean_what_they_mean_on_the_engine(db: TargetDb) -> None:
    expected = "a\\\\b" if db.dialect is not Dialect.MYSQL else "a\\b"
    assert value(db.url, "SELECT 'a\\\\b'") == expected


def test_five_megabytes_of_text(db: TargetDb) -> None:
    big = "x%:?" * 1_250_000
    outcome, sink = run(db.url, f"SELECT length('{big}'), '{big}'")
    assert sink.rows_ == [[5_000_000, big]]
    assert outcome.row_count == 1


@pytest.mark.parametrize(("sql", "code"), [("SELECT 1\0; x", "sql.nul"), ("SELECT '\ud800'", "sql.not_unicode")])
def test_what_cannot_be_sent_unchanged_is_not_sent(db: TargetDb, sql: str, code: str) -> None:
    with pytest.raises(StatementFailed) as failed:
        run(db.url, sql)
    assert failed.value.code == code


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (3, 'three')",
        "UPDATE t SET name = 'x'",
        "DELETE FROM t",
        "CREATE TABLE u (a integer)",
        "DROP TABLE t",
        "ALTER TABLE t ADD COLUMN c integer",
        "COMMIT",
        "ROLLBACK",
    ],
)
def test_the_read_path_changes_nothing(db: TargetDb, sql: str) -> None:
    try:
        run(db.url, sql, "DELETE FROM t")
    except StatementFailed:
        pass
    else:
        pytest.fail("a write was let through")
    assert names(db) == ["one", "two"]
    assert len(db.direct("SELECT * FROM t WHERE 1 = 0")) == 0


@pytest.mark.parametrize("read_only", [True, False])
def test_one_statement_a_text(db: TargetDb, read_only: bool) -> None:
    with pytest.raises(StatementFailed):
        run(db.url, "SELECT 1; DELETE FROM t", read_only=read_only)
    assert names(db) == ["one", "two"]


# --- caps ------------------------------------------------------------------------------------------------------------


def test_a_result_that_just_fits_is_whole(db: TargetDb) -> None:
    outcome, sink = run(db.url, db.numbers.format(n=10), limits=limits(max_rows=10))
    assert (len(sink.rows_), outcome.truncated) == (10, False)
    outcome, _ = run(db.url, db.numbers.format(n=10), limits=limits(max_bytes=len(sink.lines)))
    assert (outcome.row_count, outcome.truncated) == (10, False)


def test_the_row_cap_cuts_and_says_so(db: TargetDb) -> None:
    outcome, sink = run(db.url, db.numbers.format(n=100_000), limits=limits(max_rows=7))
    assert [row[0] for row in sink.rows_] == [1, 2, 3, 4, 5, 6, 7]
    assert (outcome.row_count, outcome.truncated, outcome.truncation_reason) == (7, True, "row limit of 7 reached")


def test_the_byte_cap_cuts_before_the_row_that_would_cross_it(db: TargetDb) -> None:
    outcome, sink = run(db.url, db.numbers.format(n=100_000), limits=limits(max_rows=100_000, max_bytes=1000))
    assert len(sink.lines) <= 1000 < len(sink.lines) + len("[999]\n")
    assert outcome.truncation_reason == "size limit of 1000 bytes reached"


def test_a_row_over_the_byte_cap_is_an_error(db: TargetDb) -> None:
    with pytest.raises(ResultTooLarge) as failed:
        run(db.url, f"SELECT '{'x' * 2000}'", limits=limits(max_bytes=1000))
    assert failed.value.error.code == "result.row_too_large"


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_list_is_one_transaction(db: TargetDb) -> None:
    outcome, sink = run(
        db.url, "UPDATE t SET name = upper(name)", "INSERT INTO t VALUES (3, 'three')", "DELETE FROM t WHERE id = 1",
        read_only=False,
    )  # fmt: skip
    assert (outcome.rows_affected, outcome.row_count, sink.begun) == (4, 0, 0)
    assert names(db) == ["TWO", "three"]


def test_a_failing_list_leaves_nothing(db: TargetDb) -> None:
    with pytest.raises(StatementFailed) as failed:
        run(db.url, "UPDATE t SET name = 'x'", "INSERT INTO t VALUES (1, 'again')", read_only=False)
    assert names(db) == ["one", "two"]
    assert not failed.value.partly_committed
    assert "Statement 2 of 2." in (failed.value.error.detail or "")


def test_the_rows_of_the_last_statement_with_rows_count(db: TargetDb) -> None:
    outcome, sink = run(
        db.url, "SELECT 1 AS early, 2 AS two", "SELECT name FROM t ORDER BY id", "UPDATE t SET name = 'x'",
        read_only=False,
    )  # fmt: skip
    assert (sink.begun, sink.names, sink.rows_) == (1, ["name"], [["one"], ["two"]])
    assert (outcome.rows_affected, outcome.row_count) == (2, 2)
    assert names(db) == ["x", "x"]


def test_returned_rows_are_streamed_and_counted_before_the_commit(db: TargetDb) -> None:
    seen: list[list[str]] = []

    class Looking(Collected):
        def rows(self, rows: Batch, /) -> None:
            super().rows(rows)
            seen.append([] if db.dialect is Dialect.SQLITE else names(db))

    sink = Looking()
    with open_driver(db.url).open() as session:
        outcome = session.run(
            ["INSERT INTO t VALUES (3, 'three'), (4, 'four') RETURNING id, name"],
            read_only=False,
            limits=LIMITS,
            sink=sink,
        )
    assert sink.rows_ == [[3, "three"], [4, "four"]]
    assert (outcome.rows_affected, outcome.row_count) == (2, 2)
    assert all("three" not in before for before in seen)
    assert names(db) == ["one", "two", "three", "four"]


def test_a_cut_result_does_not_cut_the_change(db: TargetDb) -> None:
    values = ", ".join(f"({n}, 'n')" for n in range(10, 2010))
    outcome, sink = run(
        db.url, f"INSERT INTO t VALUES {values} RETURNING id", read_only=False, limits=limits(max_rows=5)
    )
    assert (len(sink.rows_), outcome.truncated, outcome.rows_affected) == (5, True, 2000)
    assert len(names(db)) == 2002


def test_a_huge_returned_row_does_not_cut_the_change(db: TargetDb) -> None:
    sql = "INSERT INTO t VALUES (3, 'a name longer than the cap') RETURNING name"
    outcome, sink = run(db.url, sql, read_only=False, limits=limits(max_bytes=10))
    assert (sink.rows_, outcome.truncated, outcome.rows_affected) == ([], True, 1)
    assert len(names(db)) == 3


class Full(Exception):
    pass


@pytest.mark.parametrize("at", ["columns", "rows"])
def test_a_sink_that_raises_rolls_back(db: TargetDb, at: str) -> None:
    class Failing(Collected):
        def columns(self, columns: Sequence[ResultColumn], /) -> None:
            if at == "columns":
                raise Full

        def rows(self, rows: Batch, /) -> None:
            raise Full

    with open_driver(db.url).open() as session, pytest.raises(Full):
        session.run(
            ["UPDATE t SET name = 'x'", "INSERT INTO t VALUES (3, 'x') RETURNING id"],
            read_only=False,
            limits=LIMITS,
            sink=Failing(),
        )
    assert names(db) == ["one", "two"]


# --- stopping --------------------------------------------------------------------------------------------------------


def wait_until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.01)


def wait_until_running(db: TargetDb) -> None:
    if db.dialect is not Dialect.SQLITE:
        wait_until(lambda: db.busy() == 1)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_statement_over_its_time_is_stopped_in_the_database(db: TargetDb, read_only: bool) -> None:
    with pytest.raises(StatementTimeout) as failed:
        run(db.url, *([] if read_only else ["UPDATE t SET name = 'x'"]), db.forever, read_only=read_only,
            limits=limits(seconds=0.5))  # fmt: skip
    assert failed.value.error.code == "statement.timeout"
    assert names(db) == ["one", "two"]
    if db.dialect is not Dialect.SQLITE:
        wait_until(lambda: db.busy() == 0)  # a moment after its line was cut, the server has noticed


@pytest.mark.parametrize("read_only", [True, False])
def test_cancel_stops_the_statement_in_the_database(db: TargetDb, read_only: bool) -> None:
    statements = [*([] if read_only else ["UPDATE t SET name = 'x'"]), db.forever]
    ended: list[BaseException] = []
    with open_driver(db.url).open() as session:

        def work() -> None:
            try:
                session.run(statements, read_only=read_only, limits=LIMITS, sink=Collected())
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        wait_until_running(db)
        session.cancel()
        session.cancel()
        thread.join()
    assert [type(error) for error in ended] == [StatementCancelled]
    assert names(db) == ["one", "two"]
    if db.dialect is not Dialect.SQLITE:
        wait_until(lambda: db.busy() == 0)  # a moment after its line was cut, the server has noticed


def test_cancel_before_the_run_lets_nothing_run(db: TargetDb) -> None:
    with open_driver(db.url).open() as session:
        session.cancel()
        with pytest.raises(StatementCancelled):
            session.run(["UPDATE t SET name = 'x'"], read_only=False, limits=LIMITS, sink=Collected())
    assert names(db) == ["one", "two"]


def test_cancel_while_rows_are_sent(db: TargetDb) -> None:
    with open_driver(db.url).open() as session:

        class Cancelling(Collected):
            def rows(self, rows: Batch, /) -> None:
                session.cancel()

        with pytest.raises(StatementCancelled):
            session.run(
                [db.numbers.format(n=2_000_000)],
                read_only=True,
                limits=limits(max_rows=10**9, max_bytes=10**12),
                sink=Cancelling(),
            )


def test_cancel_after_the_end_is_harmless(db: TargetDb) -> None:
    with open_driver(db.url).open() as session:
        session.run(["UPDATE t SET name = 'x'"], read_only=False, limits=LIMITS, sink=Collected())
        session.cancel()
    assert names(db) == ["x", "x"]


def test_no_time_limit_at_all(db: TargetDb) -> None:
    outcome, _ = run(db.url, "SELECT 1", limits=limits(seconds=0))
    assert outcome.row_count == 1


def test_a_lock_is_not_waited_for_for_ever(db: TargetDb) -> None:
    holding, release = threading.Event(), threading.Event()

    class Holding(Collected):
        def rows(self, rows: Batch, /) -> None:
            holding.set()
            assert release.wait(60)

    def hold() -> None:
        with open_driver(db.url).open() as session:
            session.run(
                ["INSERT INTO t VALUES (3, 'held') RETURNING id"], read_only=False, limits=LIMITS, sink=Holding()
            )

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert holding.wait(60)
        with pytest.raises(StatementFailed):
            run(db.url, "INSERT INTO t VALUES (3, 'second')", read_only=False, limits=limits(seconds=1))
    finally:
        release.set()
        thread.join()
    assert names(db) == ["one", "two", "held"]


# --- errors and connections ------------------------------------------------------------------------------------------


def test_an_error_is_the_databases_own(db: TargetDb) -> None:
    with pytest.raises(StatementFailed) as failed:
        run(db.url, "SELECT missing FROM nowhere")
    error = failed.value.error
    assert error.code == "statement.failed"
    assert "nowhere" in error.message
    assert error.sqlstate == {Dialect.POSTGRESQL: "42P01", Dialect.MYSQL: "42S02", Dialect.SQLITE: None}[db.dialect]


def test_ping(db: TargetDb) -> None:
    driver = open_driver(db.url)
    driver.ping()
    assert driver.dialect is db.dialect
    driver.close()


def test_sessions_are_independent(db: TargetDb) -> None:
    driver = open_driver(db.url)
    for _ in range(3):
        with driver.open() as session:
            assert session.run(["SELECT 1"], read_only=True, limits=LIMITS, sink=Collected()).row_count == 1


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_nobody_listens(scheme: str, free_port: int) -> None:
    with pytest.raises(Unreachable) as failed:
        open_driver(f"{scheme}://someone:very-secret@127.0.0.1:{free_port}/db").ping()
    assert "very-secret" not in str(failed.value)


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no such file"):
        open_driver(f"sqlite://{tmp_path}/none.db").ping()
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_password_is_told_apart_and_never_shown(db: TargetDb) -> None:
    if db.dialect is Dialect.SQLITE:
        return
    account = db.url.partition("://")[2].rpartition("@")[0]
    url = db.url.replace(account, "dbward_nobody:not-the-password", 1)
    with pytest.raises(CredentialsRefused) as failed:
        open_driver(url).open()
    assert "not-the-password" not in str(failed.value)


def test_a_server_that_never_answers(db: TargetDb) -> None:
    if db.dialect is Dialect.SQLITE:
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(Unreachable):
            open_driver(f"{db.dialect}://a:b@127.0.0.1:{port}/db?connect_timeout=2").ping()
