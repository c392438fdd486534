"""Advice from squawk: the real program, and programs that misbehave."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from dbward.domain.model import Action, Dialect
from dbward.domain.review import review
from dbward.domain.sql.classify import classify
from dbward.squawk import advice

PG = Dialect.POSTGRESQL

VOLATILE = "ALTER TABLE t ADD COLUMN a float DEFAULT random()"
PLACE = VOLATILE.index("random()") + 1


def rules(sql: str, dialect: Dialect = PG) -> list[str]:
    return [finding.rule for finding in advice(classify(sql, dialect))]


def test_it_warns_of_what_our_own_rules_do_not_know() -> None:
    (finding,) = advice(classify(VOLATILE, PG))
    assert (finding.rule, finding.action) == ("squawk:adding-field-with-default", Action.WARN)
    assert (finding.statement_index, finding.position) == (0, PLACE)
    assert finding.message
    assert finding.hint


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("TRUNCATE t CASCADE", "squawk:ban-truncate-cascade"),
        ("ALTER TABLE t DETACH PARTITION p", "squawk:require-concurrent-partition-detach"),
        (f"ALTER TABLE t ADD COLUMN {'a' * 64} text", "squawk:identifier-too-long"),
    ],
)
def test_rules_that_are_asked_for(sql: str, rule: str) -> None:
    assert rules(sql) == [rule]


def test_places_are_those_of_the_statement_in_characters() -> None:
    text = f"SELECT 1 FROM ü; CREATE TABLE é (a bigint,\n ö text); DELETE FROM t;\n{VOLATILE.replace('t ADD', 'ß ADD')}"
    (finding,) = advice(classify(f"INSERT INTO t VALUES (1); {text}", PG))
    assert (finding.statement_index, finding.position) == (4, PLACE)


@pytest.mark.parametrize(("table", "count"), [("t", 0), ("other", 1)])
def test_no_advice_is_taken_about_a_table_that_the_text_has_created(table: str, count: int) -> None:
    text = classify(f"CREATE TABLE {table} (b bigint); {VOLATILE}", PG)
    assert len(review(text, PG, advice=advice(text))) == count


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t (id int PRIMARY KEY, c char(3), v varchar(10), at timestamp)",
        "ALTER TABLE t ADD COLUMN a int NOT NULL DEFAULT 0",
        "CREATE INDEX CONCURRENTLY i ON t (a)",
        # These are for our own rules.
        "DROP TABLE t",
        "ALTER TABLE t DROP COLUMN a",
        "CREATE INDEX i ON t (a)",
        "ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES u (id)",
        "ALTER TABLE t RENAME TO u",
        # No DDL.
        "SELECT 1",
        "DELETE FROM t",
    ],
)
def test_no_advice_on_style_nor_what_is_said_already(sql: str) -> None:
    assert rules(sql) == []


def test_other_databases_are_not_its_business() -> None:
    assert rules("ALTER TABLE t ADD COLUMN a DOUBLE DEFAULT (rand())", Dialect.MYSQL) == []


def test_no_comment_switches_it_off() -> None:
    assert rules(f"-- squawk-ignore-file\n{VOLATILE}") == ["squawk:adding-field-with-default"]
    assert rules(f"-- squawk-ignore adding-field-with-default\n{VOLATILE}") == ["squawk:adding-field-with-default"]


def test_no_file_where_we_run_configures_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".squawk.toml").write_text('excluded_rules = ["adding-field-with-default"]\n')
    monkeypatch.chdir(tmp_path)
    assert rules(VOLATILE) == ["squawk:adding-field-with-default"]


def test_advice_takes_its_place_among_the_findings() -> None:
    text = classify(f"DROP VIEW v; {VOLATILE}; DROP VIEW w", PG)
    found = [finding.rule for finding in review(text, PG, advice=advice(text))]
    assert found == ["drop_view", "squawk:adding-field-with-default", "drop_view"]


Program = Callable[[str], Path]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Makes a program of a few lines of shell."""

    def make(script: str) -> Path:
        path = tmp_path / "squawk"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.mark.parametrize(
    "script",
    [
        "exit 3",
        "echo nonsense",
        "echo '{}'",
        "echo '[{\"line\": 0}]'",
        "printf '\\377\\376'",
        "kill -9 $$",
        "exec 0<&-; exit 0",
    ],
)
def test_a_program_that_fails_leaves_no_advice_and_a_line(
    script: str, program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "dbward.squawk"):
        assert advice(classify(VOLATILE, PG), program=program(script)) == ()
    (record,) = caplog.records
    assert "random" not in record.getMessage()


def test_a_program_that_is_late_or_not_there_is_not_waited_for(
    program: Program, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "dbward.squawk"):
        late = program("exec sleep 60")
        assert advice(classify(VOLATILE, PG), program=late, timeout=timedelta(milliseconds=50)) == ()
        assert advice(classify(VOLATILE, PG), program=tmp_path / "nothing") == ()
    assert len(caplog.records) == 2


def test_places_outside_the_text_are_brought_into_it(program: Program) -> None:
    said = '[{"line": 0, "column": 999, "message": "m", "rule_name": "identifier-too-long"}, {"line": 99, "column": 0,'
    said += ' "message": "m", "rule_name": "identifier-too-long"}]'
    (finding,) = advice(classify(VOLATILE, PG), program=program(f"cat >/dev/null; echo '{said}'"))
    assert finding.position == len(VOLATILE)
