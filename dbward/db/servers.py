"""The servers on one PostgreSQL state: which of them are there, and which one does the housekeeping.

Both are advisory locks of a connection that a server keeps. PostgreSQL lets go of them as soon as the process is dead,
and within half a minute when its machine is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import psycopg2
from psycopg2 import extensions as pg
from sqlalchemy import Connection, text

log = logging.getLogger(__name__)

PRESENT: Final = 7236275
"""Held by every server together; by a migration that they would not survive, alone."""
HOUSEKEEPING: Final = 7236276

_NOTICED_SOON: Final = (  # by PostgreSQL: a peer that vanished without a word still holds its locks
    "SET tcp_keepalives_idle = 10",
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
)
_FROZEN_MS: Final = 30_000
"""A housekeeper that has said nothing for so long hangs, and another one takes over."""
_OTHERS: Final = text(
    "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND classid = 0 AND objid = :key AND objsubid = 1 AND mode = 'ShareLock' AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND application_name <> :name"
)
_ALONE: Final = text("SELECT pg_try_advisory_xact_lock(:key)")


def enter(raw: pg.connection, server_id: str) -> None:
    """Be there for as long as `raw` lives. Waits while a migration runs that no server may watch. Raises
    psycopg2.Error.
    """
    with raw.cursor() as cursor:
        for statement in _NOTICED_SOON:
            cursor.execute(statement)
        cursor.execute("SELECT set_config('application_name', %s, false)", (_name(server_id),))
        cursor.execute("SET lock_timeout = '10s'")
        cursor.execute("SELECT pg_advisory_lock_shared(%s)", (PRESENT,))


def others(conn: Connection, server_id: str) -> int:
    """How many servers are there beside this one."""
    return int(conn.execute(_OTHERS, {"key": PRESENT, "name": _name(server_id)}).scalar_one())


def keep_out(conn: Connection) -> bool:
    """Whether no server is there; none enters then before the transaction of `conn` ends."""
    return bool(conn.execute(_ALONE, {"key": PRESENT}).scalar_one())


def _name(server_id: str) -> str:
    return f"dbward {server_id}"


class Housekeeping:
    """The right to do the housekeeping, which one server on a PostgreSQL state has at a time. For one thread.

    `open_connection` is None on SQLite, where the only server always has it.
    """

    def __init__(self, open_connection: Callable[[], pg.connection] | None) -> None:
        self._open = open_connection
        self._raw: pg.connection | None = None
        self._held = open_connection is None
        self.answered = True
        """Whether the database was there when it was asked last."""

    def held(self) -> bool:
        """Whether it is ours now; asks for it when it is nobody's. Call it every few seconds to keep it."""
        if self._open is None:
            return True
        before = self._held
        try:
            self._held = self._ask(self._open)
            self.answered = True
        except (psycopg2.Error, OSError) as error:
            self._held = self.answered = False
            self.close()
            log.warning("housekeeping: the state database cannot be asked: %s", str(error).partition("\n")[0])
        if before != self._held:
            log.info("this server %s the housekeeping", "does" if self._held else "does not do")
        return self._held

    def close(self) -> None:
        """Let another server have it. May be called twice."""
        if self._raw is not None:
            with suppress(psycopg2.Error):
                self._raw.close()
            self._raw = None

    def _ask(self, open_connection: Callable[[], pg.connection]) -> bool:
        if self._raw is None:
            self._held = False
            self._raw = open_connection()
            with self._raw.cursor() as cursor:
                for statement in _NOTICED_SOON:
                    cursor.execute(statement)
                if self._raw.server_version >= 140000:
                    cursor.execute(f"SET idle_session_timeout = {_FROZEN_MS}")
        with self._raw.cursor() as cursor:
            if self._held:
                cursor.execute("SELECT 1")  # the lock is there as long as the connection
                return True
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (HOUSEKEEPING,))
            row = cursor.fetchone()
        return row is not None and bool(row[0])
