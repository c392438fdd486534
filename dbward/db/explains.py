"""Rows of what agents are asked to explain. Every change is guarded by the status and the claim it expects."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select

from dbward.db import claimable
from dbward.db.engine import Tx
from dbward.db.rows import ExplainRow, read
from dbward.db.tables import explains
from dbward.domain.plans import ExplainStatus

OPEN: Final = (ExplainStatus.QUEUED, ExplainStatus.CLAIMED)


def insert_explain(tx: Tx, row: ExplainRow) -> None:
    tx.conn.execute(insert(explains), {name: getattr(row, name) for name in row.__slots__})


def find(conn: Connection, explain_id: str) -> ExplainRow | None:
    return claimable.find(conn, explains, ExplainRow, explain_id)


def lock(tx: Tx, explain_id: str) -> ExplainRow:
    """The row, held until the transaction ends. Raises `Missing`."""
    return claimable.lock(tx, explains, ExplainRow, explain_id, "explain")


def move(tx: Tx, row: ExplainRow, status: ExplainStatus, **values: Any) -> ExplainRow:
    """Set `status` and `values` only if neither status nor claim changed since `row` was read. Raises `LostRace`."""
    return claimable.move(tx, explains, row, {"status": status, **values}, "explain")


def of_request(conn: Connection, request_id: str) -> ExplainRow | None:
    """What was asked for the request last."""
    query = (
        select(explains)
        .where(explains.c.request_id == request_id)
        .order_by(explains.c.created_at.desc(), explains.c.id)
        .limit(1)
    )
    row = conn.execute(query).mappings().first()
    return read(ExplainRow, row) if row is not None else None


def count_open(conn: Connection, requested_by: str, *, for_requests: bool) -> int:
    """How many of one person's preflights, or else of their requests, an agent has yet to answer."""
    belongs = explains.c.request_id.is_not(None) if for_requests else explains.c.request_id.is_(None)
    query = (
        select(func.count())
        .select_from(explains)
        .where(explains.c.requested_by == requested_by, explains.c.status.in_(OPEN), belongs)
    )
    return conn.execute(query).scalar_one()


def due(conn: Connection, now: datetime, *, limit: int) -> list[str]:
    """Ids of those that were to be answered by `now`, the oldest first."""
    query = (
        select(explains.c.id)
        .where(explains.c.status.in_(OPEN), explains.c.expires_at <= now)
        .order_by(explains.c.expires_at)
        .limit(limit)
    )
    return list(conn.execute(query).scalars())


def any_old(conn: Connection, before: datetime) -> bool:
    """Whether there is something to `forget`."""
    return conn.execute(select(explains.c.id).where(_old(before)).limit(1)).first() is not None


def forget(tx: Tx, before: datetime) -> None:
    """Delete those of preflights that ended before then; a request keeps its own for as long as it lives."""
    tx.conn.execute(delete(explains).where(_old(before)))


def _old(before: datetime) -> ColumnElement[bool]:
    return and_(explains.c.request_id.is_(None), explains.c.finished_at < before)
