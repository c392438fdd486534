"""Facts about queries and writes of MySQL, MariaDB and SQLite, from sqlglot's trees.

DDL has more spellings than sqlglot knows, so `facts_mysql_sqlite_ddl` reads that from the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from sqlglot import exp

from dbward.domain.sql.conditions_mysql_sqlite import comparisons, condition, conjuncts, link, own_nodes, start
from dbward.domain.sql.gather import AGGREGATES, Gathered, Link, Scope, Side, restricts, unjoined
from dbward.domain.sql.statements import Act, Deed, Flag, Name

_NO_TABLES: Final[Mapping[type[exp.Expr], frozenset[str]]] = {
    exp.Table: frozenset({"indexed"}),
    exp.Delete: frozenset({"tables"}),
    exp.Lock: frozenset({"expressions"}),
    exp.LikeProperty: frozenset({"this"}),
}
"""Where a tree holds tables that are the name of an index, an alias or a definition to copy."""


def read_tree(tree: exp.Expr) -> Gathered:
    """What a query or a write does, nested ones included. What the parser passes over as mere text is not known."""
    found = Gathered(known=tree.find(exp.Command) is None)
    stack: list[tuple[exp.Expr, Scope]] = [(tree, Scope())]
    while stack:
        node, scope = stack.pop()
        inner = scope
        with_ = node.args.get("with_")
        if with_ is not None:
            inner = _extended(with_, scope, stack)
        if isinstance(node, exp.Table):
            _table(node, inner, found)
        if type(node) in _HANDLERS:
            _HANDLERS[type(node)](node, inner, found)
        stack.extend((child, inner) for child in _children(node) if child is not with_)
    # The parser is more generous than the servers: it takes writes that say of no table where to.
    found.known = found.known and all(act.table is not None for act in found.acts)
    return found


def _children(node: exp.Expr) -> Iterator[exp.Expr]:
    skipped = _NO_TABLES.get(type(node), frozenset())
    if isinstance(node, exp.Delete) and node.args.get("using"):
        skipped |= {"this"}  # DELETE FROM alias USING table AS alias
    for name, value in node.args.items():
        if name not in skipped:
            yield from (item for item in (value if isinstance(value, list) else (value,)) if isinstance(item, exp.Expr))


def _extended(with_: exp.Expr, scope: Scope, stack: list[tuple[exp.Expr, Scope]]) -> Scope:
    """The scope with the CTEs of a WITH. Their names are alike in any case of letters."""
    named = [(cte.alias.lower(), _is_small(cte.this)) for cte in with_.expressions]
    within, inner = scope.extended(named, recursive=bool(with_.args.get("recursive")))
    stack.extend((cte.this, seen) for cte, seen in zip(with_.expressions, within, strict=True))
    return inner


def _cte(name: Name, scope: Scope) -> bool | None:
    """Whether the CTE of this name is small, as MySQL's `dual` is; None for a table."""
    if name.schema is not None:
        return None
    return True if name.name.lower() == "dual" else scope.find(name.name.lower())


def _table(table: exp.Table, scope: Scope, found: Gathered) -> None:
    name = name_of(table)
    if name is not None and _cte(name, scope) is None:
        found.tables.add(name)


def name_of(table: exp.Expr) -> Name | None:
    """The name of a table or view; None for a function."""
    if isinstance(table, exp.Schema):  # INSERT INTO t (a, b)
        return name_of(table.this)
    if not isinstance(table, exp.Table) or not isinstance(table.this, exp.Identifier):
        return None
    return Name(table.name, table.db or None)


def _select(node: exp.Expr, scope: Scope, found: Gathered) -> None:
    _block([node], _quals(node), scope, found)


def _insert(node: exp.Expr, _scope: Scope, found: Gathered) -> None:
    found.acts.append(Act(Deed.INSERT, name_of(node.this), start(node.this), flags=_limits(node)))
    conflict = node.args.get("conflict")
    if conflict is not None:
        _assignments(conflict, found)


def _update(node: exp.Expr, scope: Scope, found: Gathered) -> None:
    sides = _block([node.this, node], _quals(node), scope, found)
    assigned = (item.this for item in node.expressions if isinstance(item, exp.EQ))
    qualifiers = dict.fromkeys(column.table for column in assigned if isinstance(column, exp.Column))
    flags, at = _flags(node), start(node.this)
    for table in dict.fromkeys(_meant(qualifier, sides) or name_of(node.this) for qualifier in qualifiers or ("",)):
        found.acts.append(Act(Deed.UPDATE, table, at, flags=flags))
    _assignments(node, found)


def _meant(qualifier: str, sides: list[Side]) -> Name | None:
    return next((side.table for side in sides if qualifier.lower() in side.names), None)


def _delete(node: exp.Expr, scope: Scope, found: Gathered) -> None:
    if not isinstance(node.this, exp.Expr):  # DELETE t, without FROM
        found.acts.append(Act(Deed.DELETE, None))
        return
    sides = _block(node.args.get("using") or [node.this], _quals(node), scope, found)
    deleted = node.args.get("tables") or (_flat(node.this) if node.args.get("using") else [node.this])
    flags = _flags(node)
    for table in deleted:
        found.acts.append(Act(Deed.DELETE, _meant(table.name, sides) or name_of(table), start(table), flags=flags))


