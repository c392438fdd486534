"""What statements do, read from their trees: deeds, flags, tables, and where in the text they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dbward.domain.model import Dialect
from dbward.domain.sql.classify import classify
from dbward.domain.sql.facts import facts
from dbward.domain.sql.statements import Act, Comparison, Deed, Facts, Flag, Kind, Name
from dbward.errors import Invalid

PG, MY, SL = Dialect.POSTGRESQL, Dialect.MYSQL, Dialect.SQLITE
CORPUS = [
    json.loads(line) for line in (Path(__file__).parent / "data" / "sql_corpus.jsonl").read_text("utf-8").splitlines()
]


def read(sql: str, dialect: Dialect) -> Facts:
    (statement,) = classify(sql, dialect).statements
    return facts(statement, dialect)


def marked(sql: str) -> tuple[str, list[int]]:
    """The text without its marks `^`, and where they were."""
    pieces = sql.split("^")
    places = [sum(map(len, pieces[:count])) for count in range(1, len(pieces))]
    return "".join(pieces), places


def shown(act: Act) -> str:
    """`drop_column a.t.x +cascade` for such an act."""
    parts = [str(act.deed), str(act.table or "-") + (f".{act.column}" if act.column else "")]
    return " ".join([*parts, *(f"+{flag}" for flag in sorted(act.flags))])


@pytest.mark.parametrize(
    ("dialect", "sql", "expected"),
    [
        (PG, "DELETE FROM ^t WHERE a = 1", ["delete t +where"]),
        (PG, "DELETE FROM ^s.t USING u WHERE u.id = t.id", ["delete s.t +where"]),
        (PG, "WITH d AS (DELETE FROM ^t RETURNING *) SELECT * FROM d", ["delete t"]),
        (PG, "EXPLAIN (ANALYZE) UPDATE ^t SET a = 1", ["update t"]),
        (PG, "EXPLAIN (ANALYZE, ANALYZE off) UPDATE t SET a = 1", []),
        (PG, "EXPLAIN DELETE FROM t", []),
        (PG, "INSERT INTO ^t SELECT * FROM u LIMIT 5", ["insert t +limit"]),
        (PG, "INSERT INTO ^t SELECT * FROM u ORDER BY id LIMIT 5", ["insert t +limit +order_by"]),
        (PG, "INSERT INTO ^t SELECT * FROM u LIMIT ALL", ["insert t"]),
        (PG, "UPDATE ^t SET a = 1 WHERE EXISTS (SELECT 1 FROM u WHERE u.id = t.id LIMIT 1)", ["update t +where"]),
        (PG, "MERGE INTO ^t USING u ON t.id = u.id WHEN MATCHED THEN DELETE", ["merge t"]),
        (PG, "CALL ^p(1)", ["call -"]),
        (PG, "CREATE TABLE ^t (a int)", ["create_table t"]),
        (PG, "CREATE TEMP TABLE IF NOT EXISTS ^t (a int)", ["create_table t +if_not_exists +temporary"]),
        (PG, "CREATE TABLE ^t AS SELECT 1", ["create_table t +as_select"]),
        (PG, "SELECT * INTO ^t FROM u", ["create_table t +as_select"]),
        (PG, "CREATE OR REPLACE VIEW ^v AS SELECT 1", ["create_view v +as_select +or_replace"]),
        (PG, "CREATE MATERIALIZED VIEW ^v AS SELECT 1", ["create_view v +as_select +materialized"]),
        (PG, "CREATE UNIQUE INDEX CONCURRENTLY i ON ^t (a)", ["create_index t +concurrently"]),
        (PG, "CREATE SEQUENCE ^s", ["create_sequence s"]),
        (PG, "DROP TABLE IF EXISTS ^a, ^b.c CASCADE", ["drop_table a +cascade", "drop_table b.c +cascade"]),
        (PG, "DROP INDEX CONCURRENTLY ^i", ["drop_index i +concurrently"]),
        (PG, "DROP MATERIALIZED VIEW ^v", ["drop_view v +materialized"]),
        (PG, "TRUNCATE ^a, ^b CASCADE", ["truncate a +cascade", "truncate b +cascade"]),
        (PG, "ALTER TABLE t ^ADD COLUMN a int NOT NULL", ["add_column t.a +not_null"]),
        (PG, "ALTER TABLE t ^ADD a int NOT NULL DEFAULT 0", ["add_column t.a +default +not_null"]),
        (PG, "ALTER TABLE t ^ADD a int NOT NULL DEFAULT NULL", ["add_column t.a +not_null"]),
        (PG, "ALTER TABLE t ^ADD a int GENERATED ALWAYS AS IDENTITY NOT NULL", ["add_column t.a +default +not_null"]),
        (PG, "ALTER TABLE t ^ADD a bigserial NOT NULL", ["add_column t.a +default +not_null"]),
        (
            PG,
            "ALTER TABLE t ^ADD a int ^REFERENCES u ^CHECK (a > 0) ^UNIQUE",
            ["add_column t.a", "add_foreign_key t.a +not_valid", "add_check t", "add_unique t.a"],
        ),
        (PG, "ALTER TABLE t ^ADD a int DEFAULT 1 ^REFERENCES u", ["add_column t.a +default", "add_foreign_key t.a"]),
        (
            PG,
            "ALTER TABLE s.t * ^DROP a, ^ALTER b TYPE numeric(3, 2)[], ^ALTER c SET NOT NULL, ^ADD UNIQUE (a, b)",
            ["drop_column s.t.a", "alter_column_type s.t.b", "set_not_null s.t.c", "add_unique s.t"],
        ),
        (PG, "ALTER TABLE t ^ADD CONSTRAINT c CHECK (a IS NOT NULL) NOT VALID", ["add_check t.a +not_valid"]),
        (PG, "ALTER TABLE t ^ADD CHECK (a IS NOT NULL AND b > 1)", ["add_check t"]),
        (PG, "ALTER TABLE t ^VALIDATE CONSTRAINT c", ["validate_constraint t"]),
        (PG, "ALTER TABLE t ^ADD CONSTRAINT c UNIQUE USING INDEX i", ["add_unique t +using_index"]),
        (PG, "ALTER TABLE t ^ADD FOREIGN KEY (a) REFERENCES u NOT VALID", ["add_foreign_key t.a +not_valid"]),
        (PG, "ALTER TABLE t ^OWNER TO CURRENT_USER, ^SET LOGGED", ["alter_table t", "alter_table t"]),
        (PG, "ALTER TABLE ^t RENAME COLUMN a TO b", ["rename_column t.a"]),
        (PG, "ALTER TABLE ^t RENAME TO u", ["rename_table t"]),
        (PG, "ALTER TABLE ^t SET SCHEMA s", ["rename_table t"]),
        (PG, "ALTER INDEX ^i RENAME TO j", ["alter_table -"]),
        (PG, "VACUUM FULL ^t", ["maintenance t +full"]),
        (PG, "VACUUM (FULL false) ^t", ["maintenance t"]),
        (PG, "CLUSTER ^t", ["maintenance t +full"]),
        (PG, "REINDEX TABLE CONCURRENTLY ^t", ["maintenance t +concurrently"]),
        (MY, "DELETE FROM ^t LIMIT 5", ["delete t +limit"]),
        (MY, "DELETE ^x FROM t AS x JOIN u ON x.id = u.id WHERE u.a = 1", ["delete t +where"]),
        (MY, "DELETE FROM ^a, ^b USING a JOIN b ON a.id = b.id WHERE a.x = 1", ["delete a +where", "delete b +where"]),
        (MY, "DELETE LOW_PRIORITY QUICK FROM ^t", ["delete t"]),
        (MY, "UPDATE LOW_PRIORITY ^t SET a = 1", ["update t"]),
        (MY, "UPDATE ^a JOIN b ON a.id = b.id SET b.x = 1 WHERE a.y = 2", ["update b +where"]),
        (MY, "UPDATE ^t SET a = 1 ORDER BY id LIMIT 3", ["update t +limit +order_by"]),
        (MY, "WITH c AS (SELECT 1) DELETE FROM ^t", ["delete t"]),
        (MY, "REPLACE INTO ^t SELECT * FROM u", ["insert t"]),
        (MY, "REPLACE LOW_PRIORITY ^t VALUES (1)", ["insert t"]),
        (MY, "EXPLAIN ANALYZE DELETE FROM ^t", ["delete t"]),
        (MY, "EXPLAIN UPDATE t SET a = 1", []),
        (MY, "CALL p(1)", ["call -"]),
        (MY, "CREATE TEMPORARY TABLE ^t AS SELECT 1", ["create_table t +as_select +temporary"]),
        (MY, "CREATE OR REPLACE VIEW ^v AS SELECT 1", ["create_view v +as_select +or_replace"]),
        (MY, "ALTER VIEW ^v AS SELECT 1", ["create_view v +as_select +or_replace"]),
        (MY, "CREATE UNIQUE INDEX i ON ^d.t (a)", ["create_index d.t"]),
        (MY, "DROP TABLE IF EXISTS ^a, ^`b c`.d", ["drop_table a", "drop_table b c.d"]),
        (MY, "DROP TEMPORARY TABLE ^a", ["drop_table a +temporary"]),
        (MY, "DROP INDEX ^i ON t", ["drop_index i"]),
        (MY, "TRUNCATE TABLE ^t", ["truncate t"]),
        (MY, "RENAME TABLE ^a TO b, ^c TO d", ["rename_table a", "rename_table c"]),
        (MY, "OPTIMIZE TABLE ^a, ^b", ["maintenance a", "maintenance b"]),
        (
            MY,
            (
                "ALTER TABLE t ^ADD a int NOT NULL, ^ADD COLUMN `check` int NOT NULL DEFAULT (1), ^DROP INDEX i,"
                " ^DROP b, ^MODIFY c enum('a,b', 'c'), ^CHANGE d e int, ^CHANGE f f int, ^ADD KEY (a), ^ENGINE=InnoDB"
            ),
            [
                "add_column t.a +not_null",
                "add_column t.check +default +not_null",
                "alter_table t",
                "drop_column t.b",
                "alter_column_type t.c",
                "alter_column_type t.d",
                "rename_column t.d",
                "alter_column_type t.f",
                "alter_table t",
                "alter_table t",
            ],
        ),
        (
            MY,
            "ALTER TABLE t ^ADD CHECK (a > 1), ^ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES u, ^ADD PRIMARY KEY (a)",
            ["add_check t", "add_foreign_key t", "add_unique t"],
        ),
        (MY, "ALTER TABLE t ^RENAME COLUMN a TO b", ["rename_column t.a"]),
        (MY, "ALTER TABLE t ^RENAME INDEX a TO b", ["alter_table t"]),
        (MY, "ALTER TABLE t ^RENAME u", ["rename_table t"]),
        (MY, "ALTER TABLE ^t", ["alter_table t"]),
        (MY, "ALTER TABLE t ^ADD", ["alter_table t"]),
        (SL, "ALTER TABLE [a b] ^ADD c", ["add_column a b.c"]),
        (SL, "ALTER TABLE t ^DROP c", ["drop_column t.c"]),
        (SL, "ALTER TABLE t ^RENAME a TO b", ["rename_column t.a"]),
        (SL, "ALTER TABLE t ^RENAME TO u", ["rename_table t"]),
        (SL, "INSERT OR REPLACE INTO ^t VALUES (1)", ["insert t"]),
        (SL, "UPDATE ^t SET a = 1 FROM u WHERE u.id = t.id", ["update t +where"]),
        (SL, "CREATE INDEX IF NOT EXISTS main.i ON ^t (a) WHERE a > 1", ["create_index t +if_not_exists"]),
        (SL, "VACUUM", ["maintenance -"]),
        (SL, "PRAGMA table_info(t)", []),
    ],
)
def test_deeds_and_their_places(dialect: Dialect, sql: str, expected: list[str]) -> None:
    text, places = marked(sql)
    found = read(text, dialect)
    assert [shown(act) for act in found.acts] == expected
    if places:
        assert sorted({act.at for act in found.acts}) == places
    assert found.known


@pytest.mark.parametrize("dialect", [PG, MY, SL])
@pytest.mark.parametrize(
    ("where", "restricts"),
    [
        ("a = 1", True),
        ("a = 1 OR b = 2", True),
        ("false", True),
        ("1 = 0", True),
        ("a = 1 AND true", True),
        ("a IN (1, 2)", True),
        ("EXISTS (SELECT 1 FROM u WHERE u.id = t.id)", True),
        ("NOT (a = 1)", True),
        ("true", False),
        ("1 = 1", False),
        ("'x' = 'x'", False),
        ("a = a", False),
        ("a = 1 OR true", False),
        ("NOT false", False),
        ("NOT (a = 1 AND false)", False),
        ("(1 = 1) AND true", False),
        ("CURRENT_DATE > '2020-01-01'", False),
    ],
)
def test_only_a_where_that_can_leave_rows_out_counts(dialect: Dialect, where: str, restricts: bool) -> None:
    (act,) = read(f"DELETE FROM t WHERE {where}", dialect).acts
    assert (Flag.WHERE in act.flags) is restricts


@pytest.mark.parametrize("dialect", [MY, SL])
def test_a_number_is_a_condition_there(dialect: Dialect) -> None:
    assert Flag.WHERE not in read("DELETE FROM t WHERE 1", dialect).acts[0].flags
    assert Flag.WHERE in read("DELETE FROM t WHERE 0", dialect).acts[0].flags


@pytest.mark.parametrize("dialect", [PG, MY, SL])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM a, ^b",
        "SELECT * FROM a, ^b WHERE a.x = 1",
        "SELECT * FROM a, ^b WHERE a.x = 1 AND b.x = 2",
        "SELECT * FROM a CROSS JOIN ^b",
        "SELECT * FROM a JOIN ^b ON 1 = 1",
        "SELECT * FROM a JOIN b ON a.id = b.id, ^c",
        "SELECT * FROM a, ^b, ^c WHERE a.x IN (SELECT id FROM d)",
        "SELECT * FROM a LEFT JOIN ^b ON b.x = 1",
        "SELECT (SELECT count(*) FROM a, ^b) FROM c",
        "WITH x AS (SELECT * FROM c) SELECT * FROM a, ^x",
        "SELECT 1 UNION ALL SELECT 1 FROM a, ^b",
    ],
)
def test_tables_that_nothing_joins(dialect: Dialect, sql: str) -> None:
    text, places = marked(sql)
    assert list(read(text, dialect).cartesian) == places


@pytest.mark.parametrize("dialect", [PG, MY, SL])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM a, b WHERE a.id = b.id",
        "SELECT * FROM a, b WHERE a.x + 1 > b.y",
        "SELECT * FROM a, b WHERE id = a_id",
        "SELECT * FROM a, b WHERE a.id = a_id",
        "SELECT * FROM a JOIN b USING (id) NATURAL JOIN c",
        "SELECT * FROM a x, a y WHERE x.id = y.parent OR x.id = y.other",
        "SELECT * FROM a, b WHERE a.x = 5 AND b.x = 5",
        "SELECT * FROM a, b WHERE EXISTS (SELECT 1 FROM c WHERE c.x = a.x AND c.y = b.y)",
        "SELECT * FROM z WHERE EXISTS (SELECT 1 FROM a, b WHERE a.x = z.x AND b.y = z.y)",
        "SELECT * FROM a, (SELECT max(x) AS x FROM b) m",
        "SELECT * FROM a CROSS JOIN (SELECT 1 AS n) m",
        "WITH p AS (SELECT 1 AS n) SELECT * FROM a, p",
        "SELECT * FROM a JOIN (b JOIN c ON b.x = c.x) ON a.id = b.id",
        "SELECT * FROM a, b, c WHERE a.id = b.id AND c.id = b.id",
    ],
)
def test_tables_that_are_joined_or_meant_to_multiply(dialect: Dialect, sql: str) -> None:
    assert read(sql, dialect).cartesian == ()


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        (PG, "SELECT * FROM a, unnest(a.tags) AS u(tag), b WHERE b.tag = u.tag"),
        (PG, "SELECT * FROM a CROSS JOIN LATERAL (SELECT * FROM b WHERE b.x = a.x) l JOIN c ON c.id = l.id"),
        (PG, "SELECT * FROM a, generate_series(1, 3)"),
        (PG, "SELECT * FROM (a JOIN b USING (id)) AS j JOIN c ON c.x = j.x"),
        (PG, "SELECT * FROM a, (VALUES (1), (2)) v(x)"),
        (PG, "SELECT * FROM a TABLESAMPLE system (1), b WHERE a.id = b.id"),
        (MY, "SELECT * FROM a, JSON_TABLE(a.doc, '$' COLUMNS (x INT PATH '$.x')) j"),
        (MY, "SELECT * FROM a, LATERAL (SELECT * FROM b WHERE b.x = a.x) l"),
        (SL, "SELECT * FROM a, json_each(a.doc) j"),
        (SL, "SELECT * FROM a, (VALUES (1), (2)) v"),
    ],
)
def test_rows_made_from_others_are_joined_to_them(dialect: Dialect, sql: str) -> None:
    assert read(sql, dialect).cartesian == ()


@pytest.mark.parametrize("dialect", [PG, MY, SL])
@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET ^a = 1 AND b = 2 WHERE id = 1",
        "UPDATE t SET c = 0, ^a = 'x' AND b = 2 AND c = 3",
        "UPDATE t SET ^a = lower(x) AND b = 2",
        "UPDATE t SET ^a = b + 1 AND c = 2",
        "UPDATE t SET a = 1, b = 2",
        "UPDATE t SET a = (b = 1 AND c = 2)",
        "UPDATE t SET a = b > 1 AND c = 2",
        "UPDATE t SET a = b AND c = 2",
        "UPDATE t SET a = b IS NULL AND c = 2",
        "UPDATE t SET a = true AND b",
        "UPDATE t SET a = 1 WHERE b = 1 AND c = 2",
    ],
)
def test_and_between_what_looks_like_assignments(dialect: Dialect, sql: str) -> None:
    text, places = marked(sql)
    assert list(read(text, dialect).and_in_set) == places


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        (PG, "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET ^a = 1 AND b = 2"),
        (PG, "MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN UPDATE SET ^a = 1 AND b = 2"),
        (MY, "INSERT INTO t VALUES (1) ON DUPLICATE KEY UPDATE ^a = 1 AND b = 2"),
        (SL, "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET ^a = 1 AND b = 2"),
    ],
)
def test_and_in_the_assignments_of_an_upsert(dialect: Dialect, sql: str) -> None:
    text, places = marked(sql)
    assert list(read(text, dialect).and_in_set) == places


@pytest.mark.parametrize("dialect", [PG, MY, SL])
def test_lists_and_comparisons(dialect: Dialect) -> None:
    found = read("SELECT * FROM s.t x WHERE x.a NOT IN (1, 2) AND 'ü' = b AND 5 < x.c AND d BETWEEN -1 AND 2", dialect)
    table = Name("t", "s")
    assert found.in_lists == ((2, 26),)
    assert found.comparisons == (
        Comparison("a", "number", 26, table),
        Comparison("b", "string", 54, table),
        Comparison("c", "number", 64, table),
        Comparison("d", "number", 72, table),
    )
    assert read("SELECT * FROM t, u WHERE a = 1 AND b IN (SELECT 1)", dialect).comparisons == (
        Comparison("a", "number", 25, None),
    )


def test_any_of_an_array_is_a_list() -> None:
    assert read("SELECT * FROM t WHERE t.a = ANY (ARRAY[1, 2, 3])", PG).in_lists == ((3, 22),)


@pytest.mark.parametrize(
    ("dialect", "sql", "tables"),
    [
        (PG, "WITH c AS (SELECT * FROM a) SELECT * FROM c JOIN public.c AS d ON d.id = c.id", {"a", "public.c"}),
        (PG, "WITH RECURSIVE c AS (SELECT 1 UNION ALL SELECT 1 FROM c) SELECT * FROM c", set()),
        (PG, "WITH c AS (SELECT * FROM c) DELETE FROM t USING c WHERE c.id = t.id", {"c", "t"}),
        (PG, "WITH t AS (SELECT 1) DELETE FROM t", {"t"}),
        (PG, 'SELECT * FROM Users, "Users", unnest(ARRAY[1])', {"users", "Users"}),
        (PG, "CREATE TABLE n (LIKE old, a int REFERENCES other)", {"n", "other"}),
        (PG, "COMMENT ON COLUMN s.t.c IS 'x'", {"s.t"}),
        (PG, "DROP INDEX i", set()),
        (PG, "CREATE VIEW v AS SELECT * FROM t", {"v", "t"}),
        (MY, "WITH c AS (SELECT * FROM a) SELECT * FROM C, d.t, dual", {"a", "d.t"}),
        (MY, "DELETE x FROM t AS x JOIN u ON u.id = x.id", {"t", "u"}),
        (MY, "SELECT * FROM a JOIN b ON a.id = b.id FOR UPDATE", {"a", "b"}),
        (MY, "ALTER TABLE t EXCHANGE PARTITION p WITH TABLE u", {"t", "u"}),
        (MY, "ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES d.u (id)", {"t", "d.u"}),
        (MY, "DROP INDEX i ON t", {"t"}),
        (MY, "CREATE TABLE n AS SELECT * FROM t", {"n", "t"}),
        (SL, "SELECT * FROM t INDEXED BY i, json_each('[]')", {"t"}),
        (SL, "EXPLAIN QUERY PLAN SELECT * FROM t", {"t"}),
    ],
)
def test_tables(dialect: Dialect, sql: str, tables: set[str]) -> None:
    assert {str(name) for name in read(sql, dialect).tables} == tables


def test_a_constraint_is_named() -> None:
    found = read("ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID, VALIDATE CONSTRAINT d", PG)
    assert [act.constraint for act in found.acts] == ["c", "d"]


def test_what_cannot_be_seen_into_is_not_known() -> None:
    assert not read("SHOW TABLES WHERE sleep(1)", MY).known
    assert not read("CREATE TABLE n (id INT) IGNORE SELECT id FROM t", MY).known
    assert not read("DELETE t WHERE id = 1", MY).known
    assert not read("DELETE FROM FROM t", SL).known
    assert read("SHOW TABLES", MY).known


@pytest.mark.parametrize("dialect", Dialect)
def test_every_statement_that_is_accepted_can_be_read(dialect: Dialect) -> None:
    count = 0
    for case in CORPUS:
        if case["dialect"] != dialect:
            continue
        try:
            statements = classify(case["sql"], dialect).statements
        except Invalid:
            continue
        for statement in statements:
            found = facts(statement, dialect)
            count += 1
            places = [act.at for act in found.acts] + [at for _, at in found.in_lists]
            places += [*found.cartesian, *found.and_in_set, *(compared.at for compared in found.comparisons)]
            assert all(0 <= at < len(statement.text) for at in places), case["id"]
            # Nothing that changes rows or tables does so without a deed, unless it says that it cannot be seen.
            changes = statement.verb in {"INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "CALL", "TRUNCATE", "DROP"}
            assert found.acts or not found.known or not changes, case["id"]
            if statement.kind is Kind.SELECT:
                assert not {act.deed for act in found.acts} & {Deed.DELETE, Deed.UPDATE, Deed.INSERT}, case["id"]
    assert count > 100


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM t WHERE " + " AND ".join(f"a = {n}" for n in range(3000)),
        "DELETE FROM t WHERE " + " OR ".join(f"a = {n}" for n in range(3000)),
        "UPDATE t SET a = " + " AND ".join("b = 1" for _ in range(3000)) + " WHERE a = 1",
        "SELECT 1 FROM " + ", ".join(f"t{n}" for n in range(3000)),
    ],
)
def test_long_chains_are_no_deep_recursion(dialect: Dialect, sql: str) -> None:
    found = read(sql, dialect)
    assert found.known
    assert all(Flag.WHERE in act.flags for act in found.acts)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM t WHERE a = " + "+".join(["b"] * 300),
        "INSERT INTO t " + " UNION ALL ".join(["SELECT 1 FROM u"] * 300),
        "DELETE FROM t WHERE a IN (SELECT x0.a FROM x0 "
        + " ".join(f"JOIN x{n} USING (a)" for n in range(1, 250))
        + ")",
    ],
)
def test_what_the_parser_takes_is_not_too_deep_to_be_read(dialect: Dialect, sql: str) -> None:
    found = read(sql, dialect)
    assert found.known
    assert len(found.acts) == 1
    assert found.cartesian == ()
