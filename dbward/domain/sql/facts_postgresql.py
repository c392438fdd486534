"""Facts from PostgreSQL's own grammar: queries and writes here, DDL from the tables of `facts_postgresql_ddl`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from dbward.domain.sql.conditions_postgresql import (
    COMPARES,
    comparisons,
    condition,
    inside,
    link,
    links,
    operator,
    outside_queries,
    start,
)
from dbward.domain.sql.facts_postgresql_ddl import (
    ACTS,
    TABLES,
    created_from_query,
    name_in,
    name_of,
    switched_on,
    with_places,
)
from dbward.domain.sql.gather import AGGREGATES, Gathered, Link, Scope, Side, restricts, unjoined
from dbward.domain.sql.pgtree import PgNode
from dbward.domain.sql.statements import Act, Deed, Facts, Flag

Block = tuple[list[Side], list[Link]]
"""The sides of a FROM clause and what its joins connect."""

_NO_TABLES: Final = frozenset(
    {"LockingClause", "TableLikeClause", "PartitionCmd", "CreateSeqStmt", "AlterSeqStmt", "CompositeTypeStmt"}
)
"""Hold names that are aliases, definitions to copy, partitions, sequences or types."""

_KINDS_OF_OBJECT: Final = {
    "AlterTableStmt": ("objtype",),
    "AlterObjectSchemaStmt": ("objectType",),
    "RenameStmt": ("renameType", "relationType"),
    "ReindexStmt": ("kind",),
}
"""Statements whose `relation` is a table only if one of these fields says so."""


Todo = list[tuple[str, Any, Scope]]
"""Nodes that are still to be read: type or name of the field, fields, and what can be named there."""


def read_postgresql(node: PgNode, text: str) -> Facts:
    """`node` is one statement, `{type: fields}`, and `text` what it was read from.

    May raise what comes from a tree of another shape.
    """
    found = Gathered()
    explained = node.get("ExplainStmt")
    if explained is None:
        _read(with_places(node, text), found)
    else:
        _read(explained.get("query", {}), found)
        if not switched_on(explained.get("options", []), "analyze"):
            # What is only explained is not done; what it would read is still named.
            found.acts.clear()
            found.and_in_set.clear()
    return found.frozen()


def _read(node: PgNode, found: Gathered) -> None:
    todo: Todo = [("", node, Scope())]
    while todo:
        key, value, scope = todo.pop()
        if isinstance(value, list):
            todo.extend((key, item, scope) for item in value)
            continue
        if not isinstance(value, dict):
            continue
        if key in ACTS:
            found.acts.extend(ACTS[key](value))
        if "relname" in value:
            if "schemaname" in value or scope.find(value["relname"]) is None:
                found.tables.add(name_of(value))
        elif key in _HANDLERS:
            _HANDLERS[key](value, scope, found, todo)
        elif key not in _NO_TABLES and _names_a_table(key, value):
            _rest(value, scope, todo)


def _names_a_table(key: str, inner: Any) -> bool:
    fields = _KINDS_OF_OBJECT.get(key, ())
    return not fields or any(inner.get(name) in TABLES for name in fields)


def _rest(stmt: PgNode, scope: Scope, todo: Todo, *done: str) -> None:
    todo.extend((key, inner, scope) for key, inner in stmt.items() if key not in done and key != "withClause")


def _with_ctes(stmt: PgNode, scope: Scope, todo: Todo) -> Scope:
    """The scope with the statement's own CTEs."""
    clause = stmt.get("withClause")
    if clause is None:
        return scope
    ctes = [item["CommonTableExpr"] for item in clause.get("ctes", [])]
    named = [(cte["ctename"], _is_small(cte["ctequery"])) for cte in ctes]
    within, inner = scope.extended(named, recursive=clause.get("recursive", False))
    todo.extend(("", cte["ctequery"], seen) for cte, seen in zip(ctes, within, strict=True))
    return inner


def _select(stmt: PgNode, scope: Scope, found: Gathered, todo: Todo) -> None:
    inner = _with_ctes(stmt, scope, todo)
    into = stmt.get("intoClause")
    if into is not None:
        found.acts.append(created_from_query(into))
    _block(stmt.get("fromClause", []), stmt.get("whereClause"), inner, found)
    todo.extend(("SelectStmt", stmt[branch], inner) for branch in ("larg", "rarg") if branch in stmt)
    _rest(stmt, inner, todo, "larg", "rarg")


def _insert(stmt: PgNode, scope: Scope, found: Gathered, todo: Todo) -> None:
    found.acts.append(_write(Deed.INSERT, stmt))
    _assignments(stmt.get("onConflictClause", {}), found)
    _target(stmt, found)
    _rest(stmt, _with_ctes(stmt, scope, todo), todo, "relation")


