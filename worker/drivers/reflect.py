"""SQLAlchemy over a driver's own connections, for reading the catalog and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from worker.drivers.errors import Unreachable

TIMEOUT_SECS: Final = 30
"""For one query of the catalog."""
LOCK_WAIT_SECS: Final = 2
"""For a table that somebody changes right now: its turn comes when that is over."""


def catalog_engine(url: str, connect: Callable[[], Any]) -> Engine:
    """An engine that keeps no connection open; `url` names dialect and DBAPI, `connect` makes the connections."""
    return create_engine(url, creator=connect, poolclass=NullPool)


@contextmanager
def reading(engine: Engine, *, settings: Sequence[str], **options: Any) -> Iterator[Connection]:
    """A connection of its own in a transaction; `settings` are run first, `options` are SQLAlchemy's for it.

    Raises Unreachable when the connection is lost, also later on; other errors stay SQLAlchemy's.
    """
    try:
        with engine.connect().execution_options(**options) as connection, connection.begin():
            for setting in settings:
                connection.exec_driver_sql(setting)
            yield connection
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unreachable(first_line(error)) from None
        raise


def first_line(error: DBAPIError) -> str:
    """What the database said, without the SQL that SQLAlchemy adds."""
    said = str(error.orig.args[-1] if error.orig is not None and error.orig.args else error.orig)
    return (said.strip().splitlines() or [type(error.orig).__name__])[0]
