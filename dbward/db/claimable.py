"""Rows that one agent may claim, by key: read under lock, and changed only as they were read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, select, update

from dbward.db.engine import Tx
from dbward.db.rows import ExecutionRow, ExplainRow, read
from dbward.errors import LostRace, Missing

R = TypeVar("R", ExecutionRow, ExplainRow)


def find(conn: Connection, table: Table, kind: type[R], row_id: str) -> R | None:
    row = conn.execute(select(table).where(table.c.id == row_id)).mappings().first()
    return read(kind, row) if row is not None else None


def lock(tx: Tx, table: Table, kind: type[R], row_id: str, what: str) -> R:
    """The row, held until the transaction ends. Raises `Missing`."""
    row = tx.conn.execute(select(table).where(table.c.id == row_id).with_for_update()).mappings().first()
    if row is None:
        raise Missing(f"{what} {row_id}")
    return read(kind, row)


def move(tx: Tx, table: Table, row: R, changed: Mapping[str, Any], what: str) -> R:
    """Set `changed` only if neither status nor claim changed since `row` was read, and wake who waits for `what`.

    Raises `LostRace`.
    """
    hit = tx.conn.execute(
        update(table)
        .where(
            table.c.id == row.id,
            table.c.status == row.status,
            table.c.claim_id.is_not_distinct_from(row.claim_id),
        )
        .values(changed)
    )
    if hit.rowcount != 1:
        raise LostRace(f"{what} {row.id} is no longer {row.status}")
    tx.wake(f"{what}:{row.id}")
    return replace(row, **changed)
