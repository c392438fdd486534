"""What a classified statement does, to what, and how: the facts that review and risk look at."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sqlglot import exp

from dbward.domain.model import Dialect
from dbward.domain.sql.facts_mysql_sqlite import read_tree
from dbward.domain.sql.facts_mysql_sqlite_ddl import read_ddl
from dbward.domain.sql.facts_postgresql import read_postgresql
from dbward.domain.sql.lex import tokenize, words
from dbward.domain.sql.parse import parse_statement
from dbward.domain.sql.statements import Act, Deed, Facts, Flag, Kind, Statement

_DDL: Final = words("CREATE ALTER DROP TRUNCATE RENAME")
_MAINTENANCE: Final = words("ANALYZE VACUUM REINDEX OPTIMIZE CHECK CHECKSUM REPAIR")
_WRITES: Final = words("INSERT UPDATE DELETE REPLACE")
_PRIORITIES: Final = words("LOW_PRIORITY HIGH_PRIORITY DELAYED QUICK IGNORE")
"""What MySQL lets stand behind the verb of a write."""

_RUN: Final = words("( SELECT WITH VALUES INSERT UPDATE DELETE REPLACE")
"""Where the statement begins that EXPLAIN or ANALYZE is about."""


def facts(statement: Statement, dialect: Dialect) -> Facts:
    """Never raises. `known` is False for what cannot be seen into, unless it is a read, which does nothing."""
    try:
        if dialect is Dialect.POSTGRESQL:
            return read_postgresql(statement.tree, statement.text)
        return _read(statement, dialect)
    except Exception:  # noqa: BLE001 - what trips over a tree has not understood it
        return Facts(known=False)


def _read(statement: Statement, dialect: Dialect) -> Facts:
    """MySQL and SQLite. May raise what comes from a tree of another shape, or `Invalid`."""
    match statement.verb:
        case verb if verb in _DDL:
            return _of_ddl(statement, dialect)
        case "EXPLAIN" | "ANALYZE" if (run := _run(statement.text, dialect)) is not None:
            return run
        case verb if verb in _MAINTENANCE:
            return read_ddl(statement.text, dialect).frozen()
        case "CALL":
            return Facts(acts=(Act(Deed.CALL, None),))
        case _ if statement.tree is None:
            return Facts(known=statement.kind is Kind.SELECT)
        case verb if verb in _WRITES and (readable := _readable(statement.text, dialect)) != statement.text:
            return read_tree(parse_statement(readable, dialect)).frozen()
        case _:
            return read_tree(statement.tree).frozen()


def _of_ddl(statement: Statement, dialect: Dialect) -> Facts:
    """The tokens say what is done, the tree what the query of a view or of a new table reads."""
    found = read_ddl(statement.text, dialect)
    if any(Flag.AS_SELECT in act.flags for act in found.acts) or statement.tree.find(exp.Query) is not None:
        read = read_tree(statement.tree)
        read.acts = found.acts
        read.tables |= found.tables
        return read.frozen()
    return found.frozen()


def _run(text: str, dialect: Dialect) -> Facts | None:
    """What EXPLAIN or MariaDB's ANALYZE is about; without ANALYZE it is not done. None when that is no statement."""
    analyzed = False
    for token in tokenize(text, dialect):
        analyzed |= token.text == "ANALYZE"
        if token.text in _RUN:
            readable = _readable(text, dialect)
            found = read_tree(parse_statement(" " * token.start + readable[token.start :], dialect)).frozen()
            return found if analyzed else replace(found, acts=(), and_in_set=())
    return None


def _readable(text: str, dialect: Dialect) -> str:
    """The text as the parser knows it, with everything in its place.

    REPLACE is an INSERT that deletes what is in its way; words such as LOW_PRIORITY would be taken for a table's name.
    """
    parts: list[str] = []
    end = 0
    begun = behind_verb = False
    for token in tokenize(text, dialect):
        if behind_verb and token.text in _PRIORITIES:
            word = ""
        elif not begun and token.text == "REPLACE":
            word = "INSERT"
        else:
            word = text[token.start : token.end]
        behind_verb = token.text in _WRITES or (behind_verb and not word)
        begun = begun or token.text in _RUN
        parts += (text[end : token.start], word.ljust(token.end - token.start))
        end = token.end
    return "".join((*parts, text[end:]))