def _update(stmt: PgNode, scope: Scope, found: Gathered, todo: Todo) -> None:
    found.acts.append(_write(Deed.UPDATE, stmt))
    _assignments(stmt, found)
    _changed_with(stmt, stmt.get("fromClause", []), scope, found, todo)


def _delete(stmt: PgNode, scope: Scope, found: Gathered, todo: Todo) -> None:
    found.acts.append(_write(Deed.DELETE, stmt))
    _changed_with(stmt, stmt.get("usingClause", []), scope, found, todo)


def _changed_with(stmt: PgNode, others: list[PgNode], scope: Scope, found: Gathered, todo: Todo) -> None:
    inner = _with_ctes(stmt, scope, todo)
    _target(stmt, found)
    _block([{"RangeVar": stmt["relation"]}, *others], stmt.get("whereClause"), inner, found)
    _rest(stmt, inner, todo, "relation")


def _merge(stmt: PgNode, scope: Scope, found: Gathered, todo: Todo) -> None:
    found.acts.append(_write(Deed.MERGE, stmt))
    for item in stmt.get("mergeWhenClauses", []):
        if item["MergeWhenClause"].get("commandType") == "CMD_UPDATE":
            _assignments(item["MergeWhenClause"], found)
    _target(stmt, found)
    _rest(stmt, _with_ctes(stmt, scope, todo), todo, "relation")


def _target(stmt: PgNode, found: Gathered) -> None:
    """What is written to is never a CTE, whatever its name."""
    found.tables.add(name_of(stmt["relation"]))


def _write(deed: Deed, stmt: PgNode) -> Act:
    flags = set(_limits(stmt))
    where = stmt.get("whereClause")
    if where is not None and restricts(condition(where)):
        flags.add(Flag.WHERE)
    relation = stmt["relation"]
    return Act(deed, name_of(relation), relation.get("location", 0), flags=frozenset(flags))


def _limits(stmt: PgNode) -> frozenset[Flag]:
    """LIMIT if a query that feeds the write is limited, ORDER_BY if each of those says which rows come first.

    After EXISTS it does not matter which row is found.
    """
    limited = [
        fields
        for _, fields in inside(stmt, lambda _, fields: fields.get("subLinkType") == "EXISTS_SUBLINK")
        if "limitCount" in fields and not fields["limitCount"].get("A_Const", {}).get("isnull")
    ]
    if not limited:
        return frozenset()
    ordered = all("sortClause" in select for select in limited)
    return frozenset({Flag.LIMIT, Flag.ORDER_BY} if ordered else {Flag.LIMIT})


def _copy(stmt: PgNode, scope: Scope, found: Gathered, todo: Todo) -> None:
    relation = stmt.get("relation")
    table = name_of(relation) if relation else None
    found.acts.append(Act(Deed.COPY, table, (relation or {}).get("location", 0)))
    _rest(stmt, scope, todo)


def _call(stmt: PgNode, scope: Scope, found: Gathered, todo: Todo) -> None:
    found.acts.append(Act(Deed.CALL, None, stmt.get("funccall", {}).get("location", 0)))
    _rest(stmt, scope, todo)


def _drop(stmt: PgNode, _scope: Scope, found: Gathered, _todo: Todo) -> None:
    if stmt.get("removeType") in TABLES:
        found.tables.update(name_in(item) for item in stmt.get("objects", []))


def _comment(stmt: PgNode, _scope: Scope, found: Gathered, _todo: Todo) -> None:
    """`object` holds a table's name, or a column's behind its table's."""
    kind = stmt.get("objtype")
    items = stmt.get("object", {}).get("List", {}).get("items", [])
    if kind == "OBJECT_COLUMN":
        items = items[:-1]
    if kind in TABLES or kind == "OBJECT_COLUMN":
        found.tables.add(name_in({"List": {"items": items}}))


def _list(expr: PgNode, scope: Scope, found: Gathered, todo: Todo) -> None:
    """`x IN (1, 2)`, and `x = ANY (ARRAY[1, 2])`, which is the same."""
    inner = expr.get("rexpr", {})
    match expr.get("kind"):
        case "AEXPR_IN":
            items = inner.get("List", {}).get("items")
        case "AEXPR_OP_ANY" | "AEXPR_OP_ALL":
            items = inner.get("A_ArrayExpr", {}).get("elements")
        case _:
            items = None
    if items is not None:
        found.in_lists.append((len(items), start(expr)))
    _rest(expr, scope, todo)


_HANDLERS: Final[Mapping[str, Callable[[PgNode, Scope, Gathered, Todo], None]]] = {
    "SelectStmt": _select,
    "InsertStmt": _insert,
    "UpdateStmt": _update,
    "DeleteStmt": _delete,
    "MergeStmt": _merge,
    "CopyStmt": _copy,
    "CallStmt": _call,
    "DropStmt": _drop,
    "CommentStmt": _comment,
    "A_Expr": _list,
}


