"""Everything about a database that a statement could have changed, by section, to be compared before and after.

On a server of one's own: other people's work would show as well.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import psycopg
import pymysql
from psycopg import sql

from dbward.domain.sql.lex import words

Photograph = dict[str, Any]
PHOTOGRAPHER = "photographer"
"""How the connection that takes PostgreSQL's photographs calls itself."""


def differences(before: Photograph, after: Photograph, *, ignored: frozenset[str] = frozenset()) -> list[str]:
    """One line for each section that changed."""
    sections = (before.keys() | after.keys()) - ignored
    changed = sorted(name for name in sections if before.get(name) != after.get(name))
    return [f"{name}: {_short(before.get(name))} -> {_short(after.get(name))}" for name in changed]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:100]} … {hashlib.sha256(text.encode()).hexdigest()[:12]}"


# --- PostgreSQL ------------------------------------------------------------------------------------------------------

_PG_SECTIONS = {
    "roles' and databases' settings": "SELECT * FROM pg_db_role_setting",
    "settings": "SELECT name, setting, source, pending_restart FROM pg_settings",
    "prepared transactions": "SELECT gid FROM pg_prepared_xacts",
    "replication": "SELECT slot_name, 'slot' FROM pg_replication_slots"
    " UNION ALL SELECT external_id, 'origin' FROM pg_replication_origin_status",
    "locks of others": "SELECT locktype, mode, objid FROM pg_locks"
    " WHERE pid <> pg_backend_pid() AND locktype <> 'virtualxid'",
    "statistics resets": "SELECT stats_reset::text, 'database' FROM pg_stat_database"
    " UNION ALL SELECT stats_reset::text, 'bgwriter' FROM pg_stat_bgwriter"
    " UNION ALL SELECT stats_reset::text, name FROM pg_stat_slru",
    "sizes": "SELECT oid::regclass::text, pg_relation_size(oid) FROM pg_class WHERE relkind IN ('r', 'm', 'S')",
    "files": "SELECT dir, name FROM unnest(ARRAY['.', 'pg_tblspc', 'pg_replslot', 'pg_logical', 'global']) dir,"
    " pg_ls_dir(dir) name",
    "auto.conf": "SELECT pg_read_file('postgresql.auto.conf')",
    "next transaction": "SELECT pg_snapshot_xmax(pg_current_snapshot())::text",
}
"""`next transaction` grows with every transaction that so much as began to write, whether or not it was rolled back."""

_PG_SESSION = {
    "my settings": "SELECT name, setting FROM pg_settings",
    "my prepared statements": "SELECT name FROM pg_prepared_statements",
    "my cursors": "SELECT name FROM pg_cursors",
    "my channels": "SELECT pg_listening_channels()",
    "my temporary schema": "SELECT pg_my_temp_schema()::text",
    "my locks": "SELECT locktype, objid FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'",
    "who I am": "SELECT session_user::text, current_user::text",
}

_PG_ROWS = (
    sql.SQL(
        "SELECT {name}, count(*), md5(string_agg(concat_ws(' ', r.ctid, r.xmin, r.xmax, r.*), '\n' ORDER BY r.ctid))"
        " FROM {table} r"
    ),
    sql.SQL("SELECT {name}, last_value, concat(log_cnt, is_called) FROM {table}"),
)
"""Of a table, and of a sequence."""


def of_postgresql(connection: psycopg.Connection[Any]) -> Photograph:
    """As a superuser, in autocommit, once every other session has ended."""
    while connection.execute(
        "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> %s",
        (PHOTOGRAPHER,),
    ).fetchone():
        pass
    taken = {name: sorted(connection.execute(query).fetchall(), key=repr) for name, query in _PG_SECTIONS.items()}
    taken |= {f"rows of {name}": found for name, found in _pg_rows(connection)}
    taken["notifications"] = [note.channel for note in connection.notifies(timeout=0)]
    return taken


def of_postgresql_session(connection: psycopg.Connection[Any]) -> Photograph:
    return {name: sorted(connection.execute(query).fetchall(), key=repr) for name, query in _PG_SESSION.items()}


def _pg_rows(connection: psycopg.Connection[Any]) -> list[tuple[str, tuple[int, str | None]]]:
    """Number and hash of the rows of every table, catalogs and sequences too, with their places and writers."""
    tables = connection.execute(
        "SELECT n.nspname, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'm', 'S') AND n.nspname !~ '^(information_schema$|pg_toast|pg_temp)' ORDER BY 1, 2"
    ).fetchall()
    query = sql.SQL(" UNION ALL ").join(
        _PG_ROWS[kind == "S"].format(name=f"{schema}.{table}", table=sql.Identifier(schema, table))
        for schema, table, kind in tables
    )
    return [(name, (count, hashed)) for name, count, hashed in connection.execute(query).fetchall()]


# --- MariaDB ---------------------------------------------------------------------------------------------------------

