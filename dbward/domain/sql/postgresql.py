"""PostgreSQL: what each statement of a text is, judged on the tree of the server's own grammar.

Our lexer cuts the text and takes the comments out; the grammar reads the text both before and after that, and all three
must agree. Everything is looked up in tables of what is known (`postgresql_tables`, `postgresql_names`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dbward.domain.model import Dialect
from dbward.domain.sql.cut import Piece, cut
from dbward.domain.sql.pgtree import LOCATIONS, PgNode, PgStatement, parse_postgresql
from dbward.domain.sql.postgresql_names import FUNCTIONS, FUNCTIONS_OF_LATER_VERSIONS, OPERATORS, TYPES
from dbward.domain.sql.postgresql_tables import (
    ALTERATIONS,
    ALTERATIONS_OF_SCRIPTS,
    EXPLAINED,
    FIELD_NODES,
    GRANTED,
    HOLDING_ROWS,
    LIBRARIES,
    NAMED_KINDS,
    NODES,
    OBJECTS,
    OBJECTS_OF_SCRIPTS,
    RENAMED,
    SAMPLING,
    SCRIPTED,
    SETTINGS,
    STATEMENTS,
    TIMEOUT_MAX_MS,
    TIMEOUTS,
    Known,
)
from dbward.domain.sql.statements import Kind, Statement
from dbward.errors import Invalid

_NAME_MAX = 63
_DURATION = re.compile(r"([0-9]{1,9})\s*(ms|s|)")
_UTF8 = frozenset({"utf8", "utf-8", "unicode"})


@dataclass(frozen=True, slots=True)
class _Rules:
    """What may be asked for: types of statements, and what DDL may be about."""

    statements: Mapping[str, Known]
    objects: frozenset[str]
    renamed: frozenset[str]
    alterations: frozenset[str]


_AD_HOC: Final = _Rules(STATEMENTS, OBJECTS, RENAMED, ALTERATIONS)
_SCRIPT: Final = _Rules(
    {**STATEMENTS, **SCRIPTED},
    OBJECTS | OBJECTS_OF_SCRIPTS,
    RENAMED | OBJECTS_OF_SCRIPTS,
    ALTERATIONS | ALTERATIONS_OF_SCRIPTS,
)


def classify_postgresql(text: str, *, vouched: Collection[str] = (), script: bool = False) -> tuple[Statement, ...]:
    """Every statement of `text`. `vouched`: lower-case function names, with a schema or without, that are trusted;
    `script`: it is a file of a migration, which may also hold code, types, schemas, extensions and rights.

    Raises `Invalid`: `sql.unparsable` when the readings do not agree or there is none, `sql.rejected` for what is not
    to be asked for here.
    """
    pieces = cut(text, Dialect.POSTGRESQL, script=script)
    parsed = parse_postgresql(text)
    rules = _SCRIPT if script else _AD_HOC
    for statement in parsed:
        if statement.type not in rules.statements:
            raise _rejected(f"{_words_of(statement.type)} is not among the statements that may be asked for here")
    if len(parsed) != len(pieces):
        raise Invalid("the SQL is not understood the same way twice", code="sql.unparsable")
    return tuple(
        _statement(piece, found, parsed if piece.text == text else parse_postgresql(piece.text), vouched, rules)
        for piece, found in zip(pieces, parsed, strict=True)
    )


def _statement(
    piece: Piece, found: PgStatement, again: Sequence[PgStatement], vouched: Collection[str], rules: _Rules
) -> Statement:
    """`found` as it was read in the whole text, `again` what the piece alone says."""
    known = rules.statements[found.type]
    same = len(again) == 1 and (again[0] is found or _shape(again[0].node) == _shape(found.node))
    if piece.first not in known.starts or not same:
        raise Invalid("the SQL reads differently without its comments", code="sql.unparsable")
    node = again[0].node
    kind, reasons = _judge(found.type, node[found.type], known, vouched, rules)
    return Statement(text=piece.text, start=piece.start, verb=known.verb, kind=kind, reasons=reasons, tree=node)


def _words_of(type_: str) -> str:
    """CREATE FUNCTION for the grammar's CreateFunctionStmt."""
    return " ".join(re.findall("[A-Z][a-z]*", type_.removesuffix("Stmt"))).upper()


