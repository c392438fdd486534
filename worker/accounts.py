"""Whether the account of a target could write: the last wall of the read path, which only its owner can put up.

Asked for agents that are told to do nothing but read. It knows of rights, not of every way around them: a routine may
write with the rights of whoever made it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Mapping
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from dbward.domain.model import Dialect, Operation, Target
from worker.drivers.base import Driver
from worker.drivers.errors import CredentialsRefused, Unreachable

log = logging.getLogger("dbward.agent")

_ONLY_READ: Final = frozenset({Operation.EXECUTE_SELECT, Operation.MIGRATE_STATUS})

_POSTGRESQL: Final = """
    WITH tables AS (
        SELECT c.oid, c.relkind FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname !~ '^(pg_|information_schema$)' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    )
    SELECT NOT pg_catalog.pg_is_in_recovery() AND (
        EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE (r.rolsuper OR r.rolcreaterole OR r.rolcreatedb)
            AND r.rolname = current_user)
        OR EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE pg_catalog.pg_has_role(r.oid, 'USAGE') AND r.rolname IN
            ('pg_write_all_data', 'pg_write_server_files', 'pg_execute_server_program', 'pg_maintain'))
        OR pg_catalog.has_database_privilege(current_database(), 'CREATE')
        OR EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname !~ '^(pg_|information_schema$)'
            AND pg_catalog.has_schema_privilege(n.oid, 'CREATE'))
        OR EXISTS (SELECT FROM tables WHERE CASE relkind
            WHEN 'S' THEN pg_catalog.has_sequence_privilege(oid, 'USAGE, UPDATE')
            ELSE pg_catalog.has_table_privilege(oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
                OR pg_catalog.has_any_column_privilege(oid, 'INSERT, UPDATE') END)
    )
"""

_GRANT: Final = re.compile(r"GRANT (.+?) ON (?:(?:TABLE|FUNCTION|PROCEDURE) )?\S+ TO ", re.IGNORECASE)
_COLUMNS: Final = re.compile(r"\s*\([^)]*\)")
_HARMLESS: Final = frozenset(
    {
        *("USAGE", "SELECT", "SHOW VIEW", "SHOW DATABASES", "SHOW CREATE ROUTINE", "EXECUTE", "PROCESS"),
        *("REPLICATION CLIENT", "BINLOG MONITOR", "SLAVE MONITOR", "REPLICA MONITOR", "REPLICATION SLAVE"),
    }
)
"""Rights with which nothing can be written; any other counts as one to write."""


def warn_of_writer(target: Target, driver: Driver, operations: Collection[Operation]) -> None:
    """Log a warning when `target` is only read and its account could do more."""
    if _ONLY_READ.issuperset(operations) and can_write(driver):
        log.warning(
            "database %s: this agent only reads (`operations`), but the account in its URL can write; "
            "give it one with no right but to read",
            target,
        )


def can_write(driver: Driver) -> bool | None:
    """None when it cannot be told: the database is not reachable, or does not say."""
    try:
        with driver.reflect() as connection:
            return _CHECKS[driver.dialect](connection)
    except (Unreachable, CredentialsRefused, SQLAlchemyError):
        return None


def _postgresql(connection: Connection) -> bool | None:
    return bool(connection.exec_driver_sql(_POSTGRESQL).scalar_one())


def _mysql(connection: Connection) -> bool | None:
    grants = [str(row[0]) for row in connection.exec_driver_sql("SHOW GRANTS")]
    found = [_GRANT.match(grant) for grant in grants]
    rights = {right.strip().upper() for each in found if each for right in _COLUMNS.sub("", each[1]).split(",")}
    if rights - _HARMLESS:
        return True
    return False if all(found) else None  # a role was granted, and what that may do is not listed


def _sqlite(connection: Connection) -> bool | None:
    files = [path for _, name, path in connection.exec_driver_sql("PRAGMA database_list") if name == "main"]
    return any(os.access(path, os.W_OK) for path in files)


_CHECKS: Final[Mapping[Dialect, Callable[[Connection], bool | None]]] = {
    Dialect.POSTGRESQL: _postgresql,
    Dialect.MYSQL: _mysql,
    Dialect.SQLITE: _sqlite,
}
