"""Small things the tests of the store share, also with the processes they start."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Connection, select, update

from dbward.db.engine import Store, Tx
from dbward.db.revisions import FLOOR
from dbward.db.tables import server_meta
from dbward.settings.server import StateSettings


def settings_for(url: str, *, exclusive: bool = True) -> StateSettings:
    """Settings that do not wait for somebody else's lock."""
    return StateSettings(url, exclusive=exclusive, lock_wait=timedelta(0))


def put(key: str, value: str = "v") -> Callable[[Tx], str]:
    def work(tx: Tx) -> str:
        tx.conn.execute(server_meta.insert().values(key=key, value=value))
        return key

    return work


def keys_of(conn: Connection) -> list[str]:
    """Those that a test has put there."""
    query = select(server_meta.c.key).where(server_meta.c.key != FLOOR).order_by(server_meta.c.key)
    return list(conn.execute(query).scalars())


def keys(store: Store) -> list[str]:
    with store.read() as conn:
        return keys_of(conn)


def count_up(key: str) -> Callable[[Tx], int]:
    """Read, add one, write back: loses counts as soon as two writers overlap."""

    def work(tx: Tx) -> int:
        row = server_meta.c.key == key
        now = int(tx.conn.execute(select(server_meta.c.value).where(row)).scalar_one()) + 1
        tx.conn.execute(update(server_meta).where(row).values(value=str(now)))
        return now

    return work


def value(store: Store, key: str) -> str:
    with store.read() as conn:
        return str(conn.execute(select(server_meta.c.value).where(server_meta.c.key == key)).scalar_one())