def _judge(
    type_: str, fields: PgNode, known: Known, vouched: Collection[str], rules: _Rules
) -> tuple[Kind, tuple[str, ...]]:
    """The kind, and why it is no read. Raises `Invalid` when it is not to be asked for."""
    match type_:
        case "SelectStmt":
            reasons = _why_no_read(fields, vouched)
            return (Kind.DML if reasons else Kind.SELECT), reasons
        case "ExplainStmt":
            return _explain(fields, vouched)
        case "VariableSetStmt":
            _check_set(fields)
            return Kind.SELECT, ()
        case "VariableShowStmt":
            return Kind.SELECT, ()
        case _ if type_ in SCRIPTED:
            _check_scripted(type_, fields)
            return known.kind, (f"statement:{known.verb.lower()}", f"code:{_words_of(type_).lower().replace(' ', '_')}")
        case _:
            unknown = {_check_object(type_, fields, rules)} & (OBJECTS_OF_SCRIPTS - RENAMED)
            unknown |= _alterations(fields) & ALTERATIONS_OF_SCRIPTS if type_ == "AlterTableStmt" else set()
            code = tuple(f"code:{_said(one)}" for one in sorted(unknown))
            return known.kind, (f"statement:{known.verb.lower()}", *code, *_unvouched(fields, vouched))


def _explain(fields: PgNode, vouched: Collection[str]) -> tuple[Kind, tuple[str, ...]]:
    """ANALYZE runs the statement. Without it, planning may still run functions of the user, and planning to make a
    temporary table makes the schema for it.
    """
    inner = fields.get("query", {})
    type_ = next(iter(inner), "")
    if type_ not in EXPLAINED:
        raise _rejected("EXPLAIN of this statement is refused")
    kind, reasons = _judge(type_, inner[type_], STATEMENTS[type_], vouched, _AD_HOC)
    if _analyzes(fields.get("options", ())):
        return kind, reasons
    planned = tuple(reason for reason in reasons if reason.startswith("unvouched_") or reason == "select_into")
    if type_ == "CreateTableAsStmt":
        planned = ("statement:explain", *planned)
    return (Kind.DML if planned else Kind.SELECT), planned


def _analyzes(options: Sequence[PgNode]) -> bool:
    """The last ANALYZE of the list decides; without a value it is on, and what is no clear `off` is on, too."""
    on = False
    for option in options:
        element = option.get("DefElem", {})
        if element.get("defname", "").lower() == "analyze":
            on = "arg" not in element or _text(element["arg"]).lower() not in {"false", "off", "0", "f", "no", "n"}
    return on


def _check_set(fields: PgNode) -> None:
    name = fields.get("name", "").lower()
    kind = fields.get("kind")
    values = [_text(value) for value in fields.get("args", ())]
    if kind == "VAR_SET_DEFAULT" and name in SETTINGS:
        return
    if kind == "VAR_SET_VALUE" and "\0" not in values:
        if name in SETTINGS:
            return
        if name in TIMEOUTS and len(values) == 1 and _shortens(values[0]):
            return
        if name == "client_encoding" and len(values) == 1 and values[0].lower() in _UTF8:
            return
    raise _rejected(
        f"SET {name[:_NAME_MAX] or 'of this kind'} is refused: it would lift a limit or change how SQL is read",
        hint="allowed are " + ", ".join(sorted(SETTINGS)) + f", and time-outs up to {TIMEOUT_MAX_MS // 1000} s",
    )


def _shortens(value: str) -> bool:
    found = _DURATION.fullmatch(value.strip().lower())
    if found is None:
        return False
    return 0 < int(found[1]) * (1000 if found[2] == "s" else 1) <= TIMEOUT_MAX_MS


