"""The SQL review: each rule on what it is for and on what only looks like it, and whole texts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbward.domain.model import Action, Dialect
from dbward.domain.review import DEFAULT_ACTIONS, PARSE_FAILURE, blocking, bypassable, review
from dbward.domain.review_rules import RULES
from dbward.domain.schema import Column, Constraint, Index, Schema, SchemaStatus, Table, TableKind
from dbward.domain.sql.classify import classify
from dbward.domain.sql.lex import tokenize
from dbward.domain.sql.statements import Finding, Name
from dbward.errors import Invalid
from tests.support.props import calm

PG, MY, SL = Dialect.POSTGRESQL, Dialect.MYSQL, Dialect.SQLITE
ALL = (PG, MY, SL)
CORPUS = [
    json.loads(line) for line in (Path(__file__).parent / "data" / "sql_corpus.jsonl").read_text("utf-8").splitlines()
]
EVERY_RULE = {rule: Action.WARN if action is Action.OFF else action for rule, action in DEFAULT_ACTIONS.items()}


def reviewed(sql: str, dialect: Dialect, **more: Any) -> tuple[Finding, ...]:
    return review(classify(sql, dialect), dialect, more.pop("actions", EVERY_RULE), **more)


def rules(sql: str, dialect: Dialect, **more: Any) -> list[str]:
    return [finding.rule for finding in reviewed(sql, dialect, **more)]


def numbers(count: int) -> str:
    return ", ".join(map(str, range(count)))


FIRES = [
    # `^` marks the place. One statement, and nothing else is found in it.
    (ALL, "no_where_delete", "DELETE FROM ^t"),
    (ALL, "no_where_delete", "DELETE FROM ^t WHERE 1 = 1"),
    ((PG,), "no_where_delete", "WITH d AS (DELETE FROM ^t RETURNING *) SELECT count(*) FROM d"),
    ((PG,), "no_where_delete", "EXPLAIN ANALYZE DELETE FROM ^t"),
    ((MY,), "no_where_delete", "DELETE FROM ^t ORDER BY id LIMIT 5"),
    (ALL, "no_where_update", "UPDATE ^t SET a = 1"),
    ((MY,), "no_where_update", "UPDATE LOW_PRIORITY ^t SET a = 1"),
    (ALL, "drop_table", "DROP TABLE IF EXISTS ^t"),
    (ALL, "drop_column", "ALTER TABLE t ^DROP COLUMN a"),
    ((PG, MY), "drop_column", "ALTER TABLE t ADD b int, ^DROP a"),
    ((PG, SL), "drop_index", "DROP INDEX ^i"),
    ((MY,), "drop_index", "DROP INDEX ^i ON t"),
    (ALL, "drop_view", "DROP VIEW ^v"),
    ((PG,), "drop_view", "DROP MATERIALIZED VIEW ^v"),
    ((PG, MY), "drop_sequence", "DROP SEQUENCE ^s"),
    ((PG, MY), "create_sequence", "CREATE SEQUENCE ^s"),
    (ALL, "not_null_without_default", "ALTER TABLE t ^ADD COLUMN a int NOT NULL"),
    ((PG,), "not_null_without_default", "ALTER TABLE t ^ADD COLUMN a int NOT NULL DEFAULT NULL"),
    ((PG,), "create_index_not_concurrently", "CREATE UNIQUE INDEX i ON ^s.t (a)"),
    ((PG,), "alter_column_type", "ALTER TABLE t ^ALTER a SET DATA TYPE bigint"),
    ((MY,), "alter_column_type", "ALTER TABLE t ^MODIFY a bigint"),
    ((MY,), "alter_column_type", "ALTER TABLE t ^CHANGE COLUMN a a bigint"),
    ((PG, MY), "truncate", "TRUNCATE TABLE ^t"),
    (ALL, "large_in_list", f"SELECT * FROM t WHERE ^a IN ({numbers(101)})"),
    (ALL, "large_in_list", f"DELETE FROM t WHERE id = 1 OR ^lower(a) NOT IN ({numbers(101)})"),
    ((PG,), "large_in_list", f"SELECT * FROM t WHERE ^a = ANY (ARRAY[{numbers(101)}])"),
    ((PG,), "add_foreign_key_not_valid", "ALTER TABLE t ^ADD FOREIGN KEY (a) REFERENCES u (id)"),
    ((PG,), "add_foreign_key_not_valid", "ALTER TABLE t ADD COLUMN a int DEFAULT 1 ^REFERENCES u (id)"),
    ((PG,), "add_check_not_valid", "ALTER TABLE t ^ADD CONSTRAINT c CHECK (a > 0)"),
    ((PG,), "set_not_null", "ALTER TABLE t ^ALTER COLUMN a SET NOT NULL"),
    ((PG,), "add_unique_without_index", "ALTER TABLE t ^ADD CONSTRAINT c UNIQUE (a, b)"),
    ((PG,), "add_unique_without_index", "ALTER TABLE t ^ADD PRIMARY KEY (a)"),
    ((PG,), "rename_column", "ALTER TABLE ^t RENAME COLUMN a TO b"),
    ((MY, SL), "rename_column", "ALTER TABLE t ^RENAME COLUMN a TO b"),
    ((PG,), "rename_table", "ALTER TABLE ^t RENAME TO u"),
    ((PG,), "rename_table", "ALTER TABLE ^t SET SCHEMA s"),
    ((MY, SL), "rename_table", "ALTER TABLE t ^RENAME TO u"),
    ((MY,), "rename_table", "RENAME TABLE ^t TO u"),
    ((PG,), "vacuum_full", "VACUUM (FULL, ANALYZE) ^t"),
    ((PG,), "vacuum_full", "CLUSTER ^t USING i"),
    (ALL, "cartesian_join", "SELECT * FROM users u, ^orders o WHERE u.id = 5"),
    (ALL, "cartesian_join", "INSERT INTO t SELECT * FROM a CROSS JOIN ^b"),
    (ALL, "and_in_set", "UPDATE t SET ^a = 1 AND b = 2 WHERE id = 1"),
    (ALL, "limit_without_order", "INSERT INTO ^t SELECT * FROM u LIMIT 10"),
    ((PG, SL), "limit_without_order", "DELETE FROM ^t WHERE id IN (SELECT id FROM t WHERE old LIMIT 10)"),
    ((MY, SL), "limit_without_order", "DELETE FROM ^t WHERE a = 1 LIMIT 10"),
    ((MY,), "limit_without_order", "UPDATE ^t SET a = 1 WHERE b = 1 LIMIT 10"),
]


@pytest.mark.parametrize(
    ("dialect", "rule", "sql"), [(dialect, rule, sql) for dialects, rule, sql in FIRES for dialect in dialects]
)
def test_a_rule_fires_at_its_place(dialect: Dialect, rule: str, sql: str) -> None:
    (finding,) = reviewed(sql.replace("^", ""), dialect)
    assert (finding.rule, finding.position) == (rule, sql.index("^") + 1)
    assert finding.statement_index == 0
    assert finding.action is EVERY_RULE[rule]
    assert finding.message
    assert "{" not in finding.message + finding.hint


def test_each_rule_is_seen_to_fire_on_each_dialect_that_it_holds_on() -> None:
    fired = {(rule, dialect) for dialects, rule, _ in FIRES for dialect in dialects}
    # These need more than one statement, or a schema, and are tested below.
    apart = {"mixed_ddl_dml", "create_index_in_transaction", "implicit_cast_on_index"}
    # SQLite has neither sequences nor TRUNCATE, nor a statement that changes a type.
    never = {(rule, SL) for rule in ("drop_sequence", "create_sequence", "truncate", "alter_column_type")}
    holds = {(rule.name, dialect) for rule in RULES for dialect in rule.dialects if rule.name not in apart}
    assert holds - never == fired


QUIET = [
    (ALL, "SELECT 1"),
    (ALL, "SELECT a, count(*) FROM t WHERE b > 1 GROUP BY a HAVING count(*) > 2 ORDER BY 2 DESC LIMIT 10"),
    (ALL, "SELECT * FROM users u JOIN orders o ON o.user_id = u.id LEFT JOIN items i ON i.order_id = o.id"),
    (ALL, "SELECT * FROM users u, orders o WHERE o.user_id = u.id"),
    (ALL, "SELECT * FROM t LIMIT 10"),
    (ALL, "SELECT row_number() OVER (PARTITION BY a ORDER BY b) FROM t"),
    (ALL, "WITH x AS (SELECT max(a) AS m FROM t) SELECT * FROM t, x WHERE t.a = x.m"),
    (ALL, f"SELECT * FROM t WHERE a IN ({numbers(100)})"),
    (ALL, "SELECT * FROM t WHERE a IN (SELECT b FROM u)"),
    (ALL, "INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y')"),
    (ALL, "INSERT INTO t SELECT * FROM u WHERE a = 1"),
    (ALL, "INSERT INTO t SELECT * FROM u ORDER BY id LIMIT 10"),
    (ALL, "UPDATE t SET a = 1, b = 'x' WHERE id = 1 AND c = 2"),
    (ALL, "UPDATE t SET a = (b > 1 AND c = 2) WHERE id = 1"),
    (ALL, "UPDATE t SET a = (SELECT max(b) FROM u WHERE u.id = t.id) WHERE id IN (SELECT id FROM u)"),
    (ALL, "DELETE FROM t WHERE id = 1"),
    (ALL, "DELETE FROM t WHERE a < '2020-01-01' AND NOT EXISTS (SELECT 1 FROM u WHERE u.id = t.id LIMIT 1)"),
    (ALL, "DELETE FROM t WHERE false"),
    (ALL, "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, b int REFERENCES u (id), CHECK (a > 0), UNIQUE (a))"),
    (ALL, "CREATE VIEW v AS SELECT * FROM t"),
    (ALL, "ALTER TABLE t ADD COLUMN a int"),
    (ALL, "ALTER TABLE t ADD COLUMN a int NOT NULL DEFAULT 0"),
    ((PG,), "ALTER TABLE t ADD COLUMN a bigserial NOT NULL"),
    ((PG,), "ALTER TABLE t ADD COLUMN a int GENERATED ALWAYS AS IDENTITY NOT NULL"),
    ((PG,), "ALTER TABLE t ADD COLUMN a int REFERENCES u (id)"),
    ((PG,), "ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES u (id) NOT VALID"),
    ((PG,), "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID"),
    ((PG,), "ALTER TABLE t ADD CONSTRAINT c NOT NULL a NOT VALID"),
    ((PG,), "ALTER TABLE t VALIDATE CONSTRAINT c"),
    ((PG,), "ALTER TABLE t ADD CONSTRAINT c UNIQUE USING INDEX i"),
    ((PG,), "ALTER TABLE t ALTER a DROP NOT NULL"),
    ((PG,), "ALTER TABLE t ALTER a SET DEFAULT 1"),
    ((PG,), "ALTER INDEX i RENAME TO j"),
    ((PG,), "CREATE INDEX CONCURRENTLY i ON t (a)"),
    ((PG,), "VACUUM ANALYZE t"),
    ((PG,), "VACUUM (FULL false) t"),
    ((PG,), "REFRESH MATERIALIZED VIEW CONCURRENTLY v"),
    ((PG,), "EXPLAIN DELETE FROM t"),
    ((PG,), "INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 1"),
    ((PG,), "MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN UPDATE SET a = u.a"),
    ((PG,), "SELECT * FROM a, LATERAL (SELECT * FROM b WHERE b.x = a.x) l, unnest(a.tags) x, generate_series(1, 2)"),
    (
        (PG,),
        "SELECT data->>'a', data @> '{}'::jsonb FROM t WHERE ts @@ to_tsquery('x') AND d > now() - interval '1 day'",
    ),
    ((MY,), "CREATE INDEX i ON t (a)"),
    ((MY,), "ALTER TABLE t ADD INDEX i (a), ADD UNIQUE (b), ADD CONSTRAINT c CHECK (a > 0), ENGINE=InnoDB"),
    ((MY,), "ALTER TABLE t RENAME INDEX a TO b"),
    ((MY,), "ALTER TABLE t ALTER COLUMN a SET DEFAULT 1"),
    ((MY,), "INSERT INTO t VALUES (1) ON DUPLICATE KEY UPDATE a = 1, b = 2"),
    ((MY,), "UPDATE t JOIN u ON u.id = t.id SET t.a = u.a WHERE u.b = 1"),
    ((MY,), "DELETE FROM t WHERE a = 1 ORDER BY id LIMIT 10"),
    ((MY,), "OPTIMIZE TABLE t"),
    ((MY,), "SHOW CREATE TABLE t"),
    ((SL,), "CREATE INDEX i ON t (a)"),
    ((SL,), "VACUUM"),
    ((SL,), "PRAGMA table_info(t)"),
    ((SL,), "INSERT OR REPLACE INTO t VALUES (1)"),
]


@pytest.mark.parametrize(("dialect", "sql"), [(dialect, sql) for dialects, sql in QUIET for dialect in dialects])
def test_ordinary_statements_have_no_findings(dialect: Dialect, sql: str) -> None:
    assert rules(sql, dialect) == []


def test_every_long_list_is_a_finding_and_says_how_long() -> None:
    found = reviewed(f"SELECT * FROM t WHERE a IN ({numbers(101)}) OR b IN ({numbers(250)})", PG)
    assert [finding.rule for finding in found] == ["large_in_list"] * 2
    assert "101" in found[0].message
    assert "250" in found[1].message


def test_other_rules_find_a_statement_once() -> None:
    assert rules("DROP TABLE a, b, c", PG) == ["drop_table"]


@pytest.mark.parametrize("dialect", ALL)
def test_findings_come_in_the_order_of_the_text(dialect: Dialect) -> None:
    found = reviewed("ALTER TABLE t DROP COLUMN a; DELETE FROM t; UPDATE t SET a = 1 AND b = 2; DROP TABLE t", dialect)
    assert [(finding.rule, finding.statement_index) for finding in found] == [
        ("mixed_ddl_dml", 0),
        ("drop_column", 0),
        ("no_where_delete", 1),
        ("no_where_update", 2),
        ("and_in_set", 2),
        ("drop_table", 3),
    ]


def test_a_place_counts_in_the_text_that_is_shown() -> None:
    (finding,) = reviewed("/* note */ UPDATE ü SET /* x */ a = 1", PG)
    assert finding.position == len("UPDATE ") + 1


@pytest.mark.parametrize("dialect", ALL)
def test_ddl_beside_changes_of_rows(dialect: Dialect) -> None:
    mixed = "CREATE TABLE t (a int); INSERT INTO t VALUES (1)"
    assert rules(mixed, dialect) == ["mixed_ddl_dml"]
    assert rules("INSERT INTO t VALUES (1); ALTER TABLE u ADD COLUMN a int", dialect) == ["mixed_ddl_dml"]
    assert rules("INSERT INTO t VALUES (1); UPDATE t SET a = 2 WHERE a = 1", dialect) == []
    assert rules("CREATE TABLE t (a int); CREATE TABLE u (a int)", dialect) == []
    temporary = "CREATE TEMPORARY TABLE x AS SELECT 1 AS id; DELETE FROM t WHERE id IN (SELECT id FROM x)"
    assert rules(temporary, dialect) == []


LOCKING = (
    "ALTER TABLE t ADD COLUMN x int NOT NULL; CREATE INDEX i ON t (a); ALTER TABLE t ALTER a TYPE text,"
    " ADD FOREIGN KEY (a) REFERENCES u, ADD CHECK (a > 0), ALTER b SET NOT NULL, ADD UNIQUE (b);"
    " ALTER TABLE t RENAME COLUMN a TO c"
)
LOCKED = {
    "not_null_without_default",
    "create_index_not_concurrently",
    "alter_column_type",
    "add_foreign_key_not_valid",
    "add_check_not_valid",
    "set_not_null",
    "add_unique_without_index",
    "rename_column",
}


def test_nobody_waits_for_a_table_that_is_created_in_the_same_text() -> None:
    assert set(rules(LOCKING, PG)) == LOCKED
    for creation in ("CREATE TABLE t (a int)", "CREATE TABLE public.t (a int)", "CREATE TEMP TABLE t AS SELECT 1 AS a"):
        assert rules(f"{creation}; {LOCKING}", PG) == []
    assert rules("CREATE TABLE t (a int); ALTER TABLE t ADD b int NOT NULL, MODIFY a bigint", MY) == []


@pytest.mark.parametrize(
    "before",
    [
        "CREATE TABLE other (a int)",
        "CREATE TABLE s.t (a int)",
        "CREATE TABLE IF NOT EXISTS t (a int)",
        "CREATE VIEW t AS SELECT 1",
        "CREATE TEMP TABLE t (a int); DROP TABLE t",
    ],
)
def test_another_table_or_one_that_may_be_there_already_is_not_new(before: str) -> None:
    assert set(rules(f"{before}; {LOCKING}", PG)) >= LOCKED


def test_a_temporary_table_is_not_the_one_in_a_schema() -> None:
    index = "CREATE INDEX i ON public.t (a)"
    assert rules(f"CREATE TEMP TABLE t (a int); {index}", PG) == ["create_index_not_concurrently"]


def test_the_schema_tells_that_a_table_is_new() -> None:
    text = f"CREATE TABLE IF NOT EXISTS t (a int); {LOCKING}"
    assert rules(text, PG, schema=Schema(SchemaStatus.READY)) == []
    there = Schema(SchemaStatus.READY, tables=(Table(Name("t", "public")),))
    assert set(rules(text, PG, schema=there)) == LOCKED


def test_a_partitioned_table_has_no_index_made_concurrently() -> None:
    schema = Schema(SchemaStatus.READY, tables=(Table(Name("t", "public"), TableKind.PARTITIONED),))
    assert rules("CREATE INDEX i ON t (a)", PG, schema=schema) == []


CHECKED = "ALTER TABLE t ADD CONSTRAINT c CHECK ({}) NOT VALID; ALTER TABLE t VALIDATE CONSTRAINT c"


@pytest.mark.parametrize(
    "text",
    [
        f"{CHECKED.format('a IS NOT NULL')}; ALTER TABLE t ALTER a SET NOT NULL; ALTER TABLE t DROP CONSTRAINT c",
        "ALTER TABLE t VALIDATE CONSTRAINT earlier; ALTER TABLE t ALTER a SET NOT NULL",
    ],
)
def test_set_not_null_behind_a_validated_check_reads_no_rows(text: str) -> None:
    assert rules(text, PG) == []


@pytest.mark.parametrize(
    "text",
    [
        "ALTER TABLE t ADD CONSTRAINT c CHECK (a IS NOT NULL) NOT VALID; ALTER TABLE t ALTER a SET NOT NULL",
        f"{CHECKED.format('a > 0')}; ALTER TABLE t ALTER a SET NOT NULL",
        f"{CHECKED.format('b IS NOT NULL')}; ALTER TABLE t ALTER a SET NOT NULL",
        "ALTER TABLE u VALIDATE CONSTRAINT c; ALTER TABLE t ALTER a SET NOT NULL",
        "ALTER TABLE t ALTER a SET NOT NULL; ALTER TABLE t VALIDATE CONSTRAINT c",
    ],
)
def test_set_not_null_without_a_check_that_proves_it(text: str) -> None:
    assert rules(text, PG) == ["set_not_null"]


@pytest.mark.parametrize(
    "concurrently",
    ["CREATE INDEX CONCURRENTLY i ON ^t (a)", "DROP INDEX CONCURRENTLY ^i", "REINDEX INDEX CONCURRENTLY ^i"],
)
def test_concurrently_is_not_for_a_transaction(concurrently: str) -> None:
    alone = concurrently.replace("^", "")
    assert "create_index_in_transaction" not in rules(alone, PG)
    assert "create_index_in_transaction" in rules(alone, PG, in_transaction=True)
    found = reviewed(f"SET lock_timeout = '1s'; {alone}", PG)
    (finding,) = [finding for finding in found if finding.rule == "create_index_in_transaction"]
    assert (finding.statement_index, finding.position) == (1, concurrently.index("^") + 1)
    assert rules("SET lock_timeout = '1s'; REFRESH MATERIALIZED VIEW CONCURRENTLY v", PG) == []


PHONES = Schema(
    SchemaStatus.READY,
    tables=(
        Table(
            Name("users", "app"),
            columns=(
                Column("id", "BIGINT", nullable=False, is_primary_key=True),
                Column("phone", "VARCHAR(20)", nullable=True),
                Column("code", "CHAR(2)", nullable=False),
                Column("note", "TEXT", nullable=True),
            ),
            constraints=(Constraint("u", "unique", ("code",)),),
            indexes=(Index("i", ("phone",)),),
        ),
        Table(Name("orders", "app"), columns=(Column("id", "BIGINT", nullable=False, is_primary_key=True),)),
    ),
)


@pytest.mark.parametrize("dialect", [PG, MY])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM users WHERE ^phone = 42",
        "SELECT * FROM users WHERE ^phone IN (1, 2)",
        "SELECT * FROM users WHERE 42 < ^code",
        "SELECT * FROM users u JOIN orders o ON o.id = u.id AND ^u.phone = 42",
        "SELECT * FROM users u JOIN orders o ON o.id = u.id WHERE ^phone = 42",
        "DELETE FROM users WHERE ^phone = 42",
    ],
)
def test_a_number_beside_an_indexed_text(dialect: Dialect, sql: str) -> None:
    text = sql.replace("^", "")
    (finding,) = reviewed(text, dialect, schema=PHONES)
    assert (finding.rule, finding.position) == ("implicit_cast_on_index", sql.index("^") + 1)
    assert rules(text, dialect) == []


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        (MY, "SELECT * FROM users WHERE phone = '42'"),
        (MY, "SELECT * FROM users WHERE id = '42'"),
        (MY, "SELECT * FROM users WHERE id = 42"),
        (MY, "SELECT * FROM users WHERE note = 42"),
        (MY, "SELECT * FROM users WHERE other = 42"),
        (MY, "SELECT * FROM strangers WHERE phone = 42"),
        (MY, "SELECT * FROM users u JOIN orders o ON o.id = u.id WHERE id = 42"),
        (SL, "SELECT * FROM users WHERE phone = 42"),
    ],
)
def test_comparisons_that_leave_the_index_in_use(dialect: Dialect, sql: str) -> None:
    assert rules(sql, dialect, schema=PHONES) == []


def test_actions_decide_and_what_they_lack_has_its_default() -> None:
    text = "DELETE FROM t; ALTER TABLE t DROP COLUMN a; CREATE SEQUENCE s"
    by_default = review(classify(text, PG), PG)
    assert [(finding.rule, finding.action) for finding in by_default] == [
        ("mixed_ddl_dml", Action.WARN),
        ("no_where_delete", Action.BLOCK),
        ("drop_column", Action.WARN),
    ]
    changed = {"no_where_delete": Action.OFF, "drop_column": Action.BLOCK, "mixed_ddl_dml": Action.OFF}
    assert [(finding.rule, finding.action) for finding in review(classify(text, PG), PG, changed)] == [
        ("drop_column", Action.BLOCK)
    ]


def test_advice_is_merged_in_its_place_unless_it_is_off() -> None:
    text = classify("ALTER TABLE t DROP COLUMN a; ALTER TABLE t DROP COLUMN b", PG)
    advice = (Finding("squawk:some-rule", Action.WARN, "m", "h", statement_index=0, position=30),)
    found = [finding.rule for finding in review(text, PG, advice=advice)]
    assert found == ["drop_column", "squawk:some-rule", "drop_column"]
    assert "squawk:some-rule" not in [it.rule for it in review(text, PG, {"squawk": Action.OFF}, advice=advice)]


def test_what_an_emergency_may_go_past() -> None:
    assert {rule.name for rule in RULES[:14] if not rule.bypassable} == {
        "no_where_delete",
        "no_where_update",
        "mixed_ddl_dml",
        "large_in_list",
    }
    dropped = reviewed("DROP TABLE t", PG)
    assert blocking(dropped)
    assert bypassable(dropped)
    deleted = reviewed("DROP TABLE t; DELETE FROM u", PG)
    assert blocking(deleted)
    assert not bypassable(deleted)
    warned = reviewed("DROP VIEW v; INSERT INTO t VALUES (1)", PG)
    assert warned
    assert not blocking(warned)
    assert bypassable(warned)


def test_the_table_starts_with_the_fourteen_rules_and_their_defaults() -> None:
    block = {"no_where_delete", "no_where_update", "drop_table", "truncate"}
    assert [rule.name for rule in RULES[:14]] == [
        "no_where_delete",
        "no_where_update",
        "drop_table",
        "drop_column",
        "drop_index",
        "drop_view",
        "drop_sequence",
        "create_sequence",
        "not_null_without_default",
        "create_index_not_concurrently",
        "alter_column_type",
        "truncate",
        "mixed_ddl_dml",
        "large_in_list",
    ]
    assert {rule.name for rule in RULES if rule.action is Action.BLOCK} == block
    assert [rule.name for rule in RULES if rule.action is Action.OFF] == ["create_sequence"]
    assert set(DEFAULT_ACTIONS) == {rule.name for rule in RULES} | {"squawk"}
    assert len(DEFAULT_ACTIONS) == len(RULES) + 1


def test_a_write_that_nobody_can_see_into_is_blocked() -> None:
    (finding,) = reviewed("REPLACE nonsense here", MY)
    assert (finding.rule, finding.action) == (PARSE_FAILURE, Action.BLOCK)
    assert not bypassable([finding])


@pytest.mark.parametrize("dialect", ALL)
def test_the_corpus_is_reviewed_without_a_slip(dialect: Dialect) -> None:
    seen: Counter[str] = Counter()
    for case in CORPUS:
        if case["dialect"] != dialect:
            continue
        try:
            found = classify(case["sql"], dialect)
        except Invalid:
            continue
        findings = review(found, dialect, EVERY_RULE)
        for finding in findings:
            text = found.statements[finding.statement_index].text
            assert 1 <= finding.position <= len(text), case["id"]
            assert finding.message, case["id"]
        places = [(finding.statement_index, finding.position) for finding in findings]
        assert places == sorted(places), case["id"]
        seen.update(finding.rule for finding in findings)
        if case["accept"] == ["select"]:
            assert {finding.rule for finding in findings} <= {"cartesian_join", "large_in_list"}, case["id"]
    assert len(seen) >= 6
    assert seen[PARSE_FAILURE] == 0


def tokens_of(sql: str, dialect: Dialect) -> list[str]:
    try:
        return [sql[token.start : token.end] for token in tokenize(sql, dialect)]
    except Invalid:
        return []


BROKEN = [(Dialect(case["dialect"]), tokens_of(case["sql"], Dialect(case["dialect"]))) for case in CORPUS]


@calm
@given(st.sampled_from([case for case in BROKEN if case[1]]), st.data())
def test_statements_with_a_piece_missing_or_twice_are_reviewed_or_refused(
    case: tuple[Dialect, list[str]], data: st.DataObject
) -> None:
    dialect, tokens = case
    start = data.draw(st.integers(0, len(tokens) - 1))
    end = data.draw(st.integers(start, len(tokens)))
    times = data.draw(st.integers(0, 2))
    try:
        found = classify(" ".join([*tokens[:start], *tokens[start:end] * times, *tokens[end:]]), dialect)
    except Invalid:
        return
    for finding in review(found, dialect, EVERY_RULE):
        assert 1 <= finding.position <= len(found.statements[finding.statement_index].text)
