"""Rows of executions and of the results they left. Every change is guarded by the status and claim it expects."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from dbward.db import claimable
from dbward.db.engine import Tx
from dbward.db.requests import Criteria, matching
from dbward.db.rows import ExecutionRow, RequestRow, ResultRow, read
from dbward.db.shortids import begins
from dbward.db.tables import executions, requests, results
from dbward.db.visible import Condition
from dbward.domain.model import ExecutionStatus

_HELD = executions.c.status.in_([ExecutionStatus.CLAIMED, ExecutionStatus.RUNNING])


def queue(tx: Tx, execution_id: str, request_id: str, now: datetime) -> None:
    tx.conn.execute(
        insert(executions).values(id=execution_id, request_id=request_id, status=ExecutionStatus.QUEUED, created_at=now)
    )


def find(conn: Connection, execution_id: str) -> ExecutionRow | None:
    return claimable.find(conn, executions, ExecutionRow, execution_id)


def lock(tx: Tx, execution_id: str) -> ExecutionRow:
    """The row, held until the transaction ends. Raises `Missing`."""
    return claimable.lock(tx, executions, ExecutionRow, execution_id, "execution")


def move(tx: Tx, row: ExecutionRow, status: ExecutionStatus, **values: Any) -> ExecutionRow:
    """Set `status` and `values` only if neither status nor claim changed since `row` was read. Raises `LostRace`."""
    return claimable.move(tx, executions, row, {"status": status, **values}, "execution")


def extend(tx: Tx, execution_id: str, claim_id: str, until: datetime) -> bool:
    """Renew the lease; False when this claim does not hold the execution any more."""
    hit = tx.conn.execute(
        update(executions)
        .where(
            executions.c.id == execution_id,
            executions.c.claim_id == claim_id,
            _HELD,
        )
        .values(lease_until=until)
    )
    return hit.rowcount == 1


def lease_at_least(tx: Tx, until: datetime) -> None:
    """Give every claimed or running execution time until `until`: nobody could renew while no server ran."""
    tx.conn.execute(update(executions).where(_HELD, executions.c.lease_until < until).values(lease_until=until))


def overdue(conn: Connection, status: ExecutionStatus, now: datetime, *, limit: int) -> list[str]:
    """Ids of executions in `status` whose agent has not renewed in time, the longest silent first."""
    query = (
        select(executions.c.id)
        .where(executions.c.status == status, executions.c.lease_until <= now)
        .order_by(executions.c.lease_until)
        .limit(limit)
    )
    return list(conn.execute(query).scalars())


def of_request(conn: Connection, request_id: str, *, limit: int) -> list[ExecutionRow]:
    """Newest first."""
    query = (
        select(executions)
        .where(executions.c.request_id == request_id)
        .order_by(executions.c.created_at.desc(), executions.c.id)
        .limit(limit)
    )
    return [read(ExecutionRow, row) for row in conn.execute(query).mappings()]


def beginning(conn: Connection, request_id: str, text: str) -> list[ExecutionRow]:
    """At most two executions of the request whose id begins with `text`."""
    query = select(executions).where(executions.c.request_id == request_id, begins(executions.c.id, text)).limit(2)
    return [read(ExecutionRow, row) for row in conn.execute(query).mappings()]


def latest_finished(conn: Connection, request_id: str, statuses: Collection[ExecutionStatus]) -> ExecutionRow | None:
    """The newest execution of the request that is in one of `statuses`; an older one may have reported after it."""
    query = (
        select(executions)
        .where(executions.c.request_id == request_id, executions.c.status.in_([str(s) for s in statuses]))
        .order_by(executions.c.created_at.desc(), executions.c.id)
        .limit(1)
    )
    row = conn.execute(query).mappings().first()
    return read(ExecutionRow, row) if row is not None else None


def count_completed(conn: Connection, request_id: str) -> int:
    query = (
        select(func.count())
        .select_from(executions)
        .where(executions.c.request_id == request_id, executions.c.status == ExecutionStatus.COMPLETED)
    )
    return conn.execute(query).scalar_one()


def add_result(tx: Tx, row: ResultRow) -> None:
    """Record a stored result; a repeated call replaces the first."""
    tx.conn.execute(delete(results).where(results.c.execution_id == row.execution_id))
    tx.conn.execute(insert(results).values({name: getattr(row, name) for name in row.__slots__}))


def result_of(conn: Connection, execution_id: str) -> ResultRow | None:
    row = conn.execute(select(results).where(results.c.execution_id == execution_id)).mappings().first()
    return read(ResultRow, row) if row is not None else None


def stored_among(conn: Connection, execution_ids: Sequence[str]) -> set[str]:
    query = select(results.c.execution_id).where(results.c.execution_id.in_(execution_ids))
    return set(conn.execute(query).scalars())


def results_page(
    conn: Connection, seen: Sequence[Condition], criteria: Criteria, now: datetime, *, limit: int, offset: int
) -> tuple[list[tuple[ResultRow, RequestRow]], int]:
    """Stored results that are not past their time, newest first, each with its request, and how many there are in all.

    Of the requests that pass every condition of `seen` and the criteria.
    """
    joined = results.join(requests, requests.c.id == results.c.request_id)
    wanted = and_(results.c.expires_at > now, *seen, *matching(criteria))
    total = conn.execute(select(func.count()).select_from(joined).where(wanted)).scalar_one()
    query = (
        select(results, requests)
        .select_from(joined)
        .where(wanted)
        .order_by(results.c.stored_at.desc(), results.c.execution_id)
        .limit(limit)
        .offset(offset)
    )
    found = [
        (
            read(ResultRow, {c.name: row[c] for c in results.c}),
            read(RequestRow, {c.name: row[c] for c in requests.c}),
        )
        for row in conn.execute(query).mappings()
    ]
    return found, total


def still_needed(conn: Connection, execution_ids: Collection[str]) -> set[str]:
    """Those that an agent may still upload to or complete."""
    live = [ExecutionStatus.CLAIMED, ExecutionStatus.RUNNING]
    query = select(executions.c.id).where(executions.c.id.in_(execution_ids), executions.c.status.in_(live))
    return set(conn.execute(query).scalars())


def expired_results(conn: Connection, now: datetime, *, limit: int) -> list[ResultRow]:
    query = select(results).where(results.c.expires_at <= now).order_by(results.c.expires_at).limit(limit)
    return [read(ResultRow, row) for row in conn.execute(query).mappings()]


def remove_result(tx: Tx, execution_id: str) -> None:
    tx.conn.execute(delete(results).where(results.c.execution_id == execution_id))


def shift_leases(tx: Tx, by: timedelta) -> None:
    """Move every lease forward by `by`: for that long this server stood still and no agent could renew."""
    live = and_(_HELD, executions.c.lease_until.is_not(None))
    rows = tx.conn.execute(select(executions.c.id, executions.c.lease_until).where(live)).all()
    for execution_id, until in rows:
        tx.conn.execute(update(executions).where(executions.c.id == execution_id).values(lease_until=until + by))
