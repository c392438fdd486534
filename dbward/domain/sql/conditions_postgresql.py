"""Conditions in PostgreSQL's trees: whether they leave rows out, what they connect, what they compare.

Long chains of operators are deep trees, so nothing recurses but into conditions of conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
        case "A_Expr" if (same := _same(fields)) is not None:
            return Truth.TRUE if same else Truth.FALSE
    return Truth.ROW if any(key in _OF_A_ROW for key, _ in inside(node)) else Truth.CONSTANT


def _same(expr: PgNode) -> bool | None:
    """Whether both sides of `=` are always equal, or never; None when that depends."""
    left, right = (_leaf(expr.get(side, {})) for side in ("lexpr", "rexpr"))
    if operator(expr) != "=" or not left or not right:
        return None
    if left == right:
        return True
    return False if "A_Const" in left and "A_Const" in right else None


def _leaf(node: PgNode) -> PgNode:
    """A column or a constant without its place; empty for anything else."""
    return {
        type_: {name: value for name, value in fields.items() if name not in LOCATIONS}
        for type_, fields in node.items()
        if type_ in {"ColumnRef", "A_Const"}
    }


def inside(
    value: Any, skip: Callable[[str, PgNode], bool] = lambda _key, _fields: False
) -> Iterator[tuple[str, PgNode]]:
    """Every node of a tree, with its type or the name of its field; not what is skipped, nor what is inside that."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        key, item = stack.pop()
        if isinstance(item, list):
            stack.extend((key, inner) for inner in item)
        elif isinstance(item, dict) and not skip(key, item):
            yield key, item
            stack.extend(item.items())


def outside_queries(key: str, _fields: PgNode) -> bool:
    """For `inside`: skips the queries in an expression."""
    return key == "SelectStmt"


def operator(expr: PgNode) -> str:
    """The operator of `a = b`; empty for other kinds of expressions, such as `a IN (b)`."""
    if expr.get("kind") != "AEXPR_OP":
        return ""
    return str(expr.get("name", [{}])[-1].get("String", {}).get("sval", ""))


def start(value: Any) -> int:
    """Where the leftmost part of a tree stands."""
    places = (fields.get("location") for _, fields in inside(value))
    return min((place for place in places if isinstance(place, int) and place >= 0), default=0)


def links(qual: PgNode) -> Iterator[Link]:
    """What each condition connects that must hold by itself."""
    either = qual.get("BoolExpr", {})
    if either.get("boolop") == "AND_EXPR":
        for part in either["args"]:
            yield from links(part)
    else:
        yield link(qual)


def link(qual: PgNode, names: frozenset[str] = frozenset()) -> Link:
    """Everything that is named in `qual`, beside `names`. In queries inside, plain columns are taken for theirs."""
    columns = [fields["fields"] for key, fields in inside(qual) if key == "ColumnRef"]
    qualifiers = {parts[-2].get("String", {}).get("sval", "") for parts in columns if len(parts) > 1}
    own = (fields["fields"] for key, fields in inside(qual, outside_queries) if key == "ColumnRef")
    unqualified = sum(1 for parts in own if len(parts) == 1)
    expr = qual.get("A_Expr", {})
    if operator(expr) == "=":
        leaves = (_leaf(expr.get(side, {})) for side in ("lexpr", "rexpr"))
        qualifiers |= {f"\0{leaf}" for leaf in leaves if "A_Const" in leaf}
    return Link(names | qualifiers, unqualified)


def comparisons(qual: PgNode, sides: Sequence[Side]) -> Iterator[Comparison]:
    """Columns beside literals, but for those of queries inside."""
    for key, expr in inside(qual, outside_queries):
        if key != "A_Expr":
            continue
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


def _literal(node: PgNode) -> Literal["number", "string"] | None:
    """The kind of a literal, or of the first in a list of them."""
    items = node["List"]["items"] if "List" in node else [node]
    constant = items[0].get("A_Const", {}) if isinstance(items[0], dict) else {}
    if "sval" in constant:
        return "string"
    return "number" if {"ival", "fval"} & constant.keys() else None
