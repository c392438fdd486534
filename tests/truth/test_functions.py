"""Every function that a read may call, called: nothing changes, and it is the engine's own and nobody else's."""

from __future__ import annotations

from itertools import product
from typing import Any

import psycopg
import pytest

from dbward.domain.model import Dialect
from dbward.domain.sql import postgresql_names
from dbward.domain.sql.functions import FUNCTIONS
from dbward.domain.sql.lex import words
from tests.truth import worlds
from tests.truth.corpus import Read, read_of
from tests.truth.judging import survey
from tests.worker.targets import mysql_connection, run
from worker.drivers.errors import StatementFailed

GROUP = 600

SAMPLES = {
    "aclitem": "'=r/dbward'",
    "anyarray": "ARRAY[1, 2]",
    "anycompatible": "1",
    "anycompatiblearray": "ARRAY[1, 2]",
    "anyelement": "1",
    "anynonarray": "1",
    "anyrange": "'[1,2]'::int4range",
    '"any"': "'users'",
    "bigint": "1",
    "bit": "B'1'",
    "boolean": "true",
    "box": "'(1,1),(0,0)'",
    "bytea": "'a'",
    '"char"': "'a'",
    "character": "'a'",
    "character varying": "'a'",
    "circle": "'<(0,0),1>'",
    "cidr": "'10.0.0.0/8'",
    "date": "'2024-01-01'",
    "double precision": "0.5",
    "inet": "'10.0.0.1'",
    "int2vector": "'1 2'",
    "integer": "1",
    "interval": "'1 day'",
    "json": """'{"a": 1}'""",
    "jsonb": """'{"a": 1}'""",
    "jsonpath": "'$.a'",
    "line": "'{1,2,3}'",
    "lseg": "'[(0,0),(1,1)]'",
    "money": "1",
    "name": "'users'",
    "numeric": "1",
    "oid": "'users'::regclass",
    "path": "'[(0,0),(1,1)]'",
    "pg_lsn": "'0/1'",
    "point": "'(0,0)'",
    "polygon": "'((0,0),(1,1))'",
    "real": "0.5",
    "record": "ROW(1)",
    "refcursor": "'c'",
    "regclass": "'users'",
    "smallint": "1",
    "text": "'users'",
    "text[]": "'{a,b}'",
    "tid": "'(0,1)'",
    "time without time zone": "'12:00'",
    "timestamp with time zone": "'2024-01-01'",
    "timestamp without time zone": "'2024-01-01'",
    "tsquery": "'a'",
    "tsvector": "'a'",
    "uuid": "'00000000-0000-0000-0000-000000000000'",
    "xid": "'1'",
    "xml": "'<a/>'",
}
"""A value of each type; of the others, NULL, with which most functions are not even called."""


def test_those_of_postgresql(postgres: str) -> None:
    with worlds.postgresql(postgres, bare=True), psycopg.connect(postgres) as connection:
        calls = _postgresql_calls(connection)
    assert len(calls) > 1_500
    ran, changed = survey(lambda: worlds.postgresql(postgres, bare=True), calls, group_size=GROUP)
    assert changed == []
    assert ran > 0.85 * len(calls)


def _postgresql_calls(connection: psycopg.Connection[Any]) -> list[Read]:
    """A call of every overload in `pg_proc`."""
    found = connection.execute(
        "SELECT p.proname, p.prokind, coalesce(a.aggkind, ''), coalesce(a.aggnumdirectargs, 0),"
        " ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY u(t, n) ORDER BY n)"
        " FROM pg_proc p LEFT JOIN pg_aggregate a ON a.aggfnoid = p.oid"
        " WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY(%s)"
        " AND 'internal'::regtype <> ALL (p.proargtypes::oid[]) ORDER BY 1, 5",
        (sorted(postgresql_names.FUNCTIONS),),
    ).fetchall()
    return [
        Read(f"{name}({', '.join(types)})", (_call(*rest, name, types),), sets=False) for name, *rest, types in found
    ]


def _call(kind: str, aggregate: str, direct: int, name: str, types: list[str]) -> str:
    typed = [_value(each) for each in types]
    if aggregate in ("o", "h"):
        return (
            f'SELECT "{name}"({", ".join(typed[:direct])}) WITHIN GROUP (ORDER BY {", ".join(typed[direct:]) or "1"})'
        )
    call = f'"{name}"({", ".join(typed) or ("*" if aggregate == "n" else "")})'
    return f"SELECT {call}{' OVER ()' if kind == 'w' else ''}"


def _value(type_: str) -> str:
    if type_.startswith(("any", '"any"', "record")):
        return SAMPLES.get(type_, "NULL")
    return f"({SAMPLES.get(type_, 'NULL')})::{type_}"


def test_postgresql_knows_those_that_need_no_schema(postgres: str) -> None:
    """A name that the server does not know could only be somebody's own function."""
    with psycopg.connect(postgres) as connection:
        known = {name for (name,) in connection.execute("SELECT proname FROM pg_proc").fetchall()}
    assert postgresql_names.FUNCTIONS - known == set()


