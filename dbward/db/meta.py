"""Single values that the servers on one state share."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update

from dbward.db.engine import Tx
from dbward.db.tables import server_meta

CONFIG_DIGEST = "config_digest"
"""Names the content of the configuration that was synced last."""

SWEPT_AT = "swept_at"
"""When a server last looked for leases that have run out."""

EXECUTION_KEY = "execution_key"
"""The public half of the key that execution tokens are signed with, as hex."""
RESULTS_PLACE = "results_place"
"""Where the servers keep results."""


def get(conn: Connection, key: str) -> str | None:
    return conn.execute(select(server_meta.c.value).where(server_meta.c.key == key)).scalar_one_or_none()


def put(tx: Tx, key: str, value: str) -> None:
    hit = tx.conn.execute(update(server_meta).where(server_meta.c.key == key).values(value=value))
    if not hit.rowcount:
        tx.conn.execute(insert(server_meta).values(key=key, value=value))
