"""What PostgreSQL's DDL and maintenance statements do, as tables: node type to deed.

A command of ALTER TABLE that has no deed of its own is an `ALTER_TABLE`, so nothing is ever passed over in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from dbward.domain.model import Dialect
from dbward.domain.sql.lex import Token, tokenize, words
from dbward.domain.sql.pgtree import PgNode
from dbward.domain.sql.statements import Act, Deed, Flag, Name

TABLES: Final = frozenset(
    {"OBJECT_TABLE", "OBJECT_FOREIGN_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW", "REINDEX_OBJECT_TABLE"}
)
"""The kinds of objects whose name is a table's for us; an index or a sequence is none."""

_DROPS: Final = {
    "OBJECT_TABLE": Deed.DROP_TABLE,
    "OBJECT_FOREIGN_TABLE": Deed.DROP_TABLE,
    "OBJECT_VIEW": Deed.DROP_VIEW,
    "OBJECT_MATVIEW": Deed.DROP_VIEW,
    "OBJECT_INDEX": Deed.DROP_INDEX,
    "OBJECT_SEQUENCE": Deed.DROP_SEQUENCE,
}

_COMMANDS: Final = {
    "AT_DropColumn": Deed.DROP_COLUMN,
    "AT_AlterColumnType": Deed.ALTER_COLUMN_TYPE,
    "AT_SetNotNull": Deed.SET_NOT_NULL,
    "AT_ValidateConstraint": Deed.VALIDATE_CONSTRAINT,
}

_CONSTRAINTS: Final = {
    "CONSTR_FOREIGN": Deed.ADD_FOREIGN_KEY,
    "CONSTR_CHECK": Deed.ADD_CHECK,
    "CONSTR_UNIQUE": Deed.ADD_UNIQUE,
    "CONSTR_PRIMARY": Deed.ADD_UNIQUE,
    "CONSTR_NOTNULL": Deed.SET_NOT_NULL,
}

_RENAMES: Final = {"OBJECT_COLUMN": Deed.RENAME_COLUMN} | dict.fromkeys(TABLES, Deed.RENAME_TABLE)

_BEFORE_NAMES: Final = words("FOREIGN MATERIALIZED TABLE VIEW INDEX SEQUENCE CONCURRENTLY IF EXISTS")
"""What may stand between DROP and the first name."""

_SERIAL: Final = frozenset({"serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"})


def name_of(relation: PgNode) -> Name:
    return Name(relation["relname"], relation.get("schemaname"))


def name_in(node: PgNode) -> Name:
    """The name in a list of its parts; the catalog is dropped."""
    items = node["List"]["items"] if "List" in node else [node]
    parts = [item["String"].get("sval", "") for item in items if "String" in item]
    return Name(parts[-1] if parts else "", parts[-2] if len(parts) > 1 else None)


def flags_of(stmt: PgNode, **fields: Flag) -> frozenset[Flag]:
    """The flags of those fields that are true."""
    return frozenset(flag for name, flag in fields.items() if stmt.get(name))


def switched_on(options: list[PgNode], name: str) -> bool:
    """A boolean option as the server reads it: the last one wins, and a name alone means yes."""
    on = False
    for option in options:
        element = option.get("DefElem", {})
        if element.get("defname") == name:
            on = _truth(element.get("arg"))
    return on


def _truth(arg: PgNode | None) -> bool:
    if arg is None:
        return True
    if "Integer" in arg:
        return bool(arg["Integer"].get("ival", 0))
    if "Boolean" in arg:
        return bool(arg["Boolean"].get("boolval", False))
    return str(arg.get("String", {}).get("sval", "")).lower() not in ("false", "off")  # others are refused anyway


def _temporary(relation: PgNode) -> frozenset[Flag]:
    return frozenset({Flag.TEMPORARY} if relation.get("relpersistence") == "t" else ())


