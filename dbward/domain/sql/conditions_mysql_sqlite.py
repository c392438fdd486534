"""Conditions in sqlglot's trees: whether they leave rows out, what they connect, what they compare.

Long chains of AND, OR and operators are deep trees here, so nothing recurses but into parentheses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from sqlglot import exp

from dbward.domain.sql.gather import Link, Side, Truth, all_of, any_of, not_
from dbward.domain.sql.statements import Comparison

_COMPARES: Final = (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)


def condition(node: exp.Expr) -> Truth:
    """What is known of a condition without knowing the rows. A number is one, too: 0 is false, others are true."""
    match node:
        case exp.Paren():
            return condition(node.this)
        case exp.And():
            return all_of(condition(part) for part in node.flatten())
        case exp.Or():
            return any_of(condition(part) for part in node.flatten())
        case exp.Not():
            return not_(condition(node.this))
        case exp.Boolean():
            return Truth.TRUE if node.this else Truth.FALSE
        case exp.Null():
            return Truth.FALSE
        case exp.Literal():
            return _truth(node)
        case exp.EQ() if (same := _same(node.this, node.expression)) is not None:
            return Truth.TRUE if same else Truth.FALSE
    depends = node.find(exp.Column, exp.Anonymous, exp.Query) is not None
    return Truth.ROW if depends else Truth.CONSTANT


def _truth(literal: exp.Literal) -> Truth:
    if literal.is_string:
        return Truth.CONSTANT
    return Truth.TRUE if literal.this.strip("0.") else Truth.FALSE


def _same(left: exp.Expr, right: exp.Expr) -> bool | None:
    """Whether two values are always equal, or never; None when that depends."""
    match left, right:
        case exp.Literal(), exp.Literal():
            if left.is_string == right.is_string:
                return bool(left.this == right.this)
        case exp.Column(), exp.Column():
            if (left.name.lower(), left.table.lower()) == (right.name.lower(), right.table.lower()):
                return True
    return None


def start(node: exp.Expr) -> int:
    """Where the leftmost part of a tree stands that has a place: a name, a call or a literal."""
    return min((found.meta["start"] for found in node.walk() if "start" in found.meta), default=0)


def conjuncts(qual: exp.Expr) -> Iterator[exp.Expr]:
    """What must hold by itself."""
    stack = [qual]
    while stack:
        node = stack.pop()
        match node:
            case exp.Paren():
                stack.append(node.this)
            case exp.And():
                stack.extend(node.flatten())
            case _:
                yield node


def link(node: exp.Expr, names: frozenset[str] = frozenset()) -> Link:
    """Everything that is named in `node`, beside `names`. In queries inside, plain columns are taken for theirs."""
    qualifiers = {column.table.lower() for column in node.find_all(exp.Column) if column.table}
    unqualified = sum(1 for column in own_nodes(node) if isinstance(column, exp.Column) and not column.table)
    if isinstance(node, exp.EQ):
        sides = (node.this, node.expression)
        qualifiers |= {f"\0{side.is_string}{side.this}" for side in sides if isinstance(side, exp.Literal)}
    return Link(names | qualifiers, unqualified)


def own_nodes(node: exp.Expr) -> Iterator[exp.Expr]:
    """The nodes of an expression, but for those of queries inside."""
    yield from node.walk(prune=lambda found: isinstance(found, exp.Query))


def comparisons(qual: exp.Expr, sides: Sequence[Side]) -> Iterator[Comparison]:
    """Columns beside literals, but for those of queries inside."""
    for node in own_nodes(qual):
        match node:
            case exp.In():
                column, literal = node.this, next(iter(node.expressions), None)
            case exp.Between():
                column, literal = node.this, node.args["low"]
            case _ if isinstance(node, _COMPARES):
                column, literal = node.this, node.expression
                if not isinstance(column, exp.Column):
                    column, literal = literal, column
            case _:
                continue
        kind = _literal(literal)
        if kind is not None and isinstance(column, exp.Column):
            table = next((side.table for side in sides if _may_be(side, column.table.lower(), len(sides))), None)
            yield Comparison(column.name, kind, start(column), table)


def _may_be(side: Side, qualifier: str, count: int) -> bool:
    return qualifier in side.names if qualifier else count == 1


def _literal(node: exp.Expr | None) -> Literal["number", "string"] | None:
    value = node.this if isinstance(node, exp.Neg) else node
    if not isinstance(value, exp.Literal):
        return None
    return "string" if value.is_string else "number"
