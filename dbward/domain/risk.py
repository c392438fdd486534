"""How risky a request is, and why. Whatever is not known is `unknown`, which no threshold approves.

The order of the factors is the order in which they are looked for. A plain read is low where the workflow lets reads
pass, and so is DDL that only adds something new; everything else is judged by what it does and how large the tables are
that it does it to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from dbward.domain.model import AutoApprove, Dialect, Operation, RiskLevel
from dbward.domain.schema import Schema, SchemaStatus, Table, TableKind
from dbward.domain.sql.statements import Act, Classification, Deed, Facts, Finding, Flag, Kind, Name, Statement

SCHEMA_AGE_MAX: Final = timedelta(hours=24)
"""A snapshot older than this says nothing about how large a table is now."""
DEFAULT_MAX_ROWS: Final = 1000
CASCADE_DEPTH: Final = 3

_RANK: Final = (RiskLevel.LOW, RiskLevel.MEDIUM, RiskLevel.HIGH)
_DROPS: Final = frozenset(
    {Deed.DROP_TABLE, Deed.DROP_COLUMN, Deed.TRUNCATE, Deed.DROP_INDEX, Deed.DROP_VIEW, Deed.DROP_SEQUENCE}
)
_OPAQUE: Final = frozenset({Deed.COPY, Deed.CALL})
"""What they do is decided outside the statement: in a file, or in a procedure."""
_NO_TABLE: Final = frozenset({Deed.DROP_INDEX, Deed.DROP_VIEW, Deed.DROP_SEQUENCE, Deed.CREATE_SEQUENCE})
_MAKES: Final = frozenset({Deed.CREATE_TABLE, Deed.CREATE_VIEW})
_TAKES_ROWS: Final = frozenset({Deed.DELETE, Deed.MERGE})
_REACHES_CHILDREN: Final = frozenset({"CASCADE", "SET_NULL", "SET_DEFAULT"})
_CATALOGS: Final = frozenset({"pg_catalog", "information_schema", "performance_schema", "mysql", "sys"})
_SIZED: Final = frozenset({TableKind.TABLE, TableKind.PARTITIONED, TableKind.MATERIALIZED_VIEW})
_LOCKS: Final = frozenset({"row_lock", "keyword:for"})


@dataclass(frozen=True, slots=True)
class Factor:
    """One reason for a level. `targets`: the names it is about; `rows`: the largest estimate among them."""

    name: str
    level: RiskLevel
    targets: tuple[str, ...] = ()
    rows: int | None = None
    count: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As the API shows it: `name`, and what else is known."""
        found: dict[str, Any] = {"name": self.name}
        if self.targets:
            found["targets"] = list(self.targets)
        if self.rows is not None:
            found["rows"] = self.rows
        if self.count is not None:
            found["count"] = self.count
        return found


@dataclass(frozen=True, slots=True)
class Risk:
    level: RiskLevel
    factors: tuple[Factor, ...] = ()


def assess(
    classification: Classification,
    facts: Sequence[Facts],
    dialect: Dialect,
    findings: Sequence[Finding],
    schema: Schema,
    auto: AutoApprove | None,
    now: datetime,
) -> Risk:
    """The risk of running `classification`. `facts`: one for each of its statements; `auto`: of the workflow."""
    if auto is not None:
        if auto.allow_read_only and classification.operation is Operation.EXECUTE_SELECT:
            return _only(Factor("read_only", RiskLevel.LOW))
        if auto.allow_safe_ddl and not findings and _is_safe_ddl(classification, facts, dialect):
            return _only(Factor("safe_ddl", RiskLevel.LOW))
    if schema.status is not SchemaStatus.READY:
        return _only(Factor("schema_not_synced", RiskLevel.UNKNOWN))
    if schema.collected_at is None or now - schema.collected_at > SCHEMA_AGE_MAX:
        return _only(Factor("schema_stale", RiskLevel.UNKNOWN))
    most = auto.max_estimated_rows if auto is not None else DEFAULT_MAX_ROWS
    found = tuple(
        factor
        for look in (
            _unknown(classification, facts, schema),
            _of_statements(classification, facts, dialect),
            _of_findings(findings),
            _of_tables(facts, schema, most),
        )
        for factor in look
    )
    return Risk(_highest(found), found)


def _only(factor: Factor) -> Risk:
    return Risk(factor.level, (factor,))


