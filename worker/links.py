"""Whether what goes to a target and comes back is encrypted on its way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from dbward.domain.model import Dialect
from worker.drivers.base import Driver
from worker.drivers.errors import CredentialsRefused, Unreachable


def is_encrypted(driver: Driver) -> bool | None:
    """None where there is no way: a file, a socket of this machine; or when it cannot be told."""
    check = _CHECKS.get(driver.dialect)
    if check is None:
        return None
    try:
        with driver.reflect() as connection:
            return check(connection)
    except (Unreachable, CredentialsRefused, SQLAlchemyError):
        return None


def _postgresql(connection: Connection) -> bool | None:
    row = connection.exec_driver_sql(
        "SELECT pg_catalog.inet_client_addr() IS NULL, s.ssl FROM pg_catalog.pg_stat_ssl s "
        "WHERE s.pid = pg_catalog.pg_backend_pid()"
    ).one_or_none()
    return None if row is None or row[0] else bool(row[1])


def _mysql(connection: Connection) -> bool | None:
    row = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Ssl_cipher'").one_or_none()
    return None if row is None else bool(row[1])


_CHECKS: Final[Mapping[Dialect, Callable[[Connection], bool | None]]] = {
    Dialect.POSTGRESQL: _postgresql,
    Dialect.MYSQL: _mysql,
}