def _check_object(type_: str, fields: PgNode, rules: _Rules) -> str:
    """What the DDL is about, as the grammar calls it: by default tables, views, indexes and sequences only.

    Raises `Invalid` when `rules` do not know it.
    """
    match type_:
        case "DropStmt":
            dropped = _one_of(fields.get("removeType"), rules.objects)
            if dropped in HOLDING_ROWS and fields.get("behavior") == "DROP_CASCADE":
                raise _rejected(
                    f"DROP {_said(dropped).upper()} with CASCADE deletes tables or columns that it does not name",
                    hint="drop these by name first, where the review sees them, and leave CASCADE out",
                )
            return dropped
        case "AlterTableStmt":
            for alteration in _alterations(fields):
                _one_of(alteration, rules.alterations)
            return _one_of(fields.get("objtype"), rules.objects)
        case "RenameStmt":
            of = OBJECTS | {"OBJECT_ACCESS_METHOD", "OBJECT_UNDEFINED"}
            _one_of(fields.get("relationType", "OBJECT_TABLE"), rules.objects | of)
            return _one_of(fields.get("renameType"), rules.renamed)
        case "AlterObjectSchemaStmt":
            return _one_of(fields.get("objectType"), rules.objects)
        case "CommentStmt":
            return _one_of(fields.get("objtype"), rules.renamed)
        case "CreateTableAsStmt":
            return _one_of(next(iter(fields.get("query", {})), ""), frozenset({"SelectStmt"}))
        case _:
            return ""


def _alterations(fields: PgNode) -> set[str]:
    """What an ALTER TABLE does, as the grammar calls it."""
    return {command.get("AlterTableCmd", {}).get("subtype", "") for command in fields.get("cmds", ())}


def _check_scripted(type_: str, fields: PgNode) -> None:
    """Raises `Invalid` for what reaches beyond the database: settings, files and libraries of its server."""
    match type_:
        case "GrantStmt":
            _one_of(fields.get("objtype"), GRANTED)
        case "AlterOwnerStmt":
            _one_of(fields.get("objectType"), OBJECTS | OBJECTS_OF_SCRIPTS)
        case "CreateFunctionStmt":
            options = [option.get("DefElem", {}) for option in fields.get("options", ())]
            languages = [_text(one.get("arg", {})).lower() for one in options if one.get("defname") == "language"]
            if LIBRARIES & set(languages):
                raise _rejected("a function out of a library of the server is refused")
        case _:
            return


def _one_of(found: str | None, known: Collection[str]) -> str:
    if found is None or found not in known:
        raise _rejected(
            f"DDL is possible for tables, views, indexes and sequences only, not for {_said(found or 'this')}"
        )
    return found


def _said(object_: str) -> str:
    return object_.removeprefix("OBJECT_").removeprefix("AT_").lower()