def _highest(factors: Sequence[Factor]) -> RiskLevel:
    levels = {factor.level for factor in factors}
    if RiskLevel.UNKNOWN in levels:
        return RiskLevel.UNKNOWN
    return max(levels, key=_RANK.index, default=RiskLevel.LOW)


def _is_safe_ddl(classification: Classification, facts: Sequence[Facts], dialect: Dialect) -> bool:
    """One statement that adds something which nothing depends on yet, and locks nobody out."""
    if len(classification.statements) != 1 or classification.statements[0].kind is not Kind.DDL:
        return False
    if any(not reason.startswith("statement:") for reason in classification.reasons):
        return False
    acts = facts[0].acts
    return facts[0].known and bool(acts) and all(_adds(act, dialect) for act in acts)


def _adds(act: Act, dialect: Dialect) -> bool:
    match act.deed:
        case Deed.CREATE_TABLE:
            return not act.flags & {Flag.OR_REPLACE, Flag.AS_SELECT}
        case Deed.CREATE_VIEW:
            return not act.flags & {Flag.OR_REPLACE, Flag.MATERIALIZED}
        case Deed.CREATE_INDEX:
            return dialect is Dialect.POSTGRESQL and Flag.CONCURRENTLY in act.flags
        case Deed.ADD_COLUMN:
            return dialect is Dialect.POSTGRESQL
        case _:
            return False


def _unknown(classification: Classification, facts: Sequence[Facts], schema: Schema) -> Iterator[Factor]:
    """Whatever keeps us from knowing what the request does, to what, or to how much."""
    called, unclear = _unvouched(classification)
    if called:
        yield Factor("unvouched_function", RiskLevel.UNKNOWN, called)
    opaque = (
        statement.verb.lower()
        for statement, known in zip(classification.statements, facts, strict=True)
        if _is_opaque(statement, known)
    )
    if unclear := tuple(dict.fromkeys((*unclear, *opaque))):
        yield Factor("not_understood", RiskLevel.UNKNOWN, unclear)
    made = _made(facts)
    absent = sorted(
        {
            str(name)
            for name in names_of(facts)
            if name not in made and not _is_catalog(name) and not schema.candidates(name)
        }
    )
    if absent:
        yield Factor("unknown_table", RiskLevel.UNKNOWN, tuple(absent))
    unsized = sorted(
        {
            str(table.name)
            for name in _sized_targets(classification, facts)
            for table in schema.candidates(name)
            if table.estimated_rows is None or table.kind not in _SIZED
        }
    )
    if unsized:
        yield Factor("unknown_size", RiskLevel.UNKNOWN, tuple(unsized))


