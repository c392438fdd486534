"""Every example on the page about SQL safety is judged as the page says, and the page names everything there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbward.domain.judge import FACTORS
from dbward.domain.model import Dialect, Operation
from dbward.domain.review import review
from dbward.domain.review_rules import RULES
from dbward.domain.sql.classify import classify
from dbward.errors import Invalid

PAGE = (Path(__file__).parents[2] / "docs/reference/sql-safety.md").read_text()


def table(header: str) -> list[list[str]]:
    """The rows of every table whose header line begins so, each as its cells."""
    rows: list[list[str]] = []
    lines = iter(PAGE.splitlines())
    for line in lines:
        if line.startswith(header):
            next(lines)
            rows += iter_rows(lines)
    return rows


def iter_rows(lines: Iterator[str]) -> Iterator[list[str]]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def sql_in(cell: str) -> str | None:
    found = re.fullmatch(r"`([^`]+)`", cell)
    return found.group(1) if found else None


JUDGED = table("| On | Statement | Judged |")
REVIEWED = table("| Rule | By itself |")


def test_the_page_has_examples() -> None:
    assert len(JUDGED) > 12
    assert len(REVIEWED) == len(RULES)


@pytest.mark.parametrize("row", JUDGED, ids=lambda row: row[1])
def test_a_statement_is_judged_as_written(row: list[str]) -> None:
    dialect, cell, expected, because = (*row, "")[:4]
    sql = sql_in(cell)
    assert sql is not None
    because = because.strip(" |")
    if expected == "refused":
        with pytest.raises(Invalid) as caught:
            classify(sql, Dialect(dialect))
        assert caught.value.code == because
        return
    found = classify(sql, Dialect(dialect))
    assert expected == ("read" if found.operation is Operation.EXECUTE_SELECT else "write")
    assert because in ((*found.reasons,) if found.reasons else ("",))


@pytest.mark.parametrize("row", REVIEWED, ids=lambda row: row[0])
def test_a_rule_is_as_written(row: list[str]) -> None:
    name, action, yields, dialects, example = row
    rule = next(rule for rule in RULES if f"`{rule.name}`" == name)
    assert (rule.action, rule.bypassable) == (action, yields == "yes")
    assert rule.dialects == (set(Dialect) if dialects == "all" else {Dialect(one) for one in dialects.split(", ")})
    sql = sql_in(example.rstrip(" |"))
    if sql is not None and not sql.startswith("WHERE"):
        found = review(classify(sql, Dialect.POSTGRESQL), Dialect.POSTGRESQL, {rule.name: "warn"})
        assert rule.name in {finding.rule for finding in found}


def test_every_factor_of_the_risk_is_explained() -> None:
    documented = [row[0].strip("`") for row in table("| Factor | Level |")]
    assert sorted(documented) == sorted(FACTORS)
