"""PostgreSQL values, from a real server."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.support import services
from tests.worker.targets import LIMITS, Collected, TargetDb, postgresql, run, value
from worker.drivers import open_driver
from worker.values import from_text
from worker.values_postgresql import parse_array


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with services.fresh_postgres() as made:
        postgresql(made).direct(
            "CREATE TYPE mood AS ENUM ('sad', 'so, so')",
            "CREATE DOMAIN positive AS int CHECK (value > 0)",
            "CREATE DOMAIN pair AS int[]",
            "CREATE TYPE point3 AS (x int, label text)",
            "CREATE EXTENSION IF NOT EXISTS hstore",
        )
        yield made


@pytest.mark.parametrize(
    ("sql", "kind", "expected"),
    [
        ("NULL::int", "integer", None),
        ("32767::int2", "smallint", 32767),
        ("9223372036854775807", "bigint", 2**63 - 1),
        ("(-9223372036854775808)::int8", "bigint", -(2**63)),
        ("1.10::numeric(6,2)", "numeric(6,2)", "1.10"),
        ("1234567890123456789.12345678901234567890", "numeric", "1234567890123456789.12345678901234567890"),
        ("'NaN'::numeric", "numeric", "NaN"),
        ("0.1::float8", "double precision", 0.1),
        ("1e308::float8", "double precision", 1e308),
        ("0.30000000000000004::float8", "double precision", 0.30000000000000004),
        ("1.1::float4", "real", 1.1),
        ("'NaN'::float8", "double precision", "NaN"),
        ("'-Infinity'::float4", "real", "-Infinity"),
        ("true", "boolean", True),
        ("false", "boolean", False),
        ("''::text", "text", ""),
        ("'é\t😀'::varchar(20)", "character varying(20)", "é\t😀"),
        ("'ab'::char(4)", "character(4)", "ab  "),
        ("'\\x00ff'::bytea", "bytea", "\\x00ff"),
        ("'2024-02-29'::date", "date", "2024-02-29"),
        ("'infinity'::timestamp", "timestamp without time zone", "infinity"),
        ("'2024-02-29 12:00:00.123456+02'::timestamptz", "timestamp with time zone", "2024-02-29 10:00:00.123456+00"),
        ("'2024-02-29 12:00:00'::timestamp(0)", "timestamp(0) without time zone", "2024-02-29 12:00:00"),
        ("'0044-03-15 BC'::date", "date", "0044-03-15 BC"),
        ("'12:00+02'::timetz", "time with time zone", "12:00:00+02"),
        ("'1 year 2 mons -3 days 04:05:06'::interval", "interval", "1 year 2 mons -3 days +04:05:06"),
        ("'9b2e1c1c-7f5c-4f8b-9a1c-1b2c3d4e5f60'::uuid", "uuid", "9b2e1c1c-7f5c-4f8b-9a1c-1b2c3d4e5f60"),
        ("'10.0.0.1/8'::inet", "inet", "10.0.0.1/8"),
        ("B'0101'::bit(4)", "bit(4)", "0101"),
        ("'[1,5)'::int4range", "int4range", "[1,5)"),
        ("'{[1,3),[5,7)}'::int4multirange", "int4multirange", "{[1,3),[5,7)}"),
        ("'(1,2)'::point", "point", "(1,2)"),
        ("'so, so'::mood", "mood", "so, so"),
        ("7::positive", "integer", 7),
        ("ROW(1, 'a b')::point3", "point3", '(1,"a b")'),
        ("'a=>1'::hstore", "hstore", '"a"=>"1"'),
        ("1::oid", "oid", "1"),
        ("'<a/>'::xml", "xml", "<a/>"),
        ("'x'::name", "name", "x"),
        ("pg_sleep(0)", "void", ""),
        ("'pg_class'::regclass", "regclass", "pg_class"),
        ("'a b'::tsvector", "tsvector", "'a' 'b'"),
        # JSON
        ("'{\"a\": [1, null, true, \"x\"]}'::jsonb", "jsonb", {"a": [1, None, True, "x"]}),
        ("'{\"a\": 123456789012345678901234567890}'::jsonb", "jsonb", {"a": 123456789012345678901234567890}),
        ("'{\"a\": 0.1}'::json", "json", {"a": 0.1}),
        ("'{\"a\": 0.12345678901234567890123}'::json", "json", '{"a": 0.12345678901234567890123}'),
        ("'{\"a\": 1, \"a\": 2}'::json", "json", '{"a": 1, "a": 2}'),
        ("'{\"a\": 1e400}'::json", "json", '{"a": 1e400}'),
        ("'\"\\ud83d\\ude00\"'::json", "json", "😀"),
        ("'null'::jsonb", "jsonb", None),
        ("repeat('[', 70)::text || repeat(']', 70)", "text", "[" * 70 + "]" * 70),
        ("(repeat('[', 70) || repeat(']', 70))::jsonb", "jsonb", "[" * 70 + "]" * 70),
        # arrays
        ("ARRAY[1, NULL, 3]", "integer[]", [1, None, 3]),
        ("ARRAY[[1, 2], [3, 4]]", "integer[]", [[1, 2], [3, 4]]),
        ("ARRAY[]::int[]", "integer[]", []),
        ("ARRAY['NULL', 'null', NULL, '', 'a\"b', 'a\\b', '{x}', 'a,b']", "text[]", ["NULL", "null", None, "", 'a"b',
          "a\\b", "{x}", "a,b"]),
        ("'[2:3]={1,2}'::int[]", "integer[]", "[2:3]={1,2}"),
        ("ARRAY[true, false]", "boolean[]", [True, False]),
        ("ARRAY[1.10, 2]", "numeric[]", ["1.10", "2"]),
        ("ARRAY['{\"a\": 1}'::jsonb]", "jsonb[]", [{"a": 1}]),
        ("ARRAY['NaN'::float8, 1]", "double precision[]", ["NaN", 1.0]),
        ("ARRAY['(1,2),(3,4)'::box, '(5,6),(7,8)'::box]", "box[]", ["(3,4),(1,2)", "(7,8),(5,6)"]),
        ("ARRAY['so, so'::mood, 'sad']", "mood[]", ["so, so", "sad"]),
        ("ARRAY[1::positive]", "positive[]", [1]),
        ("ARRAY[1,2]::pair", "integer[]", [1, 2]),
        ("ARRAY[ARRAY[1,2]::pair, ARRAY[3,NULL]::pair]", "pair[]", [[1, 2], [3, None]]),
        ("ARRAY[ROW(1, 'a')::point3]", "point3[]", ["(1,a)"]),
        ("ARRAY['\\x00'::bytea]", "bytea[]", ["\\x00"]),
        ("'1 2 3'::int2vector", "int2vector", "1 2 3"),
    ],
)  # fmt: skip
def test_value(url: str, sql: str, kind: str, expected: object) -> None:
    _, sink = run(url, f"SELECT {sql} AS v")
    assert (sink.types[0], sink.rows_[0][0]) == (kind, expected)
    assert type(sink.rows_[0][0]) is type(expected)


def test_the_same_type_twice_in_a_driver(url: str) -> None:
    driver = open_driver(url)
    for _ in range(2):
        sink = Collected()
        with driver.open() as session:
            session.run(["SELECT 1.5::numeric(4,1), ARRAY['sad'::mood]"], read_only=True, limits=LIMITS, sink=sink)
        assert (sink.types, sink.rows_) == (["numeric(4,1)", "mood[]"], [["1.5", ["sad"]]])


def test_text_that_is_not_utf8(url: str) -> None:
    db = postgresql(url)
    db.direct("DROP DATABASE IF EXISTS dbward_ascii")
    db.direct("CREATE DATABASE dbward_ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        ascii_url = urlsplit(url)._replace(path="/dbward_ascii").geturl()
        _, sink = run(ascii_url, r"SELECT E'\xff\xfe'::text, 'é'::text, ARRAY[E'\xff'::text]")
        assert sink.rows_ == [["\\xfffe", "é", "\\x7bff7d"]]
    finally:
        db.direct("DROP DATABASE dbward_ascii WITH (FORCE)")


def test_a_latin1_database(url: str) -> None:
    db: TargetDb = postgresql(url)
    db.direct("DROP DATABASE IF EXISTS dbward_latin")
    db.direct("CREATE DATABASE dbward_latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        assert value(urlsplit(url)._replace(path="/dbward_latin").geturl(), "SELECT 'é' || chr(228)") == "éä"
    finally:
        db.direct("DROP DATABASE dbward_latin WITH (FORCE)")


@pytest.mark.parametrize("text", ["", "x", "{", "{1", "{1}x", '{"a}', "{{{{{{{1}}}}}}}", "{1}}"])
def test_what_is_no_array_literal(text: str) -> None:
    with pytest.raises(ValueError, match=r"array|dimensions|quote"):
        parse_array(text, from_text)