def _create_table(stmt: PgNode) -> Iterator[Act]:
    relation = stmt["relation"]
    flags = _temporary(relation) | flags_of(stmt, if_not_exists=Flag.IF_NOT_EXISTS)
    yield Act(Deed.CREATE_TABLE, name_of(relation), relation.get("location", 0), flags=flags)


def created_from_query(into: PgNode, object_type: str = "OBJECT_TABLE") -> Act:
    """CREATE TABLE AS, SELECT INTO and CREATE MATERIALIZED VIEW."""
    relation = into["rel"]
    is_view = object_type == "OBJECT_MATVIEW"
    flags = _temporary(relation) | {Flag.AS_SELECT} | ({Flag.MATERIALIZED} if is_view else set())
    deed = Deed.CREATE_VIEW if is_view else Deed.CREATE_TABLE
    return Act(deed, name_of(relation), relation.get("location", 0), flags=flags)


def _create_table_as(stmt: PgNode) -> Iterator[Act]:
    act = created_from_query(stmt["into"], stmt.get("objtype", ""))
    yield replace(act, flags=act.flags | flags_of(stmt, if_not_exists=Flag.IF_NOT_EXISTS))


def _create_view(stmt: PgNode) -> Iterator[Act]:
    view = stmt["view"]
    flags = _temporary(view) | {Flag.AS_SELECT} | flags_of(stmt, replace=Flag.OR_REPLACE)
    yield Act(Deed.CREATE_VIEW, name_of(view), view.get("location", 0), flags=flags)


def _create_index(stmt: PgNode) -> Iterator[Act]:
    relation = stmt["relation"]
    flags = flags_of(stmt, concurrent=Flag.CONCURRENTLY)
    yield Act(Deed.CREATE_INDEX, name_of(relation), relation.get("location", 0), flags=flags)


def _create_sequence(stmt: PgNode) -> Iterator[Act]:
    sequence = stmt["sequence"]
    yield Act(Deed.CREATE_SEQUENCE, name_of(sequence), sequence.get("location", 0), flags=_temporary(sequence))


def _drop(stmt: PgNode) -> Iterator[Act]:
    deed = _DROPS.get(stmt.get("removeType", ""))
    if deed is None:
        return
    flags = flags_of(stmt, concurrent=Flag.CONCURRENTLY) | _cascade(stmt)
    if stmt.get("removeType") == "OBJECT_MATVIEW":
        flags |= {Flag.MATERIALIZED}
    for item in stmt.get("objects", []):
        yield Act(deed, name_in(item), item.get("List", {}).get("location", 0), flags=flags)


def _cascade(stmt: PgNode) -> frozenset[Flag]:
    return frozenset({Flag.CASCADE} if stmt.get("behavior") == "DROP_CASCADE" else ())


def _truncate(stmt: PgNode) -> Iterator[Act]:
    for item in stmt.get("relations", []):
        relation = item["RangeVar"]
        yield Act(Deed.TRUNCATE, name_of(relation), relation.get("location", 0), flags=_cascade(stmt))


def _rename(stmt: PgNode) -> Iterator[Act]:
    relation = stmt.get("relation")
    if relation is None:
        return
    on_table = stmt.get("relationType") in TABLES or stmt.get("renameType") in TABLES
    deed = _RENAMES.get(stmt.get("renameType", ""), Deed.ALTER_TABLE) if on_table else Deed.ALTER_TABLE
    table = name_of(relation) if on_table else None
    yield Act(deed, table, relation.get("location", 0), column=stmt.get("subname"))


def _set_schema(stmt: PgNode) -> Iterator[Act]:
    """A table in another schema is a table by another name."""
    relation = stmt.get("relation")
    if relation is not None:
        moved = stmt.get("objectType") in TABLES
        deed = Deed.RENAME_TABLE if moved else Deed.ALTER_TABLE
        yield Act(deed, name_of(relation) if moved else None, relation.get("location", 0))


