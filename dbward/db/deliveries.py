"""Rows of what webhooks are to be told of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Connection, and_, delete, func, insert, select, true, update

from dbward.db.engine import Tx
from dbward.db.rows import DeliveryRow, read
from dbward.db.tables import webhook_deliveries
from dbward.domain.notifications import DeliveryStatus

_t = webhook_deliveries.c


def add(tx: Tx, rows: Sequence[DeliveryRow]) -> None:
    tx.conn.execute(insert(webhook_deliveries), [{name: getattr(row, name) for name in row.__slots__} for row in rows])


def page(
    conn: Connection, status: DeliveryStatus | None, webhook_id: str | None, *, limit: int, offset: int
) -> tuple[list[DeliveryRow], int]:
    """Newest first, and how many there are in all."""
    wanted = and_(
        true() if status is None else _t.status == status,
        true() if webhook_id is None else _t.webhook_id == webhook_id,
    )
    total = conn.execute(select(func.count()).select_from(webhook_deliveries).where(wanted)).scalar_one()
    rows = conn.execute(
        select(webhook_deliveries).where(wanted).order_by(_t.created_at.desc(), _t.id).limit(limit).offset(offset)
    ).mappings()
    return [read(DeliveryRow, row) for row in rows], total


def cancel_all_but(tx: Tx, kept: Collection[str], reason: str, now: datetime) -> None:
    """End what is pending for webhooks other than `kept`."""
    tx.conn.execute(
        update(webhook_deliveries)
        .where(_t.status == DeliveryStatus.PENDING, _t.webhook_id.not_in(kept))
        .values(status=DeliveryStatus.CANCELLED, last_error=reason, next_retry_at=None, finished_at=now)
    )


def give_up(tx: Tx, made_before: datetime, reason: str, now: datetime, *, limit: int) -> int:
    """End at most `limit` of those that are still pending and older; how many there were."""
    old = select(_t.id).where(_t.status == DeliveryStatus.PENDING, _t.created_at < made_before).limit(limit)
    hit = tx.conn.execute(
        update(webhook_deliveries)
        .where(_t.id.in_(old), _t.status == DeliveryStatus.PENDING)
        .values(status=DeliveryStatus.DEAD, last_error=reason, next_retry_at=None, finished_at=now)
    )
    return hit.rowcount


def forget(tx: Tx, ended_before: datetime, *, limit: int) -> int:
    """Delete at most `limit` of those that ended before then; how many there were."""
    old = select(_t.id).where(_t.finished_at < ended_before).limit(limit)
    return tx.conn.execute(delete(webhook_deliveries).where(_t.id.in_(old))).rowcount
