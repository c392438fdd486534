"""What a database plans to do with a statement, the same on every engine: the steps, their estimates, what is read.

A plan is a list of steps in the order in which they are shown, each with its depth, so that no plan is too deep to be
read, sent or shown. `domain.plan_readers` makes them from what the engines say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from dbward.domain.schema import Schema
from dbward.domain.sql.statements import Name

MAX_STEPS: Final = 200
MAX_DEPTH: Final = 30
MAX_SIBLINGS: Final = 25
"""Of one step: a table with a thousand partitions is not a thousand lines."""
MAX_NAMED: Final = 50
"""Of indexes and of scanned tables."""
TEXT_MAX: Final = 200
MAX_NUMBER: Final = 10**18
"""Estimates may be absurd; this is as good as any larger one."""
CONDITION_SHOWN: Final = 60
"""Characters; `TEXT_MAX` is what a step keeps."""


class ExplainKind(StrEnum):
    """What an agent is asked: how statements would run, or which migrations its database has applied."""

    PLANS = "plans"
    MIGRATIONS = "migrations"


class ExplainStatus(StrEnum):
    """Of what an agent is asked. `done`: every statement has its plan or its error, or what is applied is known."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    DONE = "done"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Step:
    """`depth` counts from 0. `rows` and `cost` are estimates, in the engine's own units; None where it gives none."""

    depth: int
    operation: str
    table: str | None = None
    index: str | None = None
    rows: int | None = None
    cost: float | None = None
    condition: str | None = None


@dataclass(frozen=True, slots=True)
class Scan:
    """A table that is read from one end to the other. `rows`: about how many it holds; None when nobody knows."""

    table: str
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """`rows`: about how many the statement returns or changes. `omitted`: steps of the engine's plan left out here."""

    steps: tuple[Step, ...] = ()
    rows: int | None = None
    cost: float | None = None
    indexes: tuple[str, ...] = ()
    scans: tuple[Scan, ...] = ()
    omitted: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """One step as a reader found it; `scan` when it reads a whole table; `index` that its operation names already."""

    step: Step
    scan: Scan | None = None
    index: str | None = None


def make(found: Iterable[Found], *, rows: int | None = None, cost: float | None = None) -> Plan:
    """A plan of bounded size; indexes and scans are those of the steps that are left out, too."""
    steps: list[Step] = []
    indexes: dict[str, None] = {}
    scans: dict[str, Scan] = {}
    siblings: list[int] = []
    skipped_below: int | None = None
    omitted = 0
    for each in found:
        step = each.step
        index = step.index or each.index
        if index is not None and len(indexes) < MAX_NAMED:
            indexes[index] = None
        if each.scan is not None and len(scans) < MAX_NAMED:
            scans.setdefault(each.scan.table, each.scan)
        if skipped_below is not None and step.depth > skipped_below:
            omitted += 1
            continue
        skipped_below = None
        del siblings[step.depth + 1 :]
        siblings += [0] * (step.depth + 1 - len(siblings))
        siblings[step.depth] += 1
        if siblings[step.depth] > MAX_SIBLINGS or step.depth >= MAX_DEPTH or len(steps) >= MAX_STEPS:
            omitted, skipped_below = omitted + 1, step.depth
        else:
            steps.append(step)
    return Plan(tuple(steps), rows, cost, tuple(indexes), tuple(scans.values()), omitted)


def is_sound(plan: Plan) -> bool:
    """Whether a plan that came from outside keeps to the bounds that `make` gives: then it may be stored and shown."""
    counts = len(plan.steps) <= MAX_STEPS and len(plan.indexes) <= MAX_NAMED and len(plan.scans) <= MAX_NAMED
    depths = all(0 <= step.depth < MAX_DEPTH for step in plan.steps)
    texts: list[str | None] = [*plan.indexes, *(scan.table for scan in plan.scans)]
    texts += [text for step in plan.steps for text in (step.operation, step.table, step.index, step.condition)]
    numbers: list[float | None] = [plan.rows, plan.cost, plan.omitted, *(scan.rows for scan in plan.scans)]
    numbers += [number for step in plan.steps for number in (step.rows, step.cost)]
    short = all(text is None or (len(text) <= TEXT_MAX and text.isprintable()) for text in texts)
    return counts and depths and short and all(number is None or 0 <= number <= MAX_NUMBER for number in numbers)


