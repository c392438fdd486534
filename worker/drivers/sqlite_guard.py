"""What a statement may do on a SQLite connection, asked by SQLite itself while it compiles the statement.

`mode=ro` alone lets ATTACH and VACUUM INTO write files, and pragmas change the process; so reads are an allow-list,
the same that the classification goes by.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from dbward.domain.sql.lex import words
from dbward.domain.sql.sqlite_names import FUNCTIONS, OPERATORS, PRAGMAS, PRAGMAS_ABOUT

Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]

_CALLED = FUNCTIONS | OPERATORS
_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_WRITES = _READS | {
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_UPDATE,
    sqlite3.SQLITE_DELETE,
    sqlite3.SQLITE_ALTER_TABLE,
    sqlite3.SQLITE_ANALYZE,
    sqlite3.SQLITE_REINDEX,
    sqlite3.SQLITE_CREATE_INDEX,
    sqlite3.SQLITE_CREATE_TABLE,
    sqlite3.SQLITE_CREATE_TRIGGER,
    sqlite3.SQLITE_CREATE_VIEW,
    sqlite3.SQLITE_CREATE_VTABLE,
    sqlite3.SQLITE_CREATE_TEMP_INDEX,
    sqlite3.SQLITE_CREATE_TEMP_TABLE,
    sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
    sqlite3.SQLITE_CREATE_TEMP_VIEW,
    sqlite3.SQLITE_DROP_INDEX,
    sqlite3.SQLITE_DROP_TABLE,
    sqlite3.SQLITE_DROP_TRIGGER,
    sqlite3.SQLITE_DROP_VIEW,
    sqlite3.SQLITE_DROP_VTABLE,
    sqlite3.SQLITE_DROP_TEMP_INDEX,
    sqlite3.SQLITE_DROP_TEMP_TABLE,
    sqlite3.SQLITE_DROP_TEMP_TRIGGER,
    sqlite3.SQLITE_DROP_TEMP_VIEW,
}
"""Everything inside the one file. Not here: ATTACH, DETACH, and BEGIN, COMMIT, SAVEPOINT, which are dbward's."""
_NEVER = words("load_extension fts3_tokenizer readfile writefile edit")


def guard(*, read_only: bool) -> Authorizer:
    allowed = _READS if read_only else _WRITES

    def authorize(action: int, first: str | None, second: str | None, _schema: str | None, _source: str | None) -> int:
        if action == sqlite3.SQLITE_FUNCTION:
            name = (second or "").lower()
            fine = name in _CALLED if read_only else name not in _NEVER
        elif action == sqlite3.SQLITE_PRAGMA:
            name = (first or "").lower()
            fine = name in PRAGMAS_ABOUT or (name in PRAGMAS and second is None)
        else:
            fine = action in allowed
        return sqlite3.SQLITE_OK if fine else sqlite3.SQLITE_DENY

    return authorize


_PLANNED = _READS | {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}


def plan_guard(action: int, _first: str | None, second: str | None, _schema: str | None, _source: str | None) -> int:
    """For EXPLAIN QUERY PLAN, which compiles changes and runs none. No pragma: some act while they are compiled."""
    fine = (second or "").lower() in _CALLED if action == sqlite3.SQLITE_FUNCTION else action in _PLANNED
    return sqlite3.SQLITE_OK if fine else sqlite3.SQLITE_DENY
