"""sqlglot behind a fence: bounded work, no log lines, and every way to fail is `Invalid`.

Its trees are a second opinion. What it cannot read is refused; that it can read something proves nothing by itself.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, ClassVar

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect as Grammar
from sqlglot.errors import ErrorLevel, SqlglotError

from dbward.domain.model import Dialect
from dbward.errors import Invalid

STEPS_PER_TOKEN = 8
STEPS_ANYWAY = 20_000
"""How many steps, back and forth, the parser may take; ordinary statements take fewer than three a token."""

logging.getLogger("sqlglot").disabled = True  # its warnings quote the statement, and SQL text never enters a log

_GRAMMARS = {Dialect.MYSQL: "mysql", Dialect.SQLITE: "sqlite"}


class _TooMuchWork(Exception):
    pass


def parse_statement(text: str, dialect: Dialect) -> exp.Expr:
    """The tree of the one statement in `text`, which holds no comments. Raises `Invalid` (code `sql.unparsable`)."""
    grammar, parser_class = _grammar(dialect)
    try:
        tokens = grammar.tokenize(text)
        parser = parser_class(dialect=grammar, error_level=ErrorLevel.IMMEDIATE)
        parser.steps_left = STEPS_PER_TOKEN * len(tokens) + STEPS_ANYWAY
        found: list[exp.Expr] = [tree for tree in parser.parse(tokens, text) if tree is not None]
    except (_TooMuchWork, RecursionError):
        raise Invalid("the SQL is nested too deeply to be checked", code="sql.unparsable") from None
    except SqlglotError as e:
        raise Invalid("the SQL is not understood" + _where(e), code="sql.unparsable") from None
    except Exception as e:  # noqa: BLE001 - a parser that trips over its input has not understood it
        raise Invalid(f"the SQL is not understood ({type(e).__name__})", code="sql.unparsable") from None
    if len(found) != 1:
        raise Invalid("the SQL is not understood as one statement", code="sql.unparsable")
    return found[0]


def _where(error: SqlglotError) -> str:
    details: list[dict[str, Any]] = getattr(error, "errors", [])
    if not details or details[0].get("line") is None:
        return ""
    first = details[0]
    return f": {first['description']} (line {first['line']}, column {first['col']})"


@cache
def _grammar(dialect: Dialect) -> tuple[Grammar, Any]:
    grammar = Grammar.get_or_raise(_GRAMMARS[dialect])
    grammar.INDEX_OFFSET = 0  # else every subscript has the types of all below it inferred, which is quadratic
    base: Any = grammar.parser_class

    class Bounded(base):  # type: ignore[misc]  # sqlglot picks the class at run time
        """Counts every step. Going back is one as well, so exponential cases are bounded, too."""

        FUNCTIONS: ClassVar[dict[str, Any]] = {}  # a call stays a call; some builders infer the types of all below
        steps_left = 0

        def _advance(self, times: int = 1) -> None:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise _TooMuchWork
            super()._advance(times)

    return grammar, Bounded