_MY_SECTIONS = {
    "schemata": "SELECT * FROM information_schema.schemata",
    "tables": "SELECT table_schema, table_name, table_type, engine, version, row_format, auto_increment, create_time,"
    " create_options, table_comment FROM information_schema.tables WHERE table_type <> 'SYSTEM VIEW'",
    "columns": "SELECT * FROM information_schema.columns WHERE table_schema <> 'information_schema'",
    "indexes": "SELECT table_schema, table_name, index_name, seq_in_index, column_name"
    " FROM information_schema.statistics",
    "partitions": "SELECT table_schema, table_name, partition_name FROM information_schema.partitions",
    "views": "SELECT * FROM information_schema.views",
    "routines": "SELECT * FROM information_schema.routines",
    "triggers": "SELECT * FROM information_schema.triggers",
    "events": "SELECT * FROM information_schema.events",
    "plugins": "SELECT plugin_name, plugin_status FROM information_schema.plugins",
    "user rights": "SELECT * FROM information_schema.user_privileges",
    "schema rights": "SELECT * FROM information_schema.schema_privileges",
    "global variables": "SELECT * FROM information_schema.global_variables"
    " WHERE variable_name NOT LIKE 'GTID%' AND variable_name NOT LIKE 'INNODB_FIL_MAKE%'",
    "writes": "SELECT * FROM information_schema.global_status"
    " WHERE variable_name IN ('HANDLER_WRITE', 'HANDLER_DELETE', 'INNODB_MAX_TRX_ID')",
    "locks with names": "SELECT table_name FROM information_schema.metadata_lock_info WHERE lock_type = 'User lock'",
}
"""`writes` grows with every row written or deleted and every transaction that began to write, rolled back or not. The
rows that a window function keeps for itself count as updated, so those are not looked at."""

_MY_VOLATILE = words(
    """
    timestamp last_insert_id identity insert_id rand_seed1 rand_seed2 warning_count error_count pseudo_thread_id
    in_transaction last_gtid
    """
)


def of_mariadb(connection: pymysql.Connection[Any], mine: Collection[int]) -> Photograph:
    """As an account that may do everything, in autocommit, once every session but `mine` has ended."""
    ask = connection.cursor()
    known = ", ".join(str(number) for number in (connection.thread_id(), *mine))

    def rows(query: str) -> list[tuple[Any, ...]]:
        ask.execute(query)
        return sorted(ask.fetchall(), key=repr)

    while rows(f"SELECT id FROM information_schema.processlist WHERE id NOT IN ({known}) AND user <> 'system user'"):
        pass
    taken: Photograph = {name: rows(query) for name, query in _MY_SECTIONS.items()}
    taken |= _my_rows(taken["tables"], rows)
    ((directory,),) = rows("SELECT @@datadir")
    taken["files"] = sorted(str(path) for path in Path(directory).rglob("*"))
    return taken


def of_mariadb_session(connection: pymysql.Connection[Any]) -> Photograph:
    with connection.cursor() as ask:
        ask.execute("SHOW SESSION VARIABLES")
        settings = [row for row in ask.fetchall() if row[0] not in _MY_VOLATILE]
        ask.execute("SELECT variable_name, variable_value FROM information_schema.user_variables")
        mine = ask.fetchall()
        ask.execute(
            "SELECT lock_mode, lock_type, table_name FROM information_schema.metadata_lock_info"
            " WHERE thread_id = connection_id()"
        )
        return {"my settings": settings, "my variables": mine, "my locks": ask.fetchall()}


def _my_rows(tables: Iterable[tuple[Any, ...]], rows: Any) -> Photograph:
    stored = [f"`{schema}`.`{name}`" for schema, name, kind, *_ in tables if kind == "BASE TABLE" and schema != "sys"]
    stored = [name for name in stored if not name.endswith(("_log`", ".`transaction_registry`"))]
    sequences = [f"`{schema}`.`{name}`" for schema, name, kind, *_ in tables if kind == "SEQUENCE"]
    taken: Photograph = {"rows": rows(f"CHECKSUM TABLE {', '.join(stored)} EXTENDED")}
    return taken | {f"sequence {name}": rows(f"SELECT * FROM {name}") for name in sequences}


# --- SQLite ----------------------------------------------------------------------------------------------------------

_SL_FLAGS = sorted(
    words(
        """
        auto_vacuum automatic_index busy_timeout cache_size cache_spill cell_size_check checkpoint_fullfsync
        defer_foreign_keys encoding foreign_keys fullfsync hard_heap_limit ignore_check_constraints journal_mode
        journal_size_limit legacy_alter_table locking_mode max_page_count mmap_size page_size query_only
        read_uncommitted recursive_triggers reverse_unordered_selects schema_version secure_delete soft_heap_limit
        synchronous temp_store temp_store_directory threads trusted_schema user_version wal_autocheckpoint
        writable_schema
        """
    )
)


def of_sqlite(directory: Path) -> Photograph:
    """The bytes of every file beside the database. Readers of one in WAL mode make an empty log, and its index."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.endswith("-shm"))
    found = ((str(path.relative_to(directory)), path.read_bytes()) for path in files)
    return {name: hashlib.sha256(data).hexdigest() for name, data in found if data or not name.endswith("-wal")}


def of_sqlite_session(connection: sqlite3.Connection) -> Photograph:
    taken: Photograph = {flag: connection.execute(f"PRAGMA {flag}").fetchall() for flag in _SL_FLAGS}
    taken["temporary objects"] = connection.execute("SELECT * FROM temp.sqlite_master").fetchall()
    taken["attached"] = [name for _, name, _ in connection.execute("PRAGMA database_list")]
    taken["rows changed"] = connection.total_changes
    taken["in a transaction"] = connection.in_transaction
    return taken
