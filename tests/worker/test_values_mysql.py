"""MariaDB values, from a real server; MySQL's own JSON type, which no server here has, from its bytes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import services
from tests.worker.targets import mysql, run
from worker.values_mysql import Field, column_type, reader

COLUMNS = {
    "tiny1": "tinyint(1)",
    "tiny": "tinyint",
    "utiny1": "tinyint(1) unsigned",
    "small": "smallint",
    "med": "mediumint unsigned",
    "plain": "int",
    "big": "bigint",
    "ubig": "bigint unsigned",
    "deci": "decimal(30,10)",
    "udeci": "decimal(5,0) unsigned",
    "flo": "float",
    "dou": "double",
    "bits": "bit(10)",
    "bit64": "bit(64)",
    "da": "date",
    "ti": "time(3)",
    "dt": "datetime(6)",
    "ts": "timestamp NULL",
    "ye": "year",
    "ch": "char(4)",
    "vc": "varchar(20)",
    "bi": "binary(3)",
    "vb": "varbinary(5)",
    "tt": "tinytext",
    "te": "text",
    "mt": "mediumtext",
    "lt": "longtext",
    "tb": "tinyblob",
    "bl": "blob",
    "mb": "mediumblob",
    "lb": "longblob",
    "en": "enum('a','b')",
    "se": "set('x','y')",
    "js": "json",
    "ge": "geometry",
    "latin": "varchar(10) CHARACTER SET latin1",
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with services.fresh_mariadb() as made:
        columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        mysql(made).direct(f"CREATE TABLE v ({columns})")
        yield made


@pytest.mark.parametrize(
    ("column", "literal", "kind", "expected"),
    [
        ("tiny1", "NULL", "tinyint(1)", None),
        ("tiny1", "0", "tinyint(1)", False),
        ("tiny1", "1", "tinyint(1)", True),
        ("tiny1", "5", "tinyint(1)", 5),
        ("tiny1", "-1", "tinyint(1)", -1),
        ("tiny", "1", "tinyint", 1),
        ("utiny1", "1", "tinyint unsigned", 1),
        ("small", "-32768", "smallint", -32768),
        ("med", "16777215", "mediumint unsigned", 16777215),
        ("plain", "-2147483648", "int", -2147483648),
        ("big", "-9223372036854775808", "bigint", -(2**63)),
        ("ubig", "9223372036854775807", "bigint unsigned", 2**63 - 1),
        ("ubig", "9223372036854775808", "bigint unsigned", "9223372036854775808"),
        ("ubig", "18446744073709551615", "bigint unsigned", "18446744073709551615"),
        ("deci", "12345678901234567890.1234567890", "decimal(30,10)", "12345678901234567890.1234567890"),
        ("udeci", "12345", "decimal(5,0) unsigned", "12345"),
        ("flo", "1.5", "float", 1.5),
        ("dou", "0.1", "double", 0.1),
        ("dou", "1e308", "double", 1e308),
        ("bits", "b'101'", "bit(10)", "0000000101"),
        ("bit64", "18446744073709551615", "bit(64)", "1" * 64),
        ("da", "'2024-02-29'", "date", "2024-02-29"),
        ("da", "'0000-00-00'", "date", "0000-00-00"),
        ("da", "'2024-00-00'", "date", "2024-00-00"),
        ("ti", "'838:59:58.5'", "time", "838:59:58.500"),
        ("ti", "'-100:00:01'", "time", "-100:00:01.000"),
        ("dt", "'2024-02-29 12:00:00.123456'", "datetime", "2024-02-29 12:00:00.123456"),
        ("dt", "'0000-00-00'", "datetime", "0000-00-00 00:00:00.000000"),
        ("ye", "2024", "year", "2024"),
        ("ch", "'ab'", "char(4)", "ab"),
        ("vc", "'é😀'", "varchar(20)", "é😀"),
        ("vc", "''", "varchar(20)", ""),
        ("bi", "x'00ff'", "binary(3)", "\\x00ff00"),
        ("vb", "'\\\\xab'", "varbinary(5)", "\\x5c786162"),
        ("tt", "'t'", "tinytext", "t"),
        ("te", "'t'", "text", "t"),
        ("mt", "'t'", "mediumtext", "t"),
        ("lt", "'t'", "longtext", "t"),
        ("tb", "'t'", "tinyblob", "\\x74"),
        ("bl", "x'fffe'", "blob", "\\xfffe"),
        ("mb", "''", "mediumblob", "\\x"),
        ("lb", "'t'", "longblob", "\\x74"),
        ("en", "'b'", "enum", "b"),
        ("se", "'x,y'", "set", "x,y"),
        ("js", "'{\"a\": 1}'", "longtext", '{"a": 1}'),
        ("ge", "POINT(1, 2)", "geometry", "\\x000000000101000000000000000000f03f0000000000000040"),
        ("latin", "'é'", "varchar(10)", "é"),
    ],
)
def test_value(url: str, column: str, literal: str, kind: str, expected: object) -> None:
    run(url, "DELETE FROM v", f"INSERT INTO v ({column}) VALUES ({literal})", read_only=False)
    _, sink = run(url, f"SELECT {column} FROM v")
    assert (sink.types[0], sink.rows_[0][0]) == (kind, expected)
    assert type(sink.rows_[0][0]) is type(expected)


def test_timestamps_are_in_utc(url: str) -> None:
    run(url, "DELETE FROM v", "INSERT INTO v (ts) VALUES (from_unixtime(0) + INTERVAL 1 DAY)", read_only=False)
    assert run(url, "SELECT ts, unix_timestamp(ts) FROM v")[1].rows_ == [["1970-01-02 00:00:00", 86400]]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        (b'{"a": 18446744073709551615}', {"a": 18446744073709551615}),
        (b'{"a": 0.12345678901234567890}', '{"a": 0.12345678901234567890}'),
        (b'"\xff"', "\\x22ff22"),
    ],
)
def test_json_of_mysql(raw: bytes, expected: object) -> None:
    field = Field(type_code=245, flags=0, charset=63, length=2**32 - 1, scale=0)
    assert (column_type(field), reader(field)(raw)) == ("json", expected)
