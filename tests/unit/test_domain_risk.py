"""Risk and verdict: what is known decides, what is not known is never low."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dbward.domain import judge, risk
from dbward.domain.model import (
    Action,
    AutoApprove,
    Dialect,
    PolicySet,
    RiskLevel,
    SqlReviewPolicy,
    Target,
    Workflow,
)
from dbward.domain.review import review
from dbward.domain.risk import Risk
from dbward.domain.schema import NO_SCHEMA, ForeignKey, Schema, SchemaStatus, Table, TableKind
from dbward.domain.sql.classify import classify
from dbward.domain.sql.facts import facts
from dbward.domain.sql.statements import Name
from dbward.errors import Invalid

PG, MY, SL = Dialect.POSTGRESQL, Dialect.MYSQL, Dialect.SQLITE
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
AUTO = AutoApprove("risk_based", RiskLevel.LOW)
QUIET = dict.fromkeys(judge.review.DEFAULT_ACTIONS, Action.OFF)


def table(name: str, rows: int | None = 10, schema: str = "public", **more: object) -> Table:
    made = Table(Name(name, schema), estimated_rows=rows)
    return replace(made, **more)  # type: ignore[arg-type]


def refers(parent: str, on_delete: str = "CASCADE") -> tuple[ForeignKey, ...]:
    return (ForeignKey("fk", ("a",), Name(parent, "public"), ("id",), on_delete),)


SCHEMA = Schema(
    SchemaStatus.READY,
    NOW,
    (
        table("small"),
        table("big", 5_000_000),
        table("never_analysed", None),
        table("a_view", None, kind=TableKind.VIEW),
        table("parent"),
        table("child", 20, foreign_keys=refers("parent")),
        table("grandchild", 3_000, foreign_keys=refers("child", "SET_NULL")),
        table("aunt", 10),
        table("restricted", 9_000_000, foreign_keys=refers("aunt", "RESTRICT")),
        table("twice", 10),
        table("twice", 7_000_000, "archive"),
    ),
)


def assess(
    sql: str,
    dialect: Dialect = PG,
    *,
    schema: Schema = SCHEMA,
    auto: AutoApprove | None = AUTO,
    reviewed: bool = False,
    now: datetime = NOW,
) -> Risk:
    plan = classify(sql, dialect)
    known = [facts(statement, dialect) for statement in plan.statements]
    findings = review(plan, dialect, schema=schema) if reviewed else review(plan, dialect, QUIET, schema)
    return risk.assess(plan, known, dialect, findings, schema, auto, now)


def names(found: Risk) -> list[str]:
    return [factor.name for factor in found.factors]


@pytest.mark.parametrize(
    ("sql", "level", "factors"),
    [
        ("SELECT * FROM big", "low", ["read_only"]),
        ("CREATE TABLE fresh (a int)", "low", ["safe_ddl"]),
        ("CREATE VIEW v AS SELECT * FROM small", "low", ["safe_ddl"]),
        ("CREATE INDEX CONCURRENTLY i ON big (a)", "low", ["safe_ddl"]),
        ("ALTER TABLE big ADD COLUMN a int", "low", ["safe_ddl"]),
        ("UPDATE small SET a = 1 WHERE id = 1", "low", []),
        ("UPDATE Small SET a = 1 WHERE id = 1", "low", []),
        ("INSERT INTO small VALUES (1)", "low", []),
        ("INSERT INTO never_analysed VALUES (1)", "low", []),
        ("DELETE FROM small WHERE id = 1", "low", []),
        ("UPDATE big SET a = 1 WHERE id = 1", "medium", ["large_table"]),
        ("UPDATE small SET a = b.a FROM big b WHERE b.id = small.id", "medium", ["large_table"]),
        ("UPDATE small SET a = 1", "medium", ["whole_table"]),
        ("SELECT * FROM small FOR UPDATE", "medium", ["row_lock"]),
        ("CREATE INDEX i ON small (a)", "medium", ["ddl"]),
        ("CREATE OR REPLACE VIEW v AS SELECT * FROM small", "medium", ["ddl"]),
        ("CREATE TABLE fresh AS SELECT * FROM small", "medium", ["ddl"]),
        ("CREATE MATERIALIZED VIEW m AS SELECT * FROM small", "medium", ["ddl"]),
        ("ALTER TABLE small DROP COLUMN a", "high", ["drop_operation", "ddl"]),
        ("DROP TABLE small", "high", ["drop_operation", "ddl"]),
        ("TRUNCATE small", "high", ["drop_operation", "ddl"]),
        ("TRUNCATE aunt", "high", ["drop_operation", "ddl"]),
        ("TRUNCATE aunt CASCADE", "high", ["drop_operation", "ddl", "cascade_delete"]),
        ("UPDATE small SET a = 1 WHERE id = 1; UPDATE small SET a = 2 WHERE id = 2", "high", ["multi_statement"]),
        ("DELETE FROM parent WHERE id = 1", "high", ["cascade_delete"]),
        ("WITH d AS (DELETE FROM parent WHERE id = 1 RETURNING *) SELECT * FROM d", "high", ["cascade_delete"]),
        ("DELETE FROM child WHERE id = 1", "high", ["cascade_delete"]),
        ("DELETE FROM aunt WHERE id = 1", "low", []),
        ("UPDATE twice SET a = 1 WHERE id = 1", "medium", ["large_table"]),
        ("UPDATE public.twice SET a = 1 WHERE id = 1", "low", []),
        ("SELECT refund(1)", "unknown", ["unvouched_function"]),
        ("UPDATE small SET a = refund(1) WHERE id = 1", "unknown", ["unvouched_function"]),
        ("UPDATE absent SET a = 1 WHERE id = 1", "unknown", ["unknown_table"]),
        ("UPDATE never_analysed SET a = 1 WHERE id = 1", "unknown", ["unknown_size"]),
        ("UPDATE a_view SET a = 1 WHERE id = 1", "unknown", ["unknown_size"]),
        ("CREATE VIEW v AS SELECT refund(1)", "unknown", ["unvouched_function"]),
        ("DROP TABLE absent", "unknown", ["unknown_table", "drop_operation", "ddl"]),
        ("CREATE TABLE big (a int); DELETE FROM big WHERE a = 1", "high", ["multi_statement", "large_table"]),
    ],
)
def test_levels_and_their_reasons(sql: str, level: str, factors: list[str]) -> None:
    found = assess(sql)
    assert (found.level, names(found)) == (level, factors)


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        (PG, "SELECT pg_read_file('/etc/passwd')"),
        (PG, "SELECT dblink_exec('x', 'DELETE FROM t')"),
        (PG, "SELECT lo_import('/etc/passwd')"),
        (PG, "CALL refund(1)"),
        (PG, "COPY small FROM STDIN"),
        (MY, "CALL refund(1)"),
        (MY, "SELECT sleep_and_write()"),
        (SL, "SELECT load_extension('x')"),
    ],
)
def test_what_is_not_known_is_never_low(dialect: Dialect, sql: str) -> None:
    try:
        found = assess(sql, dialect)
    except Invalid:
        return  # refused, which is as good
    assert found.level is RiskLevel.UNKNOWN


@pytest.mark.parametrize(
    ("schema", "factor"),
    [
        (NO_SCHEMA, "schema_not_synced"),
        (replace(SCHEMA, status=SchemaStatus.PARTIAL), "schema_not_synced"),
        (replace(SCHEMA, status=SchemaStatus.FAILED), "schema_not_synced"),
        (replace(SCHEMA, collected_at=None), "schema_stale"),
        (replace(SCHEMA, collected_at=NOW - timedelta(hours=25)), "schema_stale"),
    ],
)
def test_without_a_schema_nothing_but_reads_and_safe_ddl_is_known(schema: Schema, factor: str) -> None:
    for sql in ("UPDATE small SET a = 1 WHERE id = 1", "DROP TABLE small", "SELECT refund(1)"):
        found = assess(sql, schema=schema)
        assert (found.level, names(found)) == (RiskLevel.UNKNOWN, [factor])
    assert assess("SELECT * FROM absent", schema=schema).level is RiskLevel.LOW
    assert assess("CREATE TABLE fresh (a int)", schema=schema).level is RiskLevel.LOW


def test_reads_and_safe_ddl_pass_only_where_the_workflow_lets_them() -> None:
    strict = replace(AUTO, allow_read_only=False, allow_safe_ddl=False)
    for auto in (None, strict):
        assert assess("SELECT * FROM small", auto=auto).level is RiskLevel.LOW
        assert names(assess("SELECT * FROM big", auto=auto)) == ["large_table"]
        assert names(assess("SELECT * FROM absent", auto=auto)) == ["unknown_table"]
        assert names(assess("SELECT * FROM a_view", auto=auto)) == ["unknown_size"]
        assert names(assess("CREATE TABLE fresh (a int)", auto=auto)) == []
        assert names(assess("SELECT count(*) FROM pg_catalog.pg_class", auto=auto)) == []


def test_the_threshold_of_a_large_table_is_the_workflows() -> None:
    patient = replace(AUTO, max_estimated_rows=10_000_000)
    assert assess("UPDATE big SET a = 1 WHERE id = 1", auto=patient).level is RiskLevel.LOW
    found = assess("DELETE FROM parent WHERE id = 1", auto=patient)
    assert [(f.name, f.level, f.targets, f.rows) for f in found.factors] == [
        ("cascade_delete", RiskLevel.MEDIUM, ("child", "grandchild"), 3_000)
    ]


def test_a_table_that_refers_to_itself_is_reached_once() -> None:
    schema = replace(SCHEMA, tables=(table("tree", foreign_keys=refers("tree")),))
    found = assess("DELETE FROM tree WHERE id = 1", schema=schema)
    assert [(f.name, f.targets) for f in found.factors] == [("cascade_delete", ("tree",))]


@pytest.mark.parametrize(
    ("changes", "level", "factor"),
    [
        ("ADD COLUMN c int NOT NULL", "medium", "warnings"),
        ("ADD COLUMN c int NOT NULL, ALTER COLUMN a TYPE bigint", "medium", "warnings"),
        ("ADD COLUMN c int NOT NULL, ALTER COLUMN a TYPE bigint, ALTER COLUMN b SET NOT NULL", "high", "many_warnings"),
    ],
)
def test_findings_count(changes: str, level: str, factor: str) -> None:
    found = assess(f"ALTER TABLE small {changes}", reviewed=True)
    assert (found.level, factor in names(found)) == (level, True)


def test_a_text_is_as_risky_as_the_worst_of_its_statements() -> None:
    assert assess("DROP TABLE small; SELECT 1").level is RiskLevel.HIGH
    assert assess("INSERT INTO small VALUES (1); SELECT refund(1)").level is RiskLevel.UNKNOWN


TARGET = Target("app", "production")
FLOW = Workflow("wf", auto_approve=AUTO)


def verdict(sql: str, policies: PolicySet, *, schema: Schema = SCHEMA, emergency: bool = False) -> judge.Judgement:
    plan = classify(sql, PG)
    known = [facts(statement, PG) for statement in plan.statements]
    return judge.judge(plan, known, PG, TARGET, policies, schema, emergency=emergency, now=NOW)


def test_the_most_specific_review_policy_holds() -> None:
    lenient = SqlReviewPolicy("srp:any:any", rules={"drop_table": Action.WARN, "truncate": Action.OFF})
    strict = SqlReviewPolicy("srp:app:production", "app", "production", {"drop_column": Action.BLOCK})
    policies = PolicySet(workflows=(FLOW,), sql_review=(lenient, strict))
    made = verdict("ALTER TABLE small DROP COLUMN a", policies)
    assert (made.review_policy.id, [f.rule for f in made.blocking]) == ("srp:app:production", ["drop_column"])
    assert verdict("DROP TABLE small", policies).blocking
    only_lenient = PolicySet(workflows=(FLOW,), sql_review=(lenient,))
    made = verdict("DROP TABLE small", only_lenient)
    assert ([f.action for f in made.findings], made.risk.level) == ([Action.WARN], RiskLevel.HIGH)
    assert verdict("TRUNCATE small", only_lenient).findings == ()
    assert verdict("TRUNCATE small", only_lenient).risk.level is RiskLevel.HIGH


def test_only_ddl_goes_past_the_review() -> None:
    policies = PolicySet(workflows=(FLOW,))
    assert verdict("DROP TABLE small", policies).may_bypass_review
    assert verdict("DROP TABLE small; TRUNCATE big", policies).may_bypass_review
    assert not verdict("DROP TABLE small; SELECT 1", policies).may_bypass_review
    assert not verdict("DROP TABLE small; DELETE FROM big WHERE a = 1", policies).may_bypass_review
    assert not verdict("DELETE FROM big", policies).may_bypass_review


def test_every_factor_can_be_said_in_words() -> None:
    found = assess("DELETE FROM parent WHERE id = 1")
    assert [judge.describe(factor) for factor in found.factors] == [
        "deleting reaches child, grandchild with about 3,000 rows"
    ]
    assert judge.describe(replace(found.factors[0], name="of a later version")) == ""