def _why_no_read(fields: PgNode, vouched: Collection[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for type_, node in _nodes("SelectStmt", fields):
        if type_ not in NODES:
            found[_construct(type_)] = None
        for reason in _use(type_, node, vouched):
            found[reason] = None
    # In a statement that writes, what is unusual about its shape is no news.
    writes = any(reason.startswith("statement:") for reason in found)
    return tuple(reason for reason in found if not (writes and reason.startswith("construct:")))


def _construct(type_: str) -> str:
    match type_:
        case "IntoClause":
            return "select_into"
        case "LockingClause":
            return "row_lock"
        case "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt":
            return f"statement:{STATEMENTS[type_].verb.lower()}"
        case _:
            return f"construct:{type_}"[: _NAME_MAX + 10]


def _unvouched(fields: PgNode, vouched: Collection[str]) -> tuple[str, ...]:
    """Functions, types and operators of a write that nobody vouches for."""
    found: dict[str, None] = {}
    for type_, node in _nodes("", fields):
        for reason in _use(type_, node, vouched):
            found[reason] = None
    return tuple(found)


def _nodes(type_: str, fields: PgNode) -> Iterator[tuple[str, PgNode]]:
    """Every node with its type; for a field whose type is not known, the field's name in brackets.

    A stack of our own: depth costs memory, not recursion.
    """
    stack: list[tuple[str, Any]] = [(type_, fields)]
    while stack:
        type_, value = stack.pop()
        if isinstance(value, list):
            stack.extend((type_, item) for item in value)
            continue
        if not isinstance(value, dict) or (not value and type_.startswith("[")):
            continue  # an empty place in a list
        wrapped = next(iter(value), "")
        if len(value) == 1 and wrapped[:1].isupper():
            stack.append((wrapped, value[wrapped]))
            continue
        yield type_, value
        if type_ == "A_Const":
            continue
        for name, inner in value.items():
            if isinstance(inner, (dict, list)):
                stack.append((_field_type(type_, name, inner), inner))


def _field_type(type_: str, name: str, inner: Any) -> str:
    if isinstance(inner, list):
        return f"[{name}]"
    if name in {"larg", "rarg"} and type_ != "SelectStmt":
        return f"[{name}]"  # of a join, where it names its own type
    if name == "intoClause":
        return "IntoClause"
    return FIELD_NODES.get(name, f"[{name}]")


def _use(type_: str, node: PgNode, vouched: Collection[str]) -> Iterator[str]:
    """What of a node is not known to only compute."""
    match type_:
        case "FuncCall":
            name = _names(node.get("funcname", ()))
            known = FUNCTIONS if len(name) == 1 else FUNCTIONS | FUNCTIONS_OF_LATER_VERSIONS
            if not _builtin(name, known) and ".".join(name).lower() not in vouched:
                yield f"unvouched_function:{'.'.join(name)[:_NAME_MAX]}"
        case "TypeName":
            name = _names(node.get("names", ()))
            if not _builtin(name, TYPES) or node.get("pctType"):
                yield f"unvouched_type:{'.'.join(name)[:_NAME_MAX]}"
        case "A_Expr":
            name = _names(node.get("name", ()))
            if not _builtin(name, NAMED_KINDS.get(node.get("kind", ""), OPERATORS)):
                yield f"unvouched_operator:{'.'.join(name)[:_NAME_MAX]}"
        case "SubLink" | "SortBy":
            name = _names(node.get("operName") or node.get("useOp") or ())
            if name and not _builtin(name, OPERATORS):
                yield f"unvouched_operator:{'.'.join(name)[:_NAME_MAX]}"
        case "RangeTableSample":
            name = _names(node.get("method", ()))
            if not _builtin(name, SAMPLING):
                yield f"unvouched_function:{'.'.join(name)[:_NAME_MAX]}"


def _builtin(name: Sequence[str], known: Collection[str]) -> bool:
    return bool(name) and name[-1] in known and (len(name) == 1 or (len(name) == 2 and name[0] == "pg_catalog"))


def _names(parts: Sequence[PgNode]) -> tuple[str, ...]:
    return tuple(str(part.get("String", {}).get("sval", "?")) for part in parts)


def _text(node: PgNode) -> str:
    """A constant as text; something that no list holds for what is no constant."""
    constant = node.get("A_Const", node)
    for name in ("sval", "ival", "fval", "boolval"):
        if name in constant:
            inner = constant[name]
            return str(next(iter(inner.values()), 0 if name == "ival" else "") if isinstance(inner, Mapping) else inner)
    for name, inner in node.items():
        if name in {"String", "Integer", "Float", "Boolean"}:
            return str(next(iter(inner.values()), 0))
    return "\0"


def _shape(value: Any) -> Any:
    """The tree without its locations."""
    stack = [value]
    flat: list[Any] = []
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            # One at 0 is left out, so the names of the fields are compared without those, too.
            rest = {name: inner for name, inner in item.items() if name not in LOCATIONS}
            flat.append(tuple(rest))
            stack.extend(rest.values())
        elif isinstance(item, list):
            flat.append(len(item))
            stack.extend(item)
        else:
            flat.append(item)
    return flat


def _rejected(message: str, hint: str | None = None) -> Invalid:
    return Invalid(message, code="sql.rejected", hint=hint)
