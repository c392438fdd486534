"""What a classified statement does, to what, and how: the facts that review and risk look at."""

from __future__ import annotations

from typing import Final

from sqlglot import exp

from dbward.domain.model import Dialect
from dbward.domain.sql.facts_mysql_sqlite import read_tree
from dbward.domain.sql.facts_mysql_sqlite_ddl import read_ddl
from dbward.domain.sql.facts_postgresql import read_postgresql
from dbward.domain.sql.lex import words
from dbward.domain.sql.statements import Act, Deed, Facts, Flag, Kind, Statement

_DDL: Final = words("CREATE ALTER DROP TRUNCATE RENAME")
_MAINTENANCE: Final = words("ANALYZE VACUUM REINDEX OPTIMIZE CHECK CHECKSUM REPAIR")


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
        case verb if verb in _MAINTENANCE:
            return read_ddl(statement.text, dialect).frozen()
        case "CALL":
            return Facts(acts=(Act(Deed.CALL, None),))
        case _ if statement.tree is None:
            return Facts(known=statement.kind is Kind.SELECT)
        case _:
            found = read_tree(statement.tree)
            if "statement:explain" in statement.reasons:  # what is only explained is not done
                found.acts.clear()
                found.and_in_set.clear()
            return found.frozen()


def _of_ddl(statement: Statement, dialect: Dialect) -> Facts:
    """The tokens say what is done, the tree what the query of a view or of a new table reads."""
    found = read_ddl(statement.text, dialect)
    if any(Flag.AS_SELECT in act.flags for act in found.acts) or statement.tree.find(exp.Query) is not None:
        read = read_tree(statement.tree)
        read.acts = found.acts
        read.tables |= found.tables
        return read.frozen()
    return found.frozen()