def with_table_names(plan: Plan, aliases: Mapping[str, str | None]) -> Plan:
    """The plan of an engine that knows tables by their aliases, with the scans of the tables that are meant.

    `aliases`: what the statement calls each table, in lower case, to the table; None for rows that it makes itself.
    """
    named = [(scan, aliases.get(scan.table.lower(), scan.table)) for scan in plan.scans]
    scans = {name: replace(scan, table=name) for scan, name in named if name is not None}
    return replace(plan, scans=tuple(scans.values()))


def with_table_sizes(plan: Plan, schema: Schema) -> Plan:
    """The plan with the sizes of scanned tables that the engine did not tell, as far as the schema knows them.

    Where the schema has several tables of that name, the largest counts.
    """
    return replace(plan, scans=tuple(_sized(scan, schema) for scan in plan.scans))


def scanned(plan: Plan) -> frozenset[Name]:
    """The tables read from end to end whose size the engine did not tell."""
    return frozenset(_name(scan.table) for scan in plan.scans if scan.rows is None)


def _sized(scan: Scan, schema: Schema) -> Scan:
    if scan.rows is not None:
        return scan
    known = [table.estimated_rows for table in schema.candidates(_name(scan.table)) if table.estimated_rows is not None]
    return replace(scan, rows=max(known)) if known else scan


def _name(table: str) -> Name:
    schema, dot, name = table.partition(".")
    return Name(name, schema) if dot else Name(table)


def render(plan: Plan) -> str:
    """For people: a line for each step, indented by two spaces a level, then what is used and what is read whole."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    for step in plan.steps:
        yield "  " * step.depth + _line(step)
    if not plan.steps:
        yield "The database shows no steps for this statement."
    if plan.omitted:
        yield f"… {plan.omitted:,} more steps are left out"
    if plan.indexes:
        yield f"Indexes: {', '.join(plan.indexes)}"
    if plan.scans:
        yield f"Read from end to end: {', '.join(map(_scan, plan.scans))}"


def _line(step: Step) -> str:
    line = step.operation
    if step.table is not None:
        line += f" on {step.table}"
    if step.index is not None:
        line += f" using {step.index}"
    said = [f"rows {step.rows:,}"] if step.rows is not None else []
    said += [f"cost {step.cost:,.0f}"] if step.cost is not None else []
    if said:
        line += f" ({', '.join(said)})"
    if step.condition is not None:
        line += f": {shortened(step.condition, CONDITION_SHOWN)}"
    return line


def _scan(scan: Scan) -> str:
    if scan.rows is None:
        return scan.table
    return f"{scan.table} (about {scan.rows:,} row{'' if scan.rows == 1 else 's'})"


def shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plan_json(plan: Plan) -> dict[str, Any]:
    """As it is stored and shown by the API; `plan_from_json` reads it."""
    return {
        "steps": [
            {name: value for name in Step.__slots__ if (value := getattr(step, name)) is not None}
            for step in plan.steps
        ],
        "estimated_rows": plan.rows,
        "estimated_cost": plan.cost,
        "indexes": list(plan.indexes),
        "sequential_scans": [{"table": scan.table, "estimated_rows": scan.rows} for scan in plan.scans],
        "omitted_steps": plan.omitted,
    }


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    return Plan(
        steps=tuple(Step(**step) for step in data["steps"]),
        rows=data["estimated_rows"],
        cost=data["estimated_cost"],
        indexes=tuple(data["indexes"]),
        scans=tuple(Scan(scan["table"], scan["estimated_rows"]) for scan in data["sequential_scans"]),
        omitted=data["omitted_steps"],
    )
