"""The store: what a write promises, alone and among others."""

from __future__ import annotations

from dbward.db.engine import Store, Tx
from dbward.db.tables import server_meta
from sqlalchemy import select


def put(key: str, value: str = "v"):
    def work(tx: Tx) -> str:
        tx.conn.execute(server_meta.insert().values(key=key, value=value))
        return key

    return work


def keys(store: Store) -> list[str]:
    with store.read() as conn:
        return list(conn.execute(select(server_meta.c.key).order_by(server_meta.c.key)).scalars())


def test_what_is_written_can_be_read(store: Store):
    assert store.write(put("a")) == "a"
    assert keys(store) == ["a"]