def with_places(node: PgNode, text: str) -> PgNode:
    """The tree with a `location` in each command of ALTER TABLE and each name after DROP.

    The grammar does not say where they stand; the commas between them do.
    """
    type_, stmt = next(iter(node.items()))
    field, inner = {"AlterTableStmt": ("cmds", "AlterTableCmd"), "DropStmt": ("objects", "List")}.get(type_, ("", ""))
    items = stmt.get(field, [])
    if not items:
        return node
    tokens = tokenize(text, Dialect.POSTGRESQL)
    first = _behind_name(tokens, stmt) if type_ == "AlterTableStmt" else _behind_kind(tokens)
    places = _between_commas(tokens[first:])
    if len(places) != len(items):
        return node
    placed = [{inner: {**item[inner], "location": place}} for item, place in zip(items, places, strict=True)]
    return {type_: {**stmt, field: placed}}


def _behind_name(tokens: Sequence[Token], stmt: PgNode) -> int:
    """Behind the name of the table that is altered, and the `*` for its children."""
    table = stmt["relation"].get("location", 0)
    at = next((index for index, token in enumerate(tokens) if token.start >= table), 0) + 1
    while at < len(tokens) and tokens[at].text in {".", "*"}:
        at += 2 if tokens[at].text == "." else 1
    return at


def _behind_kind(tokens: Sequence[Token]) -> int:
    """Behind DROP TABLE IF EXISTS and the like."""
    at = 1
    while at < len(tokens) - 1 and tokens[at].text in _BEFORE_NAMES:
        at += 1
    return at


def _between_commas(tokens: Sequence[Token]) -> list[int]:
    """Where each part of a list begins."""
    places: list[int] = []
    depth, begins = 0, True
    for token in tokens:
        if begins:
            places.append(token.start)
        depth += (token.text in {"(", "["}) - (token.text in {")", "]"})
        begins = token.text == "," and depth == 0
    return places


def _alter_table(stmt: PgNode) -> Iterator[Act]:
    relation = stmt["relation"]
    at = relation.get("location", 0)
    if stmt.get("objtype") not in TABLES:
        yield Act(Deed.ALTER_TABLE, None, at)
        return
    table = name_of(relation)
    for item in stmt.get("cmds", []):
        command = item["AlterTableCmd"]
        subtype = command.get("subtype", "")
        definition = command.get("def", {})
        place = command.get("location", at)
        if subtype == "AT_AddColumn":
            yield from _add_column(table, definition["ColumnDef"], place)
        elif subtype == "AT_AddConstraint":
            yield _add_constraint(table, definition["Constraint"], place)
        else:
            yield _alter(table, command, place)


def _alter(table: Name, command: PgNode, at: int) -> Act:
    deed = _COMMANDS.get(command.get("subtype", ""), Deed.ALTER_TABLE)
    named = command.get("name")
    if deed is Deed.VALIDATE_CONSTRAINT:
        return Act(deed, table, at, constraint=named)
    return Act(deed, table, at, named, _cascade(command))


def _add_column(table: Name, column: PgNode, at: int) -> Iterator[Act]:
    named = column.get("colname")
    constraints = [item["Constraint"] for item in column.get("constraints", [])]
    kinds = {constraint["contype"] for constraint in constraints}
    types = column.get("typeName", {}).get("names", [])
    serial = bool(types) and types[-1].get("String", {}).get("sval") in _SERIAL
    made = serial or bool(kinds & {"CONSTR_IDENTITY", "CONSTR_GENERATED"}) or any(map(_gives_default, constraints))
    flags = {Flag.DEFAULT} if made else set()
    if kinds & {"CONSTR_NOTNULL", "CONSTR_PRIMARY"}:
        flags.add(Flag.NOT_NULL)
    yield Act(Deed.ADD_COLUMN, table, at, named, frozenset(flags))
    for constraint in constraints:
        deed = _CONSTRAINTS.get(constraint["contype"])
        if deed in (Deed.ADD_FOREIGN_KEY, Deed.ADD_CHECK, Deed.ADD_UNIQUE):
            # A column without a default holds NULL everywhere, and the server knows that no reference can be wrong.
            unchecked = deed is Deed.ADD_FOREIGN_KEY and not made
            more = frozenset({Flag.NOT_VALID} if unchecked else ())
            yield Act(deed, table, constraint.get("location", at), named if deed is not Deed.ADD_CHECK else None, more)


