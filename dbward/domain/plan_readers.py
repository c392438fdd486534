"""From what an engine says about its plan to a `Plan`: PostgreSQL's and MySQL's JSON, SQLite's rows.

The engines add to their formats with every version, so what is not known here is passed over, never an error. Nothing
here recurses: a plan may be nested as deep as the statement was.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dbward.domain.model import Dialect
from dbward.domain.plans import MAX_NUMBER, TEXT_MAX, Found, Plan, Scan, Step, make, shortened

Json = Mapping[str, Any]


class UnreadablePlan(Exception):
    """The engine answered something that is no plan, or one nested too deeply to be parsed."""


def read_plan(dialect: Dialect, rows: Sequence[Sequence[Any]]) -> Plan:
    """The plan in the rows that the engine's EXPLAIN returned. Raises `UnreadablePlan`.

    PostgreSQL's and MySQL's answer is one row with a JSON document, parsed or as text; SQLite's is a row for each step.
    """
    try:
        return _READERS[dialect](rows)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
        raise UnreadablePlan("the plan cannot be read") from e


def _document(rows: Sequence[Sequence[Any]]) -> Any:
    found = rows[0][0]
    return json.loads(found) if isinstance(found, str) else found


# --- PostgreSQL -------------------------------------------------------------------------------------------------------

_AGGREGATES = {"Hashed": "HashAggregate", "Sorted": "GroupAggregate", "Mixed": "MixedAggregate"}
_CONDITIONS = ("Index Cond", "TID Cond", "Hash Cond", "Merge Cond", "Join Filter", "Filter")


def _postgresql(rows: Sequence[Sequence[Any]]) -> Plan:
    root = _document(rows)[0]["Plan"]
    children = root.get("Plans", ())
    # A change returns no rows by itself: what it is given is what it changes.
    source = children[0] if root["Node Type"] == "ModifyTable" and children else root
    return make(_pg_steps(root), rows=_whole(source.get("Plan Rows")), cost=_number(root.get("Total Cost")))


def _pg_steps(root: Json) -> Iterator[Found]:
    waiting = [(root, 0)]
    while waiting:
        node, depth = waiting.pop()
        waiting += [(child, depth + 1) for child in reversed(node.get("Plans", ()))]
        table = _pg_table(node)
        yield Found(
            Step(
                depth=depth,
                operation=_pg_operation(node),
                table=table,
                index=_text(node.get("Index Name")),
                rows=_whole(node.get("Plan Rows")) if node["Node Type"] != "ModifyTable" else None,
                cost=_number(node.get("Total Cost")),
                condition=_text("; ".join(str(node[name]) for name in _CONDITIONS if name in node)),
            ),
            scan=Scan(table) if node["Node Type"] == "Seq Scan" and table is not None else None,
        )


def _pg_operation(node: Json) -> str:
    name, join = str(node["Node Type"]), str(node.get("Join Type", "Inner"))
    if name == "ModifyTable":
        name = str(node.get("Operation", name))
    elif name == "Aggregate":
        name = _AGGREGATES.get(str(node.get("Strategy")), name)
    elif name == "SetOp":
        name = f"SetOp {node.get('Command', '')}".rstrip()
    elif join != "Inner":
        name = f"{name.removesuffix(' Join')} {join} Join"
    if node.get("Parallel Aware") is True:
        name = f"Parallel {name}"
    subplan = f"{node['Subplan Name']}: " if "Subplan Name" in node else ""
    return _text(subplan + name) or name


def _pg_table(node: Json) -> str | None:
    if "Relation Name" in node:
        schema = f"{node['Schema']}." if "Schema" in node else ""
        return _text(f"{schema}{node['Relation Name']}")
    return _text(node.get("CTE Name") or node.get("Function Name"))


# --- MySQL and MariaDB ------------------------------------------------------------------------------------------------

_ACCESS = {
    "ALL": "Full scan",
    "index": "Full index scan",
    "range": "Range scan",
    "index_merge": "Index merge",
    "fulltext": "Full-text search",
    "system": "Single row",
    "const": "Single row",
    "eq_ref": "Unique lookup",
}
_WHOLE = ("ALL", "index")
"""All rows are looked at, in the table or in an index that has an entry for each."""
_CHANGES = ("insert", "replace", "update", "delete")
_BLOCKS = {
    "block-nl-join": "Block nested loop join",
    "buffer_result": "Buffer",
    "duplicate_removal": "Remove duplicates",
    "duplicates_removal": "Remove duplicates",
    "expression_cache": "Cache",
    "filesort": "Sort",
    "grouping_operation": "Group",
    "insert_from": "Insert from",
    "materialized": "Materialize",
    "materialized_from_subquery": "Materialize",
    "ordering_operation": "Sort",
    "read_sorted_file": "Read sorted",
    "recursive_union": "Recursive union",
    "subquery": "Subquery",
    "temporary_table": "Temporary table",
    "union_result": "Union",
    "window_functions_computation": "Window functions",
    "windowing": "Window functions",
}
_SUBQUERIES = re.compile(r"(?:[a-z_]*_)?subqueries")


def _mysql(rows: Sequence[Sequence[Any]]) -> Plan:
    document = _document(rows)
    if "query_plan" in document:  # MySQL's second format
        root = document["query_plan"]
        rows_, cost = _whole(root.get("estimated_rows")), _number(root.get("estimated_total_cost"))
        return make(_tree_steps(root), rows=rows_, cost=cost)
    block = document["query_block"]
    cost = _number(block.get("cost_info", {}).get("query_cost", block.get("cost")))
    return make(_block_steps(block), rows=_product(block), cost=cost)


def _block_steps(root: Json) -> Iterator[Found]:
    """The first format: objects in objects, each kind under a key of its own, and keys that only hold others."""
    waiting: list[tuple[str, Any, int]] = [("query_block", root, 0)]
    while waiting:
        key, value, depth = waiting.pop()
        if isinstance(value, list):
            joins = key == "nested_loop" and len(value) > 1
            if joins:
                yield Found(Step(depth, "Nested loop join"))
            each = "subquery" if _SUBQUERIES.fullmatch(key) else ""
            waiting += [(each, item, depth + joins) for item in reversed(value)]
            continue
        if not isinstance(value, Mapping):
            continue
        below = depth
        if key == "table":
            yield _table(value, depth)
            below += 1
        elif key in _BLOCKS:
            yield Found(Step(depth, _BLOCKS[key]))
            below += 1
        # What is behind a key that is not known may hold tables all the same.
        inner = [(name, part, below) for name, part in value.items() if isinstance(part, list | Mapping)]
        waiting += [item for item in reversed(inner) if item[0] != "cost_info"]


def _table(table: Json, depth: int) -> Found:
    name = _text(table.get("table_name"))
    access = str(table.get("access_type", ""))
    operation = _text(table.get("message")) or _ACCESS.get(access) or (f"Lookup ({access})" if access else "Table")
    change = next((word.capitalize() for word in _CHANGES if table.get(word)), None)
    rows = _whole(table.get("rows", table.get("rows_examined_per_scan")))
    if change is not None:
        operation = change if not access or (access == "ALL" and rows is None) else f"{change}, {operation.lower()}"
    whole = access in _WHOLE and name is not None and not name.startswith("<") and rows is not None
    step = Step(
        depth=depth,
        operation=operation,
        table=name,
        index=_text(table.get("key")),
        rows=rows,
        cost=_number(table.get("cost_info", {}).get("prefix_cost", table.get("cost"))),
        condition=_text(table.get("attached_condition")),
    )
    return Found(step, scan=Scan(name, rows) if whole and name is not None else None)


def _product(block: Json) -> int | None:
    """About how many rows the joins of the outermost block give: MySQL tells it for each table only."""
    tables = _joined(block)
    if not tables:
        return None
    last = tables[-1].get("rows_produced_per_join")
    if last is not None:
        return _whole(last)
    total = 1.0
    for table in tables:
        rows, filtered = _number(table.get("rows")), _number(table.get("filtered"))
        if rows is None:
            return None
        total *= rows * (100.0 if filtered is None else filtered) / 100
    return _whole(total)


def _joined(block: Json) -> list[Json]:
    """The tables of one block's join, looking through sorting and grouping but into no other block."""
    while True:
        if "table" in block:
            return [block["table"]]
        if "nested_loop" in block:
            items = [item.get("block-nl-join", item) for item in block["nested_loop"]]
            return [item["table"] for item in items if "table" in item]
        inner = [block[key] for key in _BLOCKS if isinstance(block.get(key), Mapping) and key != "union_result"]
        if len(inner) != 1:
            return []
        block = inner[0]