def _flat(table: exp.Expr) -> list[exp.Expr]:
    return [table, *(join.this for join in table.args.get("joins") or ())]


def _list(node: exp.Expr, _scope: Scope, found: Gathered) -> None:
    if node.expressions:
        found.in_lists.append((len(node.expressions), start(node.this)))


_HANDLERS: Final[Mapping[type[exp.Expr], Callable[[exp.Expr, Scope, Gathered], None]]] = {
    exp.Select: _select,
    exp.Insert: _insert,
    exp.Update: _update,
    exp.Delete: _delete,
    exp.In: _list,
}


def _flags(write: exp.Expr) -> frozenset[Flag]:
    where = write.args.get("where")
    restricted = where is not None and restricts(condition(where.this))
    return _limits(write) | ({Flag.WHERE} if restricted else frozenset())


def _limits(write: exp.Expr) -> frozenset[Flag]:
    """LIMIT if the write or a query that feeds it is limited, ORDER_BY if each of those says which rows come first.

    After EXISTS it does not matter which row is found.
    """
    nodes = write.walk(prune=lambda node: isinstance(node, exp.Exists))
    limited = [node for node in nodes if node.args.get("limit") is not None]
    if not limited:
        return frozenset()
    ordered = all(node.args.get("order") is not None for node in limited)
    return frozenset({Flag.LIMIT, Flag.ORDER_BY} if ordered else {Flag.LIMIT})


def _assignments(node: exp.Expr, found: Gathered) -> None:
    """`SET a = 1 AND b = 2`: a bare value, AND, and what looks like the next assignment."""
    for assigned in node.expressions:
        value = assigned.args.get("expression")
        if isinstance(assigned, exp.EQ) and isinstance(value, exp.And):
            first, *others = value.flatten()
            is_next = (isinstance(it, exp.EQ) and isinstance(it.this, exp.Column) for it in others)
            if not _is_condition(first) and any(is_next):
                found.and_in_set.append(start(assigned.this))


def _is_condition(node: exp.Expr) -> bool:
    """Whether it may be true or false: a comparison, or a column, which may hold either; `a + 1` is no condition."""
    kinds = (exp.Predicate, exp.Connector, exp.Not, exp.Column, exp.Boolean, exp.Query, exp.Paren)
    return isinstance(node, kinds)


def _quals(node: exp.Expr) -> list[exp.Expr]:
    where = node.args.get("where")
    return [] if where is None else [where.this]


def _block(roots: list[exp.Expr], quals: list[exp.Expr], scope: Scope, found: Gathered) -> list[Side]:
    """One level of a query: which tables nothing connects, and what columns are compared with."""
    sides: list[Side] = []
    connected: list[Link] = []
    for root in roots:
        _sides(root, scope, sides, connected, quals)
    connected += (link(part) for qual in quals for part in conjuncts(qual))
    found.cartesian.extend(unjoined(sides, connected))
    found.comparisons.extend(compared for qual in quals for compared in comparisons(qual, sides))
    return sides


def _sides(node: exp.Expr, scope: Scope, sides: list[Side], connected: list[Link], quals: list[exp.Expr]) -> None:
    """Add the sides that a table, a derived table, a join in parentheses or a whole query stands for."""
    first = len(sides)
    from_ = node.args.get("from_")
    if from_ is not None:
        _sides(from_.this, scope, sides, connected, quals)
    elif isinstance(node, exp.Subquery) and isinstance(node.this, exp.Table):
        _sides(node.this, scope, sides, connected, quals)  # (a JOIN b)
    elif not isinstance(node, (exp.Select, exp.Update)):
        _side(node, scope, sides, connected)
    for join in node.args.get("joins") or ():
        _sides(join.this, scope, sides, connected, quals)
        if join.args.get("using") or join.method.upper() == "NATURAL":
            connected.append(Link(frozenset[str]().union(*(side.names for side in sides[first:]))))
        if join.args.get("on") is not None:
            quals.append(join.args["on"])


def _side(node: exp.Expr, scope: Scope, sides: list[Side], connected: list[Link]) -> None:
    at = start(node)
    alias = node.alias_or_name.lower() or f"\0{at}"  # what has no name is kept apart by its place
    names = frozenset({alias})
    name = name_of(node)
    if name is not None:
        cte = _cte(name, scope)
        sides.append(Side(names, at, cte is not True, name if cte is None else None))
    elif isinstance(node, exp.Subquery):
        sides.append(Side(names, at, not _is_small(node)))
    else:  # LATERAL, functions and lists of values: made from their arguments
        sides.append(Side(names, at, multiplies=False))
        connected.append(link(node, names))


def _is_small(query: exp.Expr) -> bool:
    """A single row, or rows that are written out: what is joined without a condition on purpose."""
    inner = query.unnest()
    if not isinstance(inner, exp.Select):
        return isinstance(inner, exp.Values)
    limit = inner.args.get("limit")
    if inner.args.get("from_") is None or (limit is not None and limit.expression == exp.Literal.number(1)):
        return True
    return inner.args.get("group") is None and any(map(_aggregates, inner.expressions))


def _aggregates(expression: exp.Expr) -> bool:
    return any(
        isinstance(node, exp.AggFunc) or (isinstance(node, exp.Anonymous) and node.name.lower() in AGGREGATES)
        for node in own_nodes(expression)
        if not isinstance(node.parent, exp.Window)
    )
