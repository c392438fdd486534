"""Target databases: `open_driver(url)` gives the Driver for a URL. Nothing here connects before `open` or `ping`."""

from __future__ import annotations

from dbward.errors import Misconfigured
from worker.drivers.base import Driver


def open_driver(url: str) -> Driver:
    """`postgres://`, `postgresql://`, `mysql://`, `mariadb://` or `sqlite:///path`. Raises Misconfigured, which never
    holds the URL's password."""
    match url.partition("://")[0].lower():
        case "postgres" | "postgresql":
            from worker.drivers.postgresql import PostgresqlDriver

            return PostgresqlDriver(url)
        case "mysql" | "mariadb":
            from worker.drivers.mysql import MysqlDriver

            return MysqlDriver(url)
        case "sqlite":
            from worker.drivers.sqlite import SqliteDriver

            return SqliteDriver(url)
    raise Misconfigured(
        "the database URL has no scheme this agent knows",
        hint="start it with postgresql://, mysql://, mariadb:// or sqlite:///",
    )