def _tree_steps(root: Json) -> Iterator[Found]:
    """The second format of MySQL, close to PostgreSQL's: each step says in words what it does."""
    waiting = [(root, 0)]
    while waiting:
        node, depth = waiting.pop()
        waiting += [(child, depth + 1) for child in reversed(node.get("inputs", ()))]
        table, rows = _text(node.get("table_name")), _whole(node.get("estimated_rows"))
        whole = node.get("access_type") == "table" and table is not None
        step = Step(
            depth=depth,
            operation=_text(node.get("operation")) or "Step",
            rows=rows,
            cost=_number(node.get("estimated_total_cost")),
        )
        scan = Scan(table, rows) if whole and table is not None else None
        yield Found(step, scan, index=_text(node.get("index_name")))


# --- SQLite -----------------------------------------------------------------------------------------------------------

_SEARCH = re.compile(
    r"(?P<operation>SCAN|SEARCH) (?P<table>.+?)"
    r"(?: USING (?P<how>(?:AUTOMATIC )?(?:PARTIAL )?(?:COVERING )?INDEX|INTEGER PRIMARY KEY)(?: (?P<index>[^()]+?))?)?"
    r"(?: (?P<condition>\(.*\)))?(?P<rest> LEFT-JOIN)?"
)
_NO_TABLE = ("CONSTANT ROW", "VIRTUAL TABLE")


