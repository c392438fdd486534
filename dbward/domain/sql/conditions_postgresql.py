"""Conditions in PostgreSQL's trees: whether they leave rows out, what they connect, what they compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

from dbward.domain.sql.gather import Link, Side, Truth, all_of, any_of, not_
from dbward.domain.sql.pgtree import LOCATIONS, PgNode
from dbward.domain.sql.statements import Comparison

COMPARES: Final = frozenset({"=", "<>", "!=", "<", ">", "<=", ">="})

_LISTS: Final = frozenset({"AEXPR_IN", "AEXPR_BETWEEN", "AEXPR_NOT_BETWEEN"})
_OF_A_ROW: Final = frozenset({"ColumnRef", "FuncCall", "SubLink", "CurrentOfExpr"})


def condition(node: PgNode) -> Truth:
    """What is known of a condition without knowing the rows."""
    type_, fields = next(iter(node.items()))
    match type_:
        case "BoolExpr":
            parts = [condition(part) for part in fields.get("args", [])]
            match fields.get("boolop"):
                case "AND_EXPR":
                    return all_of(parts)
                case "OR_EXPR":
                    return any_of(parts)
                case _:
                    return not_(parts[0])
        case "A_Const":
            if "boolval" in fields:
                return Truth.TRUE if fields["boolval"].get("boolval") else Truth.FALSE
            return Truth.FALSE if fields.get("isnull") else Truth.CONSTANT
        case "A_Expr" if operator(fields) == "=":
            left, right = (_bare(fields.get(side)) for side in ("lexpr", "rexpr"))
            if left == right and _has(fields, _OF_A_ROW - {"ColumnRef"}) is False:
                return Truth.TRUE
            if "A_Const" in left and "A_Const" in right:
                return Truth.FALSE
    return Truth.ROW if _has(node, _OF_A_ROW) else Truth.CONSTANT


def operator(expr: PgNode) -> str:
    """The operator of `a = b`; empty for other kinds of expressions, such as `a IN (b)`."""
    if expr.get("kind") != "AEXPR_OP":
        return ""
    return str(expr.get("name", [{}])[-1].get("String", {}).get("sval", ""))


def start(value: Any) -> int:
    """Where the leftmost part of a tree stands."""
    return min(_places(value), default=0)


def _places(value: Any) -> Iterator[int]:
    if isinstance(value, list):
        for item in value:
            yield from _places(item)
    elif isinstance(value, dict):
        if isinstance(value.get("location"), int) and value["location"] >= 0:
            yield value["location"]
        for inner in value.values():
            yield from _places(inner)


def links(qual: PgNode) -> Iterator[Link]:
    """What each condition connects that must hold by itself."""
    either = qual.get("BoolExpr", {})
    if either.get("boolop") == "AND_EXPR":
        for part in either["args"]:
            yield from links(part)
    else:
        yield link(qual)


def link(qual: PgNode, names: frozenset[str] = frozenset()) -> Link:
    """Everything that is named in `qual`, beside `names`."""
    qualifiers, unqualified = _columns(qual)
    expr = qual.get("A_Expr", {})
    if operator(expr) == "=":
        constants = [side for name in ("lexpr", "rexpr") if "A_Const" in (side := _bare(expr.get(name)))]
        qualifiers |= {f"\0{constant}" for constant in constants}
    return Link(names | qualifiers, unqualified)


def _columns(value: Any, *, inside: bool = False) -> tuple[frozenset[str], int]:
    """Qualifiers, and the number of columns that have none. In a query `inside`, those are taken for its own."""
    if isinstance(value, list):
        found = [_columns(item, inside=inside) for item in value]
    elif not isinstance(value, dict):
        return frozenset(), 0
    elif "fields" in value:
        parts = value["fields"]
        if len(parts) > 1:
            return frozenset({parts[-2].get("String", {}).get("sval", "")}), 0
        return frozenset(), int(not inside)
    else:
        found = [_columns(item, inside=inside or key == "SelectStmt") for key, item in value.items()]
    return frozenset[str]().union(*(names for names, _ in found)), sum(count for _, count in found)


def comparisons(qual: PgNode, sides: Sequence[Side]) -> Iterator[Comparison]:
    """Columns beside literals, but for those of queries inside."""
    for expr in _expressions(qual):
        if operator(expr) not in COMPARES and expr.get("kind") not in _LISTS:
            continue
        left, right = expr.get("lexpr", {}), expr.get("rexpr", {})
        column = left if "ColumnRef" in left else right
        literal = _literal(right if column is left else left)
        fields = column.get("ColumnRef", {}).get("fields", [])
        if literal is not None and fields and "String" in fields[-1]:
            at = column["ColumnRef"].get("location", 0)
            names = [part.get("String", {}).get("sval", "") for part in fields]
            table = next((side.table for side in sides if _may_be(side, names, len(sides))), None)
            yield Comparison(names[-1], literal, at, table)


def _may_be(side: Side, names: Sequence[str], count: int) -> bool:
    return names[-2] in side.names if len(names) > 1 else count == 1


def _expressions(value: Any) -> Iterator[PgNode]:
    if isinstance(value, list):
        for item in value:
            yield from _expressions(item)
    elif isinstance(value, dict):
        if "A_Expr" in value:
            yield value["A_Expr"]
        for key, inner in value.items():
            if key != "SelectStmt":
                yield from _expressions(inner)


def _literal(node: PgNode) -> Literal["number", "string"] | None:
    """The kind of a literal, or of the first in a list of them."""
    items = node["List"]["items"] if "List" in node else [node]
    constant = items[0].get("A_Const", {}) if isinstance(items[0], dict) else {}
    if "sval" in constant:
        return "string"
    return "number" if {"ival", "fval"} & constant.keys() else None


def _bare(value: Any) -> Any:
    """The tree without its places."""
    if isinstance(value, list):
        return [_bare(item) for item in value]
    if isinstance(value, dict):
        return {key: _bare(inner) for key, inner in value.items() if key not in LOCATIONS}
    return {} if value is None else value


def _has(value: Any, types: frozenset[str]) -> bool:
    if isinstance(value, list):
        return any(_has(item, types) for item in value)
    if not isinstance(value, dict):
        return False
    return not types.isdisjoint(value) or any(_has(inner, types) for inner in value.values())