def _gives_default(constraint: PgNode) -> bool:
    value = constraint.get("raw_expr", {})
    return constraint["contype"] == "CONSTR_DEFAULT" and not value.get("A_Const", {}).get("isnull", False)


def _add_constraint(table: Name, constraint: PgNode, at: int) -> Act:
    deed = _CONSTRAINTS.get(constraint["contype"], Deed.ALTER_TABLE)
    flags = flags_of(constraint, skip_validation=Flag.NOT_VALID, indexname=Flag.USING_INDEX)
    keys = constraint.get("keys") or constraint.get("fk_attrs") or []
    column = keys[0]["String"]["sval"] if len(keys) == 1 else _not_null_in(constraint.get("raw_expr", {}))
    return Act(deed, table, at, column, flags, constraint.get("conname"))


def _not_null_in(check: PgNode) -> str | None:
    """The column of `CHECK (column IS NOT NULL)`."""
    test = check.get("NullTest", {})
    fields = test.get("arg", {}).get("ColumnRef", {}).get("fields", [])
    if test.get("nulltesttype") != "IS_NOT_NULL" or len(fields) != 1:
        return None
    return str(fields[0]["String"]["sval"]) if "String" in fields[0] else None


def _vacuum(stmt: PgNode) -> Iterator[Act]:
    full = switched_on(stmt.get("options", []), "full")
    flags = frozenset({Flag.FULL} if full and stmt.get("is_vacuumcmd") else ())
    for item in stmt.get("rels", []) or [{}]:
        relation = item.get("VacuumRelation", {}).get("relation")
        table = name_of(relation) if relation else None
        yield Act(Deed.MAINTENANCE, table, (relation or {}).get("location", 0), flags=flags)


def _maintain(stmt: PgNode) -> Iterator[Act]:
    relation = stmt.get("relation")
    is_table = relation is not None and stmt.get("kind", "REINDEX_OBJECT_TABLE") in TABLES
    options = stmt.get("params", [])
    concurrently = stmt.get("concurrent") or switched_on(options, "concurrently")
    flags = frozenset({Flag.CONCURRENTLY} if concurrently else ())
    yield Act(
        Deed.MAINTENANCE,
        name_of(relation) if relation and is_table else None,
        (relation or {}).get("location", 0),
        flags=flags,
    )


def _cluster(stmt: PgNode) -> Iterator[Act]:
    """CLUSTER writes the table anew under the same lock as VACUUM FULL."""
    for act in _maintain(stmt):
        yield Act(act.deed, act.table, act.at, flags=frozenset({Flag.FULL}))


ACTS: Final[Mapping[str, Callable[[PgNode], Iterator[Act]]]] = {
    "CreateStmt": _create_table,
    "CreateTableAsStmt": _create_table_as,
    "ViewStmt": _create_view,
    "IndexStmt": _create_index,
    "CreateSeqStmt": _create_sequence,
    "DropStmt": _drop,
    "TruncateStmt": _truncate,
    "RenameStmt": _rename,
    "AlterObjectSchemaStmt": _set_schema,
    "AlterTableStmt": _alter_table,
    "VacuumStmt": _vacuum,
    "ClusterStmt": _cluster,
    "ReindexStmt": _maintain,
    "RefreshMatViewStmt": _maintain,
}
"""What each statement does. One that is not here, and no query or write either, does nothing that a rule knows."""