def _unvouched(classification: Classification) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The functions that nobody vouches for, and what else keeps a statement from being understood."""
    called: list[str] = []
    unclear: list[str] = []
    for reason in classification.reasons:
        code, _, name = reason.partition(":")
        if code == "unvouched_function":
            called.append(name)
        elif code != "statement" and reason not in _LOCKS:
            unclear.append(reason)
    return tuple(called), tuple(unclear)


def _is_opaque(statement: Statement, known: Facts) -> bool:
    if not known.known or any(act.deed in _OPAQUE for act in known.acts):
        return True
    # What a SELECT does beyond reading is in its reasons.
    return statement.kind is not Kind.SELECT and statement.verb != "SELECT" and not known.acts


def _of_statements(classification: Classification, facts: Sequence[Facts], dialect: Dialect) -> Iterator[Factor]:
    if len(classification.statements) > 1 and classification.operation is not Operation.EXECUTE_SELECT:
        yield Factor("multi_statement", RiskLevel.HIGH, count=len(classification.statements))
    acts = [act for known in facts for act in known.acts]
    if dropped := _names(act for act in acts if act.deed in _DROPS):
        yield Factor("drop_operation", RiskLevel.HIGH, dropped)
    if any(
        statement.kind in {Kind.DDL, Kind.DESTRUCTIVE_DDL} and not all(_adds(act, dialect) for act in known.acts)
        for statement, known in zip(classification.statements, facts, strict=True)
    ):
        yield Factor("ddl", RiskLevel.MEDIUM)
    if any(act.deed is Deed.MAINTENANCE for act in acts):
        yield Factor("maintenance", RiskLevel.MEDIUM)
    if whole := _names(act for act in acts if act.deed in {Deed.UPDATE, Deed.DELETE} and Flag.WHERE not in act.flags):
        yield Factor("whole_table", RiskLevel.MEDIUM, whole)
    if any(reason in _LOCKS for reason in classification.reasons):
        yield Factor("row_lock", RiskLevel.MEDIUM)


def _of_findings(findings: Sequence[Finding]) -> Iterator[Factor]:
    if len(findings) >= 3:
        yield Factor("many_warnings", RiskLevel.HIGH, count=len(findings))
    elif findings:
        yield Factor("warnings", RiskLevel.MEDIUM, count=len(findings))


def _of_tables(facts: Sequence[Facts], schema: Schema, most: int) -> Iterator[Factor]:
    """Tables above `most` rows, and what a delete takes along in other tables."""
    emptied = _named(facts, _takes_rows)
    truncated = _named(facts, _truncates_children)
    for name in sorted(names_of(facts), key=str):
        tables = schema.candidates(name)
        rows = max((table.estimated_rows or 0 for table in tables), default=0)
        children = cascades(tables, schema, truncated=name in truncated) if name in emptied | truncated else ()
        if children:
            largest = max(child.estimated_rows or 0 for child, _ in children)
            certain = all(child.estimated_rows is not None for child, _ in children)
            level = RiskLevel.HIGH if max(largest, rows) > most else RiskLevel.MEDIUM
            targets = tuple(_shown(child.name) for child, _ in children)
            yield Factor("cascade_delete", level if certain else RiskLevel.UNKNOWN, targets, rows=largest)
        if rows > most:
            yield Factor("large_table", RiskLevel.MEDIUM, (str(name),), rows=rows)


def _named(facts: Sequence[Facts], which: Callable[[Act], bool]) -> frozenset[Name]:
    return frozenset(act.table for known in facts for act in known.acts if act.table is not None and which(act))


def _takes_rows(act: Act) -> bool:
    return act.deed in _TAKES_ROWS


def _truncates_children(act: Act) -> bool:
    return act.deed is Deed.TRUNCATE and Flag.CASCADE in act.flags


def cascades(tables: Sequence[Table], schema: Schema, *, truncated: bool = False) -> tuple[tuple[Table, int], ...]:
    """The tables whose rows change when rows of `tables` are deleted, with how many foreign keys away: 1 to 3.

    `truncated`: when the tables are emptied by TRUNCATE … CASCADE, which empties whatever refers to them.
    """
    own = {table.name for table in tables}
    reached: dict[Name, tuple[Table, int]] = {}
    edge = list(own)
    for depth in range(1, CASCADE_DEPTH + 1):
        found = {
            child.name: (child, depth)
            for child, key in schema.children(edge)
            if (truncated or key.on_delete in _REACHES_CHILDREN) and child.name not in reached
        }
        reached |= found
        edge = [name for name in found if name not in own]
    return tuple(reached.values())


def names_of(facts: Sequence[Facts]) -> frozenset[Name]:
    """Every table and view that the statements name: what to look up in the schema for `assess`."""
    named = {name for known in facts for name in known.tables}
    named |= {act.table for known in facts for act in known.acts if act.table is not None and act.deed not in _NO_TABLE}
    return frozenset(named)


def _made(facts: Sequence[Facts]) -> frozenset[Name]:
    return _named(facts, lambda act: act.deed in _MAKES)


def _sized_targets(classification: Classification, facts: Sequence[Facts]) -> Iterator[Name]:
    """The tables whose size matters: those that are changed other than by adding rows, or in a read all."""
    if classification.operation is Operation.EXECUTE_SELECT:
        yield from (name for known in facts for name in known.tables)
        return
    for known in facts:
        for act in known.acts:
            if act.table is not None and act.deed not in {Deed.INSERT, *_NO_TABLE, *_MAKES}:
                yield act.table


def _is_catalog(name: Name) -> bool:
    schema = (name.schema or "").lower()
    return schema in _CATALOGS or (not schema and name.name.startswith(("pg_", "sqlite_")))


def _names(acts: Iterator[Act]) -> tuple[str, ...]:
    return tuple(dict.fromkeys("" if act.table is None else str(act.table) for act in acts))


def _shown(name: Name) -> str:
    return name.name if name.schema in (None, "public") else str(name)
