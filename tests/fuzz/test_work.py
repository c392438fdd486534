"""Hostile shapes cost work in proportion to their length, whatever repeats in them, and end in a verdict."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import pytest

from dbward.domain.model import Dialect
from dbward.domain.sql.classify import MAX_BYTES, classify
from dbward.errors import Invalid


class Shape(NamedTuple):
    """`before` and `after` are repeated around `middle`."""

    head: str
    before: str
    middle: str = "1"
    after: str = ""
    tail: str = ""

    def text(self, times: int) -> str:
        return self.head + self.before * times + self.middle + self.after * times + self.tail


SHAPES = {
    "not": Shape("SELECT ", "NOT "),
    "minus": Shape("SELECT ", "- "),
    "tilde": Shape("SELECT ", "~ "),
    "plus": Shape("SELECT ", "1+"),
    "and": Shape("SELECT 1 WHERE ", "a AND ", "a"),
    "or": Shape("SELECT 1 WHERE ", "a OR ", "a"),
    "comparisons": Shape("SELECT ", "a=", "a"),
    "text": Shape("SELECT ", "'a'||", "'a'"),
    "parentheses": Shape("SELECT ", "(", "1", ")"),
    "open": Shape("SELECT ", "("),
    "closed": Shape("SELECT ", "", "1", ")"),
    "case": Shape("SELECT ", "CASE WHEN 1 THEN ", "1", " END"),
    "whens": Shape("SELECT CASE ", "WHEN 1 THEN 1 ", "END"),
    "casts": Shape("SELECT 1", "::int", ""),
    "calls": Shape("SELECT ", "lower(", "'a'", ")"),
    "dots": Shape("SELECT a", ".a", ""),
    "subscripts": Shape("SELECT a", "[1]", ""),
    "brackets": Shape("SELECT ", "a[", "1", "]"),
    "array": Shape("SELECT ARRAY", "[", "1", "]"),
    "arrows": Shape("SELECT a", "->'b'", ""),
    "is null": Shape("SELECT a", " IS NULL", ""),
    "collate": Shape("SELECT a", ' COLLATE "C"', ""),
    "in": Shape("SELECT a", " IN (1)", ""),
    "like": Shape("SELECT ", "a LIKE ", "a"),
    "between": Shape("SELECT 1 WHERE ", "a BETWEEN 1 AND ", "1"),
    "zones": Shape("SELECT a", " AT TIME ZONE 'x'", ""),
    "union": Shape("", "SELECT 1 UNION ", "SELECT 1"),
    "joins": Shape("SELECT 1 FROM t", " JOIN t", ""),
    "joins on": Shape("SELECT 1 FROM t", " JOIN t ON true", ""),
    "commas": Shape("SELECT ", "1,"),
    "list": Shape("SELECT 1 WHERE a IN (", "1,", "1", "", ")"),
    "rows": Shape("VALUES ", "(1),", "(1)"),
    "sub-selects": Shape("", "SELECT (", "SELECT 1", ")"),
    "derived tables": Shape("", "SELECT 1 FROM (", "SELECT 1", ") x"),
    "exists": Shape("SELECT ", "EXISTS (SELECT ", "1", ")"),
    "common tables": Shape("WITH ", "c AS (SELECT 1), ", "d AS (SELECT 1) SELECT 1"),
    "windows": Shape("SELECT sum(1)", " OVER (PARTITION BY 1)", ""),
    "explain": Shape("", "EXPLAIN ", "SELECT 1"),
    "statements": Shape("", "SELECT 1;", ""),
    "semicolons": Shape("", ";", "SELECT 1"),
    "strings": Shape("SELECT ", "'a' ", ""),
    "continued strings": Shape("SELECT ", "'a'\n", ""),
    "names": Shape("SELECT ", '"a" ', ""),
    "backticks": Shape("SELECT ", "`a` ", ""),
    "interval": Shape("SELECT ", "INTERVAL ", "'1'"),
    "binary": Shape("SELECT ", "BINARY ", "1"),
    "distinct": Shape("SELECT ", "DISTINCT ", "1"),
    "aliases": Shape("SELECT a AS ", "a ", ""),
    "comments": Shape("SELECT 1 ", "/* */ ", ""),
    "comments without a space": Shape("SELECT 1 ", "/**/", ""),
    "comments in a comment": Shape("SELECT 1 /*", "/**/", "", "", "*/"),
    "nested comments": Shape("SELECT 1 ", "/*", "", "*/"),
    "unfinished comments": Shape("SELECT 1 ", "/*", ""),
    "line comments": Shape("SELECT 1 ", "--\n", ""),
    "operators": Shape("SELECT 1 ", "+", ""),
    "signs": Shape("SELECT 1 ", "+-*/<>=", ""),
    "one long string": Shape("SELECT '", "a", "", "", "'"),
    "one unfinished string": Shape("SELECT '", "a", ""),
    "escapes": Shape("SELECT E'", "\\'", "", "", "'"),
    "doubled quotes": Shape("SELECT '", "''", "", "", "'"),
    "one long name": Shape("SELECT ", "a", ""),
    "one long number": Shape("SELECT ", "1", ""),
    "dollar quotes": Shape("SELECT ", "$a$ ", ""),
    "template": Shape("SELECT ", "{# ", "", "#} "),
}

SMALL = 250
"""Repetitions whose work is compared with that of four times as many."""
DEEP = 25_000
"""Repetitions with which PostgreSQL's parser, which is written in C, would use up 8 MB of stack."""


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("name", SHAPES)
def test_work_grows_no_faster_than_the_text(name: str, dialect: Dialect) -> None:
    """Counted in calls of Python functions: four times the text costs four times as much, or twice that when another
    look is taken at long ones, and not sixteen times. Refusing a text is cheaper than accepting it."""
    shape = SHAPES[name]
    work(shape.text(3), dialect)  # what is made once
    small = work(shape.text(SMALL), dialect)
    assert work(shape.text(4 * SMALL), dialect) < 10 * small + 2_000


@pytest.mark.timeout(60)
@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("name", SHAPES)
def test_a_very_large_text_gets_a_verdict(name: str, dialect: Dialect) -> None:
    """No crash of what is written in C, and no time-out in it."""
    shape = SHAPES[name]
    # Nothing written in C reads the others, so that a part of the size shows as much.
    size = MAX_BYTES if dialect is Dialect.POSTGRESQL else MAX_BYTES // 4
    verdict(shape.text(size // (len(shape.before) + len(shape.after)) - 100), dialect)
    if dialect is Dialect.POSTGRESQL:
        verdict(shape.text(DEEP), dialect)


def verdict(sql: str, dialect: Dialect) -> str:
    try:
        return classify(sql, dialect).operation
    except Invalid as refused:
        return refused.code


def work(sql: str, dialect: Dialect) -> int:
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        verdict(sql, dialect)
    finally:
        sys.setprofile(before)
    return calls
