"""PostgreSQL's own grammar (libpg_query) behind a fence: one statement list in, plain dictionaries out.

The only module that knows which binding it is. A node is `{"SelectStmt": {"targetList": […], …}}`, with the names of
libpg_query's JSON form; fields that hold their default (0, false, empty) are left out, so a missing `location` is 0.
Locations are offsets in characters of the text that was parsed, not in bytes.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from google.protobuf.internal import api_implementation, decoder
from postgast import PgQueryError, parse

from dbward.domain.model import Dialect
from dbward.domain.sql.lex import Kind as Lexed
from dbward.domain.sql.lex import tokenize, words
from dbward.errors import Invalid

CHAIN_MAX: Final = 1_000
"""Operators and joins in a row. Each is a level of the tree, the grammar's library recurses over the levels in C, and
some 3,000 of them overflow a stack of 1 MiB, which ends the process."""

SCAN_MAX: Final = 5_000_000
"""Characters that the grammar's scanner may have to look at again: it reads to the end of a run of operator signs at
every `/*` in it, and 400 KB of `/**/` would keep it busy for minutes."""
_OPERATOR_RUN: Final = re.compile(r"[-~!@#^&|`?+*/%<>=]{64,}")

PgNode = dict[str, Any]

LOCATIONS: Final = frozenset(
    {"location", "name_location", "stmt_location", "stmt_len", "list_start", "list_end"}
    | {"rexpr_list_start", "rexpr_list_end"}
)
"""Fields that say where something stands in the text, not what it is."""

_JOINS: Final = words("JOIN UNION INTERSECT EXCEPT")
_OPERATORS: Final = words("NOT COLLATE IS ISNULL NOTNULL AT IN LIKE ILIKE SIMILAR BETWEEN OVERLAPS OPERATOR")
"""Words that hang one level of the tree on the last, as joins and operators do."""
_NO_OPERATORS: Final = frozenset({".", ":", "]"})
_LISTS: Final = frozenset({",", "AND", "OR"})
"""What has the parts on both sides on one level."""


def _allow_depth() -> None:
    """Lift protobuf's limit of 100 levels, which fifty operators in a row reach. Python's own limit on recursion holds.

    Neither implementation of protobuf has a public name for it.
    """
    if api_implementation.Type() == "upb":
        importlib.import_module("google._upb._message").SetAllowOversizeProtos(True)  # noqa: FBT003 - its signature
    else:
        decoder.SetRecursionLimit(10 * CHAIN_MAX)


_allow_depth()


@dataclass(frozen=True, slots=True)
class PgStatement:
    """`node` has one key, the statement's node type. `start` and `end` are offsets in characters."""

    node: PgNode
    start: int
    end: int

    @property
    def type(self) -> str:
        return next(iter(self.node), "")


def parse_postgresql(text: str) -> tuple[PgStatement, ...]:
    """Every statement of `text`. Raises `Invalid` (code `sql.unparsable`), whatever way the parser fails."""
    _refuse_comment_runs(text)
    _refuse_chains(text)
    try:
        tree = parse(text)
        in_characters = _offsets(text)
        found = tuple(_statement(raw, text, in_characters) for raw in tree.stmts)
    except PgQueryError as e:
        raise Invalid(f"PostgreSQL's grammar says: {_said(e)}{_where(text, e)}", code="sql.unparsable") from None
    except RecursionError:
        raise Invalid("the SQL is nested too deeply to be checked", code="sql.unparsable") from None
    except Exception as e:  # noqa: BLE001 - what trips over its input has not understood it
        # protobuf's DecodeError, above all: its own limit on depth
        raise Invalid(f"the SQL cannot be checked ({type(e).__name__})", code="sql.unparsable") from None
    if any(len(statement.node) != 1 for statement in found):
        raise Invalid("the SQL is not understood", code="sql.unparsable")
    return found


def _refuse_comment_runs(text: str) -> None:
    runs = (found.group() for found in _OPERATOR_RUN.finditer(text))
    if sum(run.count("/*") * len(run) for run in runs) > SCAN_MAX:
        raise Invalid(
            "too many comments without a space between them", code="sql.rejected", hint="take the comments out"
        )


def _refuse_chains(text: str) -> None:
    """Raises `Invalid` for what would be too deep a tree, before anything builds it."""
    if len(text) < CHAIN_MAX:
        return
    outside: list[tuple[int, int]] = []
    joins = operators = 0
    for token in tokenize(text, Dialect.POSTGRESQL):
        sign = token.text if token.kind is Lexed.OP else ""
        if sign == "(":
            outside.append((joins, operators))
        elif sign == ")":
            joins, operators = outside.pop() if outside else (0, 0)
        elif sign == ";":
            joins = operators = 0
        elif token.text in _LISTS:
            operators = outside[-1][1] if outside else 0
        elif token.text in _JOINS:
            joins += 1
        elif token.text in _OPERATORS or (sign and sign not in _NO_OPERATORS):
            operators += 1
        if joins + operators > CHAIN_MAX:
            raise Invalid(f"more than {CHAIN_MAX:,} operators or joins in a row", code="sql.unparsable")


def _statement(raw: Any, text: str, in_characters: Callable[[int], int]) -> PgStatement:
    start = in_characters(raw.stmt_location)
    end = in_characters(raw.stmt_location + raw.stmt_len) if raw.stmt_len else len(text)
    return PgStatement(_node(raw.stmt, in_characters), start, end)


def _node(message: Any, in_characters: Callable[[int], int]) -> Any:
    """A protobuf message as the dictionary that libpg_query's JSON form has for it."""
    fields: dict[str, Any] = {}
    is_wrapper = message.DESCRIPTOR.name == "Node"
    for field, value in message.ListFields():
        name, kind, repeated, enum_names = _shape(field)
        if kind == "message":
            inner = [_node(item, in_characters) for item in value] if repeated else _node(value, in_characters)
            fields[field.message_type.name if is_wrapper else name] = inner
        elif kind == "enum":
            fields[name] = [enum_names[item] for item in value] if repeated else enum_names[value]
        elif name in LOCATIONS:
            fields[name] = in_characters(value) if value > 0 else value
        else:
            fields[name] = list(value) if repeated else value
    return fields


@cache
def _shape(field: Any) -> tuple[str, str, bool, dict[int, str]]:
    kind = "message" if field.message_type is not None else "enum" if field.enum_type is not None else "scalar"
    names = {value.number: value.name for value in field.enum_type.values} if kind == "enum" else {}
    return field.json_name, kind, field.is_repeated, names


def _offsets(text: str) -> Callable[[int], int]:
    """From an offset in UTF-8 bytes to one in characters."""
    if text.isascii():
        return lambda at: at
    encoded = text.encode()
    return lambda at: len(encoded[:at].decode(errors="ignore"))


def _said(error: PgQueryError) -> str:
    return str(error.message) or "syntax error"


def _where(text: str, error: PgQueryError) -> str:
    """`cursorpos` counts bytes from 1; 0 says nothing."""
    if error.cursorpos <= 0:
        return ""
    before = text.encode()[: error.cursorpos - 1].decode(errors="ignore")
    return f" (line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))})"