def _block(items: list[PgNode], where: PgNode | None, scope: Scope, found: Gathered) -> None:
    """One level of a query: which tables nothing connects, and what columns are compared with."""
    sides: list[Side] = []
    connected: list[Link] = []
    quals: list[PgNode] = [] if where is None else [where]
    for item in items:
        more, inside = _sides(item, scope, quals)
        sides += more
        connected += inside
    connected += (part for qual in quals for part in links(qual))
    found.cartesian.extend(unjoined(sides, connected))
    found.comparisons.extend(compared for qual in quals for compared in comparisons(qual, sides))


def _sides(item: PgNode, scope: Scope, quals: list[PgNode]) -> Block:
    """The conditions of joins are added to `quals`."""
    type_, fields = next(iter(item.items()))
    match type_:
        case "JoinExpr":
            return _join(fields, scope, quals)
        case "RangeVar":
            return [_relation(fields, scope)], []
        case "RangeTableSample":
            return _sides(fields["relation"], scope, quals)
        case "RangeSubselect":
            lateral = bool(fields.get("lateral"))  # names the sides that it is joined with
            side = Side(_alias(fields), start(fields), not lateral and not _is_small(fields["subquery"]))
            return [side], ([link(fields["subquery"], side.names)] if lateral else [])
        case _:  # functions, XMLTABLE and JSON_TABLE: rows made from their arguments
            side = Side(_alias(fields), start(fields), multiplies=False)
            return [side], [link(fields, side.names)]


def _join(join: PgNode, scope: Scope, quals: list[PgNode]) -> Block:
    left, left_links = _sides(join["larg"], scope, quals)
    right, right_links = _sides(join["rarg"], scope, quals)
    sides, connected = [*left, *right], [*left_links, *right_links]
    if "quals" in join:
        quals.append(join["quals"])
    if join.get("isNatural") or "usingClause" in join:
        connected.append(Link(_names(sides)))
    if "alias" in join:  # each column of the join can be named with it
        connected.append(Link(_names(sides) | _alias(join)))
    return sides, connected


def _names(sides: list[Side]) -> frozenset[str]:
    return frozenset[str]().union(*(side.names for side in sides))


def _relation(relation: PgNode, scope: Scope) -> Side:
    cte = scope.find(relation["relname"]) if "schemaname" not in relation else None
    names = _alias(relation) if "alias" in relation else frozenset({relation["relname"]})
    return Side(names, relation.get("location", 0), cte is not True, name_of(relation) if cte is None else None)


def _alias(fields: PgNode) -> frozenset[str]:
    """What has no alias cannot be named; its place keeps it apart from others."""
    return frozenset({fields.get("alias", {}).get("aliasname", f"\0{start(fields)}")})


def _is_small(query: PgNode) -> bool:
    """A single row, or rows that are written out: what is joined without a condition on purpose."""
    select = query.get("SelectStmt")
    if select is None or select.get("op", "SETOP_NONE") != "SETOP_NONE":
        return False
    limit = select.get("limitCount", {}).get("A_Const", {}).get("ival", {})
    if "fromClause" not in select or limit == {"ival": 1}:
        return True
    return "groupClause" not in select and any(map(_aggregates, select.get("targetList", [])))


def _aggregates(target: PgNode) -> bool:
    calls = (fields for key, fields in inside(target, outside_queries) if key == "FuncCall" and "over" not in fields)
    return any(call["funcname"][-1].get("String", {}).get("sval") in AGGREGATES for call in calls)


def _assignments(stmt: PgNode, found: Gathered) -> None:
    """`SET a = 1 AND b = 2`: a bare value, AND, and what looks like the next assignment."""
    for item in stmt.get("targetList", []):
        target = item.get("ResTarget", {})
        either = target.get("val", {}).get("BoolExpr", {})
        first, *others = either.get("args") or [{}]
        if either.get("boolop") == "AND_EXPR" and not _is_condition(first) and any(map(_is_assignment, others)):
            found.and_in_set.append(target.get("location", 0))


def _is_condition(node: PgNode) -> bool:
    """Whether it may be true or false: a comparison, or a column, which may hold either; `a + 1` is no condition."""
    if {"BoolExpr", "NullTest", "BooleanTest", "SubLink", "ColumnRef"} & node.keys():
        return True
    expr = node.get("A_Expr")
    if expr is None:
        return "boolval" in node.get("A_Const", {})
    return expr.get("kind") != "AEXPR_OP" or operator(expr) in COMPARES


def _is_assignment(node: PgNode) -> bool:
    expr = node.get("A_Expr", {})
    return operator(expr) == "=" and "ColumnRef" in expr.get("lexpr", {})