def _sqlite(rows: Sequence[Sequence[Any]]) -> Plan:
    depths: dict[Any, int] = {0: -1}
    found = []
    for id_, parent, _, detail in rows:
        depths[id_] = depths.get(parent, -1) + 1
        found.append(_sqlite_step(str(detail), depths[id_]))
    return make(found)


def _sqlite_step(detail: str, depth: int) -> Found:
    parts = _SEARCH.fullmatch(detail)
    if parts is None or any(word in detail for word in _NO_TABLE):
        text = _text(detail) or "Step"
        return Found(Step(depth, text[:1] + text[1:].lower() if text.isupper() else text))
    table, how = _text(parts["table"]), parts["how"] or ""
    automatic = how.startswith("AUTOMATIC")  # made for this statement, from the whole table
    whole = automatic or parts["operation"] == "SCAN"
    index = _text(parts["index"]) if "INDEX" in how and not automatic else None
    operation = "Scan" if parts["operation"] == "SCAN" else "Search"
    if how and index is None:
        operation += f" by {how.lower()}"
    step = Step(depth, operation, table, index, condition=_text((parts["condition"] or "")[1:-1]))
    return Found(step, scan=Scan(table) if whole and table is not None else None)


# --- values -----------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str | None:
    """One line of printable text, not too long; None when there is none."""
    if not isinstance(value, str):
        return None
    line = "".join(c if c.isprintable() else "�" for c in " ".join(value.split()))
    return shortened(line, TEXT_MAX) or None


def _number(value: Any) -> float | None:
    """A finite number of zero or more, also from text, as MySQL writes costs."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return min(number, float(MAX_NUMBER)) if math.isfinite(number) and number >= 0 else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else round(number)


_READERS: dict[Dialect, Callable[[Sequence[Sequence[Any]]], Plan]] = {
    Dialect.POSTGRESQL: _postgresql,
    Dialect.MYSQL: _mysql,
    Dialect.SQLITE: _sqlite,
}
