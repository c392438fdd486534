"""Migrations on every engine, from the signed job to the report: what is run, recorded, skipped, left and said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dbward.client.agent_api import AgentApi
from dbward.domain.migration import Applied, Repair, signed_texts
from dbward.domain.model import Operation
from dbward.domain.sql.classify import classify_script
from tests.worker.migrations import (
    DOWN,
    ENGINES,
    REPAIR,
    TARGET,
    UP,
    Bench,
    applied,
    bench,
    ids,
    insert,
    pinned,
    steps,
    undoing,
    versions,
)
from tests.worker.targets import TargetDb, empty
from tests.worker.tiny_server import TinyServer
from worker.drivers import open_driver
from worker.drivers.migrating import transaction_control


@pytest.fixture(params=ENGINES)
def db(request: pytest.FixtureRequest, tmp_path: Path) -> TargetDb:
    made = empty(request.param, request, tmp_path / "target.db")
    made.direct("CREATE TABLE t (id integer PRIMARY KEY, name varchar(40))")
    return made


@pytest.fixture
def agent(server: TinyServer, api: AgentApi, db: TargetDb) -> Iterator[Bench]:
    with bench(server, api, db.url) as made:
        yield made


def test_up_runs_each_file_and_records_it(agent: Bench, db: TargetDb) -> None:
    outcome = agent.run(UP, pinned(1, insert(1), insert(2)), pinned(2, insert(3)))
    assert (outcome["outcome"], outcome["error"], outcome["rows_affected"]) == ("completed", None, None)
    assert steps(outcome) == [("1", "applied"), ("2", "applied")]
    assert all(step["duration_ms"] >= 0 and step["name"] == "step" for step in outcome["migrations"])
    assert ids(db) == [1, 2, 3]
    assert versions(db) == ["1", "2"]
    first, _ = applied(db)
    assert (first.version, first.name, first.checksum, first.request_id) == ("1", "step", "a" * 64, "request-e1")
    assert first.applied_at is not None
    assert first.applied_at.utcoffset() == timedelta(0)
    assert agent.changed == [TARGET]


def test_what_is_applied_is_skipped(agent: Bench, db: TargetDb) -> None:
    agent.run(UP, pinned(2, insert(2)))
    outcome = agent.run(UP, pinned(1, insert(1)), pinned(2, insert(2)), pinned(3, insert(3)))
    assert steps(outcome) == [("1", "applied"), ("2", "skipped"), ("3", "applied")]
    assert outcome["migrations"][1]["duration_ms"] is None
    assert ids(db) == [1, 2, 3]
    assert agent.run(UP, pinned(1, insert(1)))["outcome"] == "completed"


def test_down_takes_back_what_is_pinned_and_nothing_else(agent: Bench, db: TargetDb) -> None:
    agent.run(UP, *(pinned(n, insert(n)) for n in (1, 2, 3)))
    back = [undoing(n, f"DELETE FROM t WHERE id = {n}") for n in (3, 2)]
    assert steps(agent.run(DOWN, *back)) == [("3", "reverted"), ("2", "reverted")]
    assert (ids(db), versions(db), [one.version for one in applied(db)]) == ([1], ["1"], ["1"])
    assert steps(agent.run(DOWN, *back)) == [("3", "skipped"), ("2", "skipped")]
    assert ids(db) == [1]


@pytest.mark.parametrize("recorded", ["b", None])
def test_down_takes_back_no_other_text_than_was_asked_for(agent: Bench, db: TargetDb, recorded: str | None) -> None:
    """It may have been taken back and applied anew, from another file, before the request is resumed."""
    agent.run(UP, pinned(1, insert(1)), pinned(2, insert(2)))
    other = pinned(2, "DELETE FROM t WHERE id = 2") if recorded is None else undoing(2, "DELETE FROM t", recorded="b")
    outcome = agent.run(DOWN, other, undoing(1, "DELETE FROM t WHERE id = 1"))
    assert steps(outcome) == [("2", "not_run"), ("1", "not_run")]
    assert outcome["error"]["code"] == "migration.changed"
    assert (ids(db), versions(db)) == ([1, 2], ["1", "2"])


def test_down_where_nothing_ever_was_makes_nothing(agent: Bench, db: TargetDb) -> None:
    assert steps(agent.run(DOWN, pinned(1, "DELETE FROM t"))) == [("1", "skipped")]
    assert open_driver(db.url).ledger().tables == frozenset()


def test_a_changed_file_runs_nothing_at_all(agent: Bench, db: TargetDb) -> None:
    agent.run(UP, pinned(2, insert(2)))
    outcome = agent.run(UP, pinned(1, insert(1)), pinned(2, insert(2), checksum="b"))
    assert (outcome["outcome"], outcome["error"]["code"]) == ("failed", "migration.changed")
    assert "2_step" in outcome["error"]["message"]
    assert "migrate repair --action mark-applied --version 2" in outcome["error"]["hint"]
    assert steps(outcome) == [("1", "not_run"), ("2", "not_run")]
    assert (ids(db), versions(db)) == ([2], ["2"])


@pytest.mark.parametrize(
    "sql",
    ["BEGIN", "/* x */ commit", "ROLLBACK", "SAVEPOINT s", "START TRANSACTION", "-- x\nEnd", "abort", "xa end 'x'"],
)
def test_transaction_control_is_known(sql: str) -> None:
    assert transaction_control([insert(1), sql, insert(2)]) == 2
    assert transaction_control([insert(1), "CREATE TABLE begin (id integer)"]) is None


@pytest.mark.parametrize("transactional", [True, False])
def test_transaction_control_runs_nothing_at_all(agent: Bench, db: TargetDb, transactional: bool) -> None:
    second = pinned(2, insert(2), "COMMIT", insert(3), transactional=transactional)
    outcome = agent.run(UP, pinned(1, insert(1)), second)
    assert outcome["error"]["code"] == "migration.transaction_control"
    assert "2_step, statement 2 of 3" in outcome["error"]["message"]
    assert ids(db) == []


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_a_failure_at_each_statement_of_a_file(agent: Bench, db: TargetDb, bad: int) -> None:
    statements = [insert(10), insert(11), insert(12)]
    statements[bad - 1] = "INSERT INTO nowhere VALUES (1)"
    outcome = agent.run(UP, pinned(1, insert(1)), pinned(2, *statements), pinned(3, insert(3)))
    assert outcome["outcome"] == "failed"
    assert steps(outcome) == [("1", "applied"), ("2", "failed"), ("3", "not_run")]
    error = outcome["error"]
    assert f"2_step, statement {bad} of 3: " in error["message"]
    assert "nowhere" in error["message"]
    assert "Nothing of this file stays. Applied before it, and staying so: 1." in error["detail"]
    assert (ids(db), versions(db)) == ([1], ["1"])
    assert agent.changed == [TARGET]
    assert steps(agent.run(UP, pinned(1, insert(1)), pinned(2, insert(10)))) == [("1", "skipped"), ("2", "applied")]


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_a_failure_outside_a_transaction_says_what_stays(agent: Bench, db: TargetDb, bad: int) -> None:
    statements = [insert(10), insert(11), insert(12)]
    statements[bad - 1] = "INSERT INTO nowhere VALUES (1)"
    outcome = agent.run(UP, pinned(1, *statements, transactional=False), pinned(2, insert(2)))
    assert steps(outcome) == [("1", "failed"), ("2", "not_run")]
    assert ids(db) == [10, 11][: bad - 1]
    assert versions(db) == []
    words = ["Nothing of this file stays", "Its first statement took effect", "Its first 2 statements took effect"]
    assert words[bad - 1] in outcome["error"]["detail"]
    command = "dbward -d app -e test migrate repair --action mark-applied --version 1 --emergency --reason"
    assert (command in (outcome["error"]["hint"] or "")) is (bad > 1)
    assert outcome["error"]["code"] == ("statement.failed" if bad == 1 else "statement.partly_committed")


def test_outside_a_transaction_the_version_is_recorded_all_the_same(agent: Bench, db: TargetDb) -> None:
    assert steps(agent.run(UP, pinned(1, insert(1), insert(2), transactional=False))) == [("1", "applied")]
    assert (ids(db), versions(db)) == ([1, 2], ["1"])
    back = undoing(1, "DELETE FROM t WHERE id = 1", "DELETE FROM t WHERE id = 2", transactional=False)
    assert steps(agent.run(DOWN, back)) == [("1", "reverted")]
    assert (ids(db), versions(db)) == ([], [])


def test_a_record_that_cannot_be_written_takes_the_file_back(agent: Bench, db: TargetDb) -> None:
    agent.run(UP, pinned(1, insert(1)))
    taken = "INSERT INTO schema_migrations VALUES ('2')"
    outcome = agent.run(UP, pinned(2, insert(2), taken))
    assert steps(outcome) == [("2", "failed")]
    assert "2_step, when it was recorded: " in outcome["error"]["message"]
    assert (ids(db), versions(db)) == ([1], ["1"])
    outcome = agent.run(UP, pinned(2, insert(2), taken, transactional=False))
    assert "All of its statements took effect" in outcome["error"]["detail"]
    assert "only the record is missing: dbward -d app" in outcome["error"]["hint"]
    assert ids(db) == [1, 2]


def test_names_with_anything_in_them(agent: Bench, db: TargetDb) -> None:
    name = '1_it\'s "a" \\ 100% {x} %s :y ; -- é 😀.sql'
    agent.run(UP, replace(pinned(1, insert(1)), name=name))
    assert [one.name for one in applied(db)] == [name]


def test_repair(agent: Bench, db: TargetDb) -> None:
    mark = Repair("mark_applied", "7", "step", "c" * 64)
    assert steps(agent.repair(mark)) == [("7", "marked")]
    assert [(one.version, one.checksum) for one in applied(db)] == [("7", "c" * 64)]
    assert steps(agent.repair(mark)) == [("7", "skipped")]
    assert steps(agent.repair(Repair("remove", "7"))) == [("7", "removed")]
    assert applied(db) == ()
    assert steps(agent.repair(Repair("remove", "7"))) == [("7", "skipped")]
    assert ids(db) == []


def test_removing_where_nothing_ever_was(agent: Bench, db: TargetDb) -> None:
    assert steps(agent.repair(Repair("remove", "7"))) == [("7", "skipped")]
    assert open_driver(db.url).ledger().tables == frozenset()


@pytest.mark.parametrize(
    ("operation", "texts"),
    [
        (UP, ["DROP TABLE t"]),
        (UP, [*signed_texts([pinned(1, "DROP TABLE t")]), *signed_texts([pinned(1, "DROP TABLE t")])]),
        (UP, [*signed_texts(Repair("remove", "1"))]),
        (REPAIR, [*signed_texts([pinned(1, "DROP TABLE t")])]),
        (REPAIR, [*signed_texts(Repair("remove", "1")), *signed_texts(Repair("remove", "2"))]),
    ],
)
def test_what_is_not_understood_is_refused(
    server: TinyServer, api: AgentApi, tmp_path: Path, operation: Operation, texts: list[str]
) -> None:
    db = empty("sqlite", None, tmp_path / "target.db")  # type: ignore[arg-type]  # not looked at for a file
    db.direct("CREATE TABLE t (id integer)")
    with bench(server, api, db.url) as agent:
        outcome = agent.texts(operation, *texts)
    assert (outcome["outcome"], outcome["error"]["code"]) == ("refused", "migration.malformed")
    assert ids(db) == []


@pytest.mark.parametrize(
    ("where", "ended", "became"),
    [
        ("worker.drivers.migrating.check_text", "unknown", ["applied", "unknown", "not_run"]),
        ("worker.migrate.transaction_control", "failed", ["not_run", "not_run", "not_run"]),
    ],
)
def test_a_fault_of_the_agent_is_owned_up_to(
    server: TinyServer,
    api: AgentApi,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    ended: str,
    became: list[str],
) -> None:
    def faulty(given: str | list[str]) -> None:
        if "'second'" in str(given):
            raise RuntimeError("its text may hold anything")

    db = empty("sqlite", None, tmp_path / "target.db")  # type: ignore[arg-type]  # not looked at for a file
    db.direct("CREATE TABLE t (id integer, name text)")
    monkeypatch.setattr(where, faulty)
    with bench(server, api, db.url) as agent:
        outcome = agent.run(UP, pinned(1, insert(1)), pinned(2, insert(2, "second")), pinned(3, insert(3)))
    assert (outcome["outcome"], outcome["error"]["code"]) == (ended, "agent.internal")
    assert "anything" not in outcome["error"]["message"]
    assert [what for _, what in steps(outcome)] == became


def test_what_another_tool_took_back_can_be_applied_again(agent: Bench, db: TargetDb) -> None:
    agent.run(UP, pinned(1, insert(1)))
    db.direct("DELETE FROM schema_migrations", "DELETE FROM t")
    assert applied(db) == ()
    assert steps(agent.run(UP, pinned(1, insert(1), checksum="b"))) == [("1", "applied")]
    assert [one.checksum for one in applied(db)] == ["b" * 64]


def test_a_record_of_another_tool_alone(agent: Bench, db: TargetDb) -> None:
    db.direct("CREATE TABLE schema_migrations (version varchar(128) PRIMARY KEY)")
    db.direct("INSERT INTO schema_migrations VALUES ('20'), ('3'), ('odd one')")
    assert applied(db) == (Applied("odd one"), Applied("3"), Applied("20"))
    assert steps(agent.run(DOWN, pinned(3, "DELETE FROM t"))) == [("3", "reverted")]
    assert steps(agent.run(UP, pinned(20, insert(2)), pinned(21, insert(3)))) == [("20", "skipped"), ("21", "applied")]
    assert ids(db) == [3]


CODE = {
    "postgresql": [
        (
            "CREATE FUNCTION double() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.name := NEW.name || NEW.name; RETURN NEW; END $$;"
            "CREATE TRIGGER doubled BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION double();"
            "DO $$ BEGIN INSERT INTO t VALUES (1, 'a'); END $$"
        ),
        "DROP TRIGGER doubled ON t; DROP FUNCTION double()",
    ],
    "mysql": [
        (
            "CREATE TRIGGER doubled BEFORE INSERT ON t FOR EACH ROW BEGIN"
            " IF NEW.name IS NOT NULL THEN SET NEW.name = CONCAT(NEW.name, NEW.name); END IF; END;"
            "CREATE PROCEDURE add_one(n INT) BEGIN DECLARE i INT DEFAULT 0;"
            " WHILE i < n DO INSERT INTO t VALUES (i + 1, CASE WHEN i THEN 'b' ELSE 'a' END); SET i = i + 1;"
            " END WHILE; END;"
            "SET FOREIGN_KEY_CHECKS = 0; CALL add_one(1); SET FOREIGN_KEY_CHECKS = 1"
        ),
        "DROP PROCEDURE add_one; DROP TRIGGER doubled",
    ],
    "sqlite": [
        (
            "CREATE TRIGGER doubled AFTER INSERT ON t BEGIN"
            " UPDATE t SET name = CASE WHEN 1 THEN name || name END WHERE id = NEW.id; SELECT 1; END;"
            "INSERT INTO t VALUES (1, 'a')"
        ),
        "DROP TRIGGER doubled",
    ],
}
"""Files with code in them, by dialect: what they do, and what takes it back."""


def test_a_file_with_code_in_it_runs_as_it_was_cut(agent: Bench, db: TargetDb) -> None:
    dialect = agent.databases.driver(TARGET).dialect
    up, down = (list(classify_script(text, dialect).texts) for text in CODE[dialect])
    outcome = agent.run(UP, pinned(1, *up))
    assert (outcome["error"], steps(outcome)) == (None, [("1", "applied")])
    assert db.direct("SELECT name FROM t") == [("aa",)]
    assert steps(agent.run(DOWN, undoing(1, *down))) == [("1", "reverted")]
    db.direct("INSERT INTO t VALUES (2, 'b')")
    assert db.direct("SELECT name FROM t WHERE id = 2") == [("b",)]