def test_those_of_mariadb_are_never_stored_functions(mariadb: str) -> None:
    """With a stored function of each name that writes, called in every way that passes for a read."""
    connection = mysql_connection(mariadb)
    called = []
    passed = 0
    with connection.cursor() as ask:
        ask.execute("CREATE DATABASE shadows")
        ask.execute("USE shadows")
        ask.execute("CREATE TABLE log (a int)")
        for name, arguments in product(sorted(FUNCTIONS[Dialect.MYSQL]), (0, 2)):
            takes = ", ".join(f"{letter} int" for letter in "abc"[:arguments])
            ask.execute(
                f"CREATE OR REPLACE FUNCTION `{name}` ({takes}) RETURNS int MODIFIES SQL DATA"
                " BEGIN INSERT INTO log VALUES (1); RETURN 1; END"
            )
            given = ", ".join("1" * arguments)
            for sql in (f"SELECT {name}({given})", f"SELECT {name} ({given})", f"SELECT 1 WHERE {name}\n({given}) = 1"):
                if read_of(sql, Dialect.MYSQL) is None:
                    continue
                passed += 1
                _try(ask, sql)
                ask.execute("SELECT count(*) FROM log")
                if ask.fetchone() != (0,):
                    called.append(sql)
                    ask.execute("TRUNCATE log")
            ask.execute(f"DROP FUNCTION `{name}`")
    connection.close()
    assert called == []
    assert passed > 300


MAY_TAKE_A_PARENTHESIS = words(
    """
    over filter against by sets rollup cube bernoulli system materialized offset rows range interval of partition ignore
    force only any some array unnest lateral json_table grouping recursive escape sounds nulls first last next period
    portion system_time versioning without timestamp time date datetime year json text enum national nchar varchar
    character numeric decimal bit boolean truncate replace insert repeat left right if mod schema database user password
    format point within st_x contains position trim extract convert cast glob ilike binary collate ascii unicode byte
    charset coalesce quick nowait skip locked separator all exists except intersect minus limit fetch values
    """
)
"""Words of some dialect's grammar; where MariaDB does not reserve one, it is a name like any other."""

PLACES = """
    SELECT {0}(1)
    SELECT {0} (1)
    SELECT - {0} (1)
    SELECT DISTINCT {0} (1)
    SELECT HIGH_PRIORITY {0} (1)
    SELECT 1, {0} (1) FROM t
    SELECT a FROM t GROUP BY {0}(a)
    SELECT a FROM t GROUP BY {0} (a)
    SELECT a FROM t GROUP BY a, {0} (a)
    SELECT a FROM t GROUP BY GROUPING {0} (a)
    SELECT a FROM t ORDER BY {0}(a)
    SELECT a FROM t WHERE {0} (a)
    SELECT a FROM t WHERE NOT {0} (a)
    SELECT a FROM t WHERE a {0} (1)
    SELECT a FROM t WHERE a LIKE {0} (1)
    SELECT a FROM t AS x {0} (1)
    SELECT a FROM t JOIN {0} (1)
    SELECT sum(a) {0}(1) FROM t
    SELECT 1 IN ({0}(1))
    SELECT CASE {0} (1) WHEN 1 THEN 1 END
    SELECT NOW() + INTERVAL {0} (1) DAY
    SELECT (SELECT {0}(1))
    VALUES ({0}(1))
    SHOW TABLES WHERE {0}(1)
    EXPLAIN SELECT {0} (1) FROM t
    WITH {0} (a) AS (SELECT 1) SELECT {0} (1) FROM {0}
"""


def test_words_before_a_parenthesis_are_no_stored_functions(mariadb: str) -> None:
    connection = mysql_connection(mariadb)
    called = []
    with connection.cursor() as ask:
        ask.execute("CREATE DATABASE words")
        ask.execute("USE words")
        ask.execute("CREATE TABLE log (a int)")
        ask.execute("CREATE TABLE t (a int)")
        ask.execute("INSERT INTO t VALUES (1), (2)")
        for word in sorted(MAY_TAKE_A_PARENTHESIS):
            ask.execute(
                f"CREATE FUNCTION `{word}` (a int) RETURNS int MODIFIES SQL DATA"
                " BEGIN INSERT INTO log VALUES (1); RETURN 1; END"
            )
            for place in filter(None, map(str.strip, PLACES.splitlines())):
                sql = place.format(word)
                if read_of(sql, Dialect.MYSQL) is not None:
                    _try(ask, sql)
                    ask.execute("SELECT count(*) FROM log")
                    if ask.fetchone() != (0,):
                        called.append(sql)
                        ask.execute("TRUNCATE log")
    connection.close()
    assert called == []


def _try(ask: Any, sql: str) -> None:
    try:
        ask.execute(sql)
        ask.fetchall()
    except ask.connection.Error:
        return  # a wrong number of arguments, for one


@pytest.mark.parametrize("name", sorted(FUNCTIONS[Dialect.SQLITE]))
def test_those_of_sqlite_are_what_the_guard_runs(sqlite_url: str, name: str) -> None:
    """None is refused on the read path for what it is; that a version does not know it is no refusal."""
    calls = (f"SELECT {name}({given})" for given in ("", "1", "'a', 1", "1, 1, 1", "'a', 'b', 1, 1"))
    assert "not authorized" not in " ".join(_refusal(sqlite_url, sql) for sql in calls)


def _refusal(url: str, sql: str) -> str:
    try:
        run(url, sql)
    except StatementFailed as failed:
        return str(failed)
    return ""
