"""Plans: what each engine says becomes the same value, bounded, and is shown readably."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbward.domain.explainable import aliases, why_no_plan
from dbward.domain.model import Dialect
from dbward.domain.plan_readers import UnreadablePlan, read_plan
from dbward.domain.plans import (
    MAX_DEPTH,
    MAX_NAMED,
    MAX_SIBLINGS,
    MAX_STEPS,
    TEXT_MAX,
    Plan,
    Scan,
    Step,
    plan_from_json,
    plan_json,
    render,
    scanned,
    with_table_names,
    with_table_sizes,
)
from dbward.domain.schema import Schema, SchemaStatus, Table
from dbward.domain.sql.classify import classify
from dbward.domain.sql.statements import Name, Statement

PG, MY, SL = Dialect.POSTGRESQL, Dialect.MYSQL, Dialect.SQLITE
SAMPLES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("data").joinpath("plans.json").read_text())


def pg(node: dict[str, Any]) -> Plan:
    return read_plan(PG, [[[{"Plan": node}]]])


def pg_node(kind: str = "Result", *children: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"Node Type": kind, "Plan Rows": 1, "Total Cost": 1.0, "Plans": list(children)} | more


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample['engine']}: {sample['sql']}")
def test_a_plan_is_shown(sample: dict[str, Any]) -> None:
    plan = read_plan(Dialect(sample["dialect"]), sample["rows"])
    assert render(plan).split("\n") == sample["shown"]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample['engine']}: {sample['sql']}")
def test_what_is_stored_is_what_was_read(sample: dict[str, Any]) -> None:
    plan = read_plan(Dialect(sample["dialect"]), sample["rows"])
    assert plan_from_json(json.loads(json.dumps(plan_json(plan)))) == plan


def test_a_document_may_come_as_text() -> None:
    node = pg_node("Seq Scan", **{"Relation Name": "t", "Schema": "public"})
    assert read_plan(PG, [[json.dumps([{"Plan": node}])]]) == pg(node)


def test_totals_of_a_change_are_of_what_it_is_given() -> None:
    scan = pg_node("Seq Scan", **{"Relation Name": "t", "Schema": "s", "Plan Rows": 70})
    plan = pg(pg_node("ModifyTable", scan, **{"Operation": "Delete", "Plan Rows": 0, "Total Cost": 12.5}))
    assert (plan.rows, plan.cost) == (70, 12.5)
    assert plan.steps[0] == Step(0, "Delete", cost=12.5)
    assert plan.scans == (Scan("s.t"),)


def test_rows_of_a_mysql_join_are_multiplied() -> None:
    tables = [
        {"table": {"table_name": "a", "access_type": "ALL", "rows": 200, "filtered": 50}},
        {"block-nl-join": {"table": {"table_name": "b", "access_type": "ALL", "rows": 30, "filtered": 100}}},
    ]
    plan = read_plan(MY, [[json.dumps({"query_block": {"filesort": {"nested_loop": tables}, "cost": 7.25}})]])
    assert (plan.rows, plan.cost) == (3000, 7.25)
    assert [step.operation for step in plan.steps] == [
        "Sort",
        "Nested loop join",
        "Full scan",
        "Block nested loop join",
        "Full scan",
    ]


def test_joins_that_are_no_inner_ones_are_named() -> None:
    assert pg(pg_node("Hash Join", **{"Join Type": "Left"})).steps[0].operation == "Hash Left Join"
    assert pg(pg_node("Nested Loop", **{"Join Type": "Anti"})).steps[0].operation == "Nested Loop Anti Join"
    parallel = pg_node("Seq Scan", **{"Relation Name": "t", "Parallel Aware": True})
    assert pg(parallel).steps[0].operation == "Parallel Seq Scan"


def test_a_plan_with_very_many_partitions_is_cut_and_still_counted() -> None:
    parts = [pg_node("Seq Scan", **{"Relation Name": f"p{n}", "Schema": "public"}) for n in range(1000)]
    after = pg_node("Index Scan", **{"Relation Name": "t", "Index Name": "t_pkey"})
    plan = pg(pg_node("Hash Join", pg_node("Append", *parts), after))
    assert len(plan.steps) == 1 + 1 + MAX_SIBLINGS + 1
    assert plan.steps[-1].index == "t_pkey"
    assert plan.omitted == 1000 - MAX_SIBLINGS
    assert len(plan.scans) == MAX_NAMED
    assert "… 975 more steps are left out" in render(plan).split("\n")


def test_a_plan_with_very_many_steps_is_cut() -> None:
    wide = [pg_node("Append", *[pg_node("Append", *[pg_node()] * 20)] * 20)] * 20
    plan = pg(pg_node("Append", *wide))
    assert len(plan.steps) == MAX_STEPS
    assert plan.omitted == 1 + 20 + 20 * 20 + 20 * 20 * 20 - MAX_STEPS


def test_a_deep_plan_is_cut() -> None:
    node = pg_node("Seq Scan", **{"Relation Name": "deepest"})
    for _ in range(5_000):
        node = pg_node("Limit", node)
    plan = pg(node)
    assert len(plan.steps) == MAX_DEPTH
    assert plan.omitted == 5_001 - MAX_DEPTH
    assert plan.scans == (Scan("deepest"),)


def test_a_document_too_deep_to_be_parsed_is_no_plan() -> None:
    with pytest.raises(UnreadablePlan):
        read_plan(MY, [['{"query_block":' * 100_000]])


def test_names_and_conditions_are_one_line_of_limited_length() -> None:
    node = pg_node("Seq Scan", **{"Relation Name": "a\nb\x1b[31m", "Filter": "x" * 10_000})
    plan = pg(node)
    assert plan.steps[0].table == "a b�[31m"
    assert len(plan.steps[0].condition or "") == TEXT_MAX
    assert len(render(plan).split("\n")[0]) < 120


@pytest.mark.parametrize("rows", [1e400, float("nan"), -1, True, "many", None, [], {}])
def test_an_absurd_number_is_none(rows: Any) -> None:
    assert pg(pg_node(**{"Plan Rows": rows})).rows is None


@pytest.mark.parametrize(
    "rows",
    [[], [[]], [[None]], [["not json"]], [[[]]], [["[]"]], [[{}]], [[["Plan"]]], [[7]], [["{}"]], [[[{"Plan": {}}]]]],
)
@pytest.mark.parametrize("dialect", [PG, MY])
def test_what_is_no_plan_is_refused(dialect: Dialect, rows: Any) -> None:
    with pytest.raises(UnreadablePlan):
        read_plan(dialect, rows)


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "Plan",
                    "Plans",
                    "query_block",
                    "table",
                    "nested_loop",
                    "filesort",
                    "subqueries",
                    "query_plan",
                    "inputs",
                    "Node",
                    "Type",
                    "rows",
                    "key",
                    "cost_info",
                    "table_name",
                    "access_type",
                    "block-nl-join",
                    "materialized",
                    "filtered",
                    "union_result",
                ]
            )
            | st.just("Node Type"),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)


@given(_JSON, st.sampled_from([PG, MY, SL]))
def test_nothing_crashes_the_readers(value: Any, dialect: Dialect) -> None:
    for rows in ([[value]], [[[{"Plan": value}]]], [[{"query_block": value}]], value, [[1, 0, 0, value]]):
        try:
            render(read_plan(dialect, rows))
        except UnreadablePlan:
            continue


# --- the sizes of scanned tables --------------------------------------------------------------------------------------

SCHEMA = Schema(
    SchemaStatus.READY,
    None,
    (
        Table(Name("orders", "public"), estimated_rows=50_000),
        Table(Name("orders", "archive"), estimated_rows=900_000),
        Table(Name("fresh", "public"), estimated_rows=None),
    ),
)


def test_sizes_come_from_the_schema() -> None:
    plan = Plan(scans=(Scan("public.orders"), Scan("orders"), Scan("public.fresh"), Scan("told", 7), Scan("unknown")))
    assert scanned(plan) == {
        Name("orders", "public"),
        Name("orders"),
        Name("fresh", "public"),
        Name("unknown"),
    }
    assert with_table_sizes(plan, SCHEMA).scans == (
        Scan("public.orders", 50_000),
        Scan("orders", 900_000),
        Scan("public.fresh"),
        Scan("told", 7),
        Scan("unknown"),
    )


def test_a_scan_under_an_alias_is_of_the_table_it_stands_for() -> None:
    plan = Plan(scans=(Scan("O"), Scan("x"), Scan("p"), Scan("t", 5), Scan("other")))
    named = with_table_names(plan, {"o": "orders", "p": "orders", "t": "t", "x": None})
    assert named.scans == (Scan("orders"), Scan("t", 5), Scan("other"))


# --- what may be planned ----------------------------------------------------------------------------------------------


def one(dialect: Dialect, sql: str) -> Statement:
    [statement] = classify(sql, dialect).statements
    return statement


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        (PG, "SELECT lower(a) FROM t"),
        (PG, "VALUES (1)"),
        (PG, "SELECT * FROM t FOR UPDATE"),
        (PG, "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d"),
        (PG, "INSERT INTO t SELECT upper(a) FROM t ON CONFLICT DO NOTHING"),
        (PG, "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE"),
        (MY, "SELECT lower(a) FROM t"),
        (MY, "INSERT INTO t (a, `b`) SELECT lower(a), 1 FROM s.t"),
        (MY, "INSERT INTO t VALUES (1, now())"),
        (MY, "INSERT INTO t SET a = 1 ON DUPLICATE KEY UPDATE a = VALUES(a)"),
        (MY, "INSERT INTO t (a) (SELECT a FROM s)"),
        (MY, "REPLACE INTO t SELECT * FROM s"),
        (MY, "UPDATE t JOIN s ON s.a = t.a SET t.b = concat(s.b, 'x') WHERE t.a IN (1, 2) LIMIT 5"),
        (MY, "UPDATE t SET a = replace(a, 'x', 'y')"),
        (MY, "UPDATE t JOIN (SELECT max(a) AS m FROM s) AS d ON d.m = t.a SET t.b = 1"),
        (MY, "DELETE t FROM t JOIN s ON t.a = s.a WHERE s.b = 'x'"),
        (SL, "INSERT OR REPLACE INTO t SELECT * FROM s"),
        (SL, "DELETE FROM t WHERE a = lower('X')"),
    ],
)
def test_a_database_may_be_asked_for_the_plan(dialect: Dialect, sql: str) -> None:
    assert why_no_plan(one(dialect, sql), dialect) is None


@pytest.mark.parametrize(
    ("dialect", "sql", "why"),
    [
        (PG, "SELECT mark()", "planning it may run something (unvouched_function:mark)"),
        (PG, "DELETE FROM t WHERE a = mark()", "planning it may run something (unvouched_function:mark)"),
        (PG, "SELECT * INTO s FROM t", "planning it may run something (select_into)"),
        (PG, "EXPLAIN SELECT 1", "EXPLAIN has no plan"),
        (PG, "SHOW work_mem", "SHOW has no plan"),
        (PG, "SET statement_timeout = 1", "SET has no plan"),
        (PG, "CREATE TABLE s AS SELECT 1", "CREATE has no plan"),
        (MY, "SELECT mark()", "planning it may run something (unvouched_function:mark)"),
        (MY, "SELECT * FROM t FOR UPDATE", "planning it may run something (keyword:for)"),
        (MY, "UPDATE t SET a = mark()", "planning it may run something (unvouched_function:mark)"),
        (MY, "UPDATE t JOIN (SELECT app.mark() AS m) AS d SET a = 1", "planning it may run something (unvouched_"),
        (MY, "UPDATE t SET a = NEXTVAL(q)", "planning it may run something (unvouched_function:nextval)"),
        (MY, "UPDATE t SET a = lower (b)", "planning it may run something (unvouched_function:lower)"),
        (MY, "DELETE FROM t WHERE a = (@x := 1)", "planning it may run something (operator::"),
        (MY, "INSERT INTO t (a) VALUES (mark())", "planning it may run something (unvouched_function:mark)"),
        (MY, "INSERT INTO t SELECT * FROM (SELECT mark()) AS d", "planning it may run something (unvouched_"),
        (MY, "SHOW TABLES", "SHOW has no plan"),
        (SL, "PRAGMA table_info(t)", "PRAGMA has no plan"),
        (SL, "SELECT load_extension('x')", "planning it may run something (unvouched_function:load_extension)"),
    ],
)
def test_a_database_is_not_asked_for_the_plan(dialect: Dialect, sql: str, why: str) -> None:
    said = why_no_plan(one(dialect, sql), dialect)
    assert said is not None
    assert said.startswith(why)


def test_what_operators_vouch_for_may_be_planned() -> None:
    sql = "UPDATE t SET a = refund_total(1)"
    assert why_no_plan(one(MY, sql), MY) is not None
    assert why_no_plan(one(MY, sql), MY, {"refund_total"}) is None


def test_aliases_stand_for_tables_and_not_for_rows_made_on_the_way() -> None:
    sql = "WITH x AS (SELECT 1) SELECT * FROM Orders o, s.customers, x, (SELECT 1) AS d JOIN t AS d2"
    assert aliases(one(SL, sql)) == {"o": "Orders", "customers": "s.customers", "x": None, "d": None, "d2": "t"}
    assert aliases(one(PG, "SELECT * FROM t AS a")) == {}
