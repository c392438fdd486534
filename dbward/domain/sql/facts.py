"""What a classified statement does, to what, and how: the facts that review and risk look at."""

from __future__ import annotations

from dbward.domain.model import Dialect
from dbward.domain.sql.facts_postgresql import read_postgresql
from dbward.domain.sql.statements import Facts, Kind, Statement

_UNKNOWN = Facts(known=False)


def facts(statement: Statement, dialect: Dialect) -> Facts:
    """Never raises. What cannot be seen into has `known` False, unless it is a read that has nothing to see."""
    if dialect is Dialect.POSTGRESQL:
        try:
            return read_postgresql(statement.tree, statement.text)
        except RecursionError:
            return _UNKNOWN
    return Facts(known=statement.kind is Kind.SELECT)
