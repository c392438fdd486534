"""Of which statements a database may be asked for its plan: planning may run what a statement calls."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from sqlglot import exp

from dbward.domain.model import Dialect
from dbward.domain.sql.facts_mysql_sqlite import name_of
from dbward.domain.sql.lex import Kind as Lexed
from dbward.domain.sql.lex import Token, tokenize
from dbward.domain.sql.reads import reason_in_tokens
from dbward.domain.sql.statements import Kind, Statement

_WRITES: Final = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE"})
_REASONS: Final = frozenset({"row_lock"} | {f"statement:{verb.lower()}" for verb in _WRITES})
"""Why a statement is no plain read although planning it touches nothing."""

_SOURCES: Final = frozenset({"SELECT", "WITH", "VALUES", "VALUE", "SET", "TABLE"})
"""What the rows of an INSERT begin with."""
_NAMES: Final = frozenset("(),.")
_HARMLESS: Final = _WRITES | {"INTO", "SET", "VALUES", "VALUE", "RETURNING"}
ALIASES_MAX: Final = 200


def why_no_plan(statement: Statement, dialect: Dialect, vouched: Collection[str] = ()) -> str | None:
    """Why the database is not to be asked how it would run the statement, for people; None when it may be.

    `vouched`: lower-case names of functions that are trusted to only compute.
    """
    verb = statement.verb or "this"
    if statement.kind not in (Kind.SELECT, Kind.DML) or verb not in _WRITES | {"SELECT"}:
        return f"{verb} has no plan"
    reason = next((it for it in statement.reasons if it not in _REASONS), None)
    if reason is None and verb in _WRITES and dialect is Dialect.MYSQL:
        reason = _calls(statement.text, vouched)
    return f"planning it may run something ({reason})" if reason is not None else None


def _calls(text: str, vouched: Collection[str]) -> str | None:
    """What in a change on MySQL is neither of its own words nor of a plain read; its classification does not say.

    MySQL fills derived tables and computes constants while it plans.
    """
    tokens = [token for token in tokenize(text, Dialect.MYSQL) if token.kind is not Lexed.COMMENT]
    if tokens and tokens[0].text in ("INSERT", "REPLACE"):
        at = next((at for at in range(len(tokens)) if _is_source(tokens, at)), len(tokens))
        if not _only_names(tokens[:at]):
            return "columns"
        tokens = tokens[at:]
    read = [Token(Lexed.WORD, 0, 0, "SELECT")]
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        call = after is not None and after.text == "(" and token.text in ("INSERT", "REPLACE")
        own = token.kind is Lexed.WORD and token.text in _HARMLESS and not call
        # A word that may stand before anything, a parenthesis too, as these may.
        read.append(token._replace(text="FROM") if own else token)
    return reason_in_tokens(read, Dialect.MYSQL, vouched)


def _is_source(tokens: Sequence[Token], at: int) -> bool:
    token, after = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else None
    if token.kind is Lexed.WORD and token.text in _SOURCES:
        return True
    return token.text == "(" and after is not None and after.kind is Lexed.WORD and after.text in _SOURCES


def _only_names(tokens: Sequence[Token]) -> bool:
    """INSERT INTO a name, with one list of names at most."""
    signs = [token.text for token in tokens if token.kind is Lexed.OP]
    named = all(token.kind in (Lexed.WORD, Lexed.QUOTED, Lexed.OP) for token in tokens)
    return named and set(signs) <= _NAMES and signs.count("(") <= 1


def aliases(statement: Statement) -> dict[str, str | None]:
    """What MySQL and SQLite will call each table, in lower case, to the table; None for rows made in the statement."""
    found: dict[str, str | None] = {}
    if not isinstance(statement.tree, exp.Expr):
        return found
    for node in statement.tree.find_all(exp.Subquery, exp.CTE):
        if node.alias:
            found[node.alias.lower()] = None
    made = frozenset(found)
    for table in statement.tree.find_all(exp.Table):
        name = name_of(table)
        if name is not None and not (name.schema is None and name.name.lower() in made):
            found[(table.alias or table.name).lower()] = str(name)
    return dict(list(found.items())[:ALIASES_MAX])
