"""What a statement may do on a SQLite connection, asked by SQLite itself while it compiles the statement.

`mode=ro` alone lets ATTACH and VACUUM INTO write files, and pragmas change the process; so reads are an allow-list.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]

_FUNCTIONS = _words(
    """-> ->> abs acos acosh asin asinh atan atan2 atanh avg bm25 ceil ceiling changes char coalesce concat concat_ws
    cos cosh count cume_dist current_date current_time current_timestamp date datetime degrees dense_rank exp
    first_value floor format glob group_concat hex highlight if ifnull iif instr json json_array json_array_length
    json_error_position json_extract json_group_array json_group_object json_insert json_object json_patch json_pretty
    json_quote json_remove json_replace json_set json_type json_valid jsonb jsonb_array jsonb_extract jsonb_group_array
    jsonb_group_object jsonb_insert jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set julianday lag
    last_insert_rowid last_value lead length like likelihood likely ln log log10 log2 lower ltrim match matchinfo max
    median min mod nth_value ntile nullif octet_length offsets percent_rank percentile percentile_cont percentile_disc
    pi pow power printf quote radians random randomblob rank replace round row_number rtrim rtreedepth rtreenode sign
    sin sinh snippet soundex sqlite_compileoption_get sqlite_compileoption_used sqlite_source_id sqlite_version sqrt
    strftime string_agg substr substring subtype sum tan tanh time timediff total total_changes trim trunc typeof
    unhex unicode unistr unistr_quote unixepoch unlikely upper zeroblob"""
)
"""Built in and without effect outside the statement. Not here: load_extension, fts3_tokenizer, sqlite_log, optimize."""

_PRAGMAS = _words(
    """application_id auto_vacuum collation_list compile_options data_version database_list encoding foreign_keys
    freelist_count function_list journal_mode module_list page_count page_size pragma_list schema_version table_list
    user_version"""
)
"""Readable without an argument; most of them write with one."""
_PRAGMAS_ABOUT = _words(
    """foreign_key_check foreign_key_list index_info index_list index_xinfo integrity_check quick_check table_info
    table_list table_xinfo"""
)
"""Their argument names what to read."""

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
_NEVER = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"})


def guard(*, read_only: bool) -> Authorizer:
    allowed = _READS if read_only else _WRITES

    def authorize(action: int, first: str | None, second: str | None, _schema: str | None, _source: str | None) -> int:
        if action == sqlite3.SQLITE_FUNCTION:
            name = (second or "").lower()
            fine = name in _FUNCTIONS if read_only else name not in _NEVER
        elif action == sqlite3.SQLITE_PRAGMA:
            name = (first or "").lower()
            fine = name in _PRAGMAS_ABOUT or (name in _PRAGMAS and second is None)
        else:
            fine = action in allowed
        return sqlite3.SQLITE_OK if fine else sqlite3.SQLITE_DENY

    return authorize
