"""Rows of requests, of their approvals, and of the selectors that may decide them next."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, func, insert, or_, select, update

from dbward.db.engine import Tx
from dbward.db.rows import RequestRow, read
from dbward.db.shortids import begins
from dbward.db.tables import approvals, request_selectors, requests
from dbward.db.visible import Condition, Visibility, awaiting
from dbward.domain.approvals import Approval
from dbward.domain.model import Status
from dbward.domain.states import Trigger, advance
from dbward.errors import Conflict, LostRace, Missing


def insert_request(tx: Tx, row: RequestRow) -> None:
    tx.conn.execute(insert(requests), {name: getattr(row, name) for name in row.__slots__})
    tx.moved.append(row)


def find(conn: Connection, request_id: str) -> RequestRow | None:
    row = conn.execute(select(requests).where(requests.c.id == request_id)).mappings().first()
    return read(RequestRow, row) if row is not None else None


def lock(tx: Tx, request_id: str) -> RequestRow:
    """The row, held until the transaction ends. Raises `Missing`."""
    query = select(requests).where(requests.c.id == request_id).with_for_update()
    row = tx.conn.execute(query).mappings().first()
    if row is None:
        raise missing(request_id)
    return read(RequestRow, row)


def resolve(conn: Connection, id_or_prefix: str, seen: Condition) -> RequestRow:
    """The request of an id, or of its first characters when only one of those `seen` starts with them.

    Raises `Missing` for none, `Conflict` (`request.ambiguous`) for several. What is not seen counts for neither.
    """
    query = select(requests).where(begins(requests.c.id, id_or_prefix), seen).limit(2)
    found = conn.execute(query).mappings().all()
    if not found:
        raise missing(id_or_prefix)
    if len(found) > 1:
        raise Conflict(
            f"more than one request starts with {id_or_prefix}", code="request.ambiguous", hint="give more of the id"
        )
    return read(RequestRow, found[0])


def missing(asked: str) -> Missing:
    """What is said of a request that does not exist, and of one that whoever asks may not know of."""
    return Missing(f"request {asked}")


def those_seen(conn: Connection, request_ids: Collection[str], seen: Condition) -> set[str]:
    """The ids among `request_ids` whose request is one of those `seen`."""
    query = select(requests.c.id).where(requests.c.id.in_(tuple(request_ids)), seen)
    return set(conn.execute(query).scalars())


def find_by_key(conn: Connection, requester: str, key: str) -> RequestRow | None:
    query = select(requests).where(requests.c.requester == requester, requests.c.idempotency_key == key)
    row = conn.execute(query).mappings().first()
    return read(RequestRow, row) if row is not None else None


def move(tx: Tx, row: RequestRow, trigger: Trigger, *, now: datetime, **values: Any) -> RequestRow:
    """Advance `row` by `trigger` and set `values`, only if nobody moved it since it was read.

    Raises `Conflict` when the table of states has no such move, `LostRace` when another one came first.
    """
    changed = {"status": advance(row.status, trigger), "updated_at": now, **values}
    hit = tx.conn.execute(
        update(requests).where(requests.c.id == row.id, requests.c.status == row.status).values(changed)
    )
    if hit.rowcount != 1:
        raise LostRace(f"request {row.id} is no longer {row.status}")
    tx.wake(f"request:{row.id}")
    moved = replace(row, **changed)
    if moved.status is not row.status:
        tx.moved.append(moved)
    return moved


def count_by_status(conn: Connection, statuses: Collection[Status]) -> dict[str, int]:
    """How many requests there are with each of these statuses; one without any is left out."""
    counted = select(requests.c.status, func.count().label("requests"))
    query = counted.where(requests.c.status.in_(statuses)).group_by(requests.c.status)
    return {row.status: row.requests for row in conn.execute(query)}


@dataclass(frozen=True, slots=True)
class Criteria:
    status: str | None = None
    user: str | None = None
    database: str | None = None
    environment: str | None = None
    operation: str | None = None
    since: datetime | None = None
    decidable_by: Visibility | None = None


def page(
    conn: Connection, seen: Condition, criteria: Criteria, *, limit: int, offset: int
) -> tuple[list[RequestRow], int]:
    """Newest first, and how many there are in all."""
    wanted = and_(seen, *matching(criteria))
    total = conn.execute(select(func.count()).select_from(requests).where(wanted)).scalar_one()
    rows = conn.execute(
        select(requests).where(wanted).order_by(requests.c.created_at.desc(), requests.c.id).limit(limit).offset(offset)
    ).mappings()
    return [read(RequestRow, row) for row in rows], total


def matching(criteria: Criteria) -> Iterable[Condition]:
    """What a filter asks of a request; nothing for what it leaves open."""
    for column, value in (
        (requests.c.status, criteria.status),
        (requests.c.requester, criteria.user),
        (requests.c.database, criteria.database),
        (requests.c.environment, criteria.environment),
        (requests.c.operation, criteria.operation),
    ):
        if value is not None:
            yield column == value
    if criteria.since is not None:
        yield requests.c.created_at >= criteria.since
    if criteria.decidable_by is not None:
        me = criteria.decidable_by
        yield awaiting(me.selectors)
        yield or_(requests.c.requester != me.subject, requests.c.workflow["allow_self_approve"].as_boolean())
        mine = exists().where(
            approvals.c.request_id == requests.c.id, approvals.c.actor == me.subject, approvals.c.action == "approve"
        )
        yield ~mine.where(approvals.c.step_index == requests.c.current_step)
        yield or_(~mine, requests.c.workflow["allow_same_approver_across_steps"].as_boolean())


def set_selectors(tx: Tx, request_id: str, selectors: Sequence[str]) -> None:
    """Replace the selectors a pending request waits for; none once it is decided."""
    tx.conn.execute(delete(request_selectors).where(request_selectors.c.request_id == request_id))
    if selectors:
        rows = [{"request_id": request_id, "selector": selector} for selector in dict.fromkeys(selectors)]
        tx.conn.execute(insert(request_selectors), rows)


def selectors(conn: Connection, request_id: str) -> list[str]:
    query = select(request_selectors.c.selector).where(request_selectors.c.request_id == request_id)
    return sorted(conn.execute(query).scalars())


def add_approval(tx: Tx, approval_id: str, request_id: str, approval: Approval) -> None:
    tx.conn.execute(
        insert(approvals).values(
            id=approval_id,
            request_id=request_id,
            step_index=approval.step_index,
            actor=approval.actor,
            action=approval.action,
            matched_selector=str(approval.matched_selector),
            comment=approval.comment,
            created_at=approval.at,
        )
    )


def approvals_of(conn: Connection, request_id: str) -> tuple[Approval, ...]:
    """Oldest first."""
    rows = conn.execute(
        select(approvals).where(approvals.c.request_id == request_id).order_by(approvals.c.created_at, approvals.c.id)
    ).mappings()
    return tuple(
        Approval(
            step_index=row["step_index"],
            actor=row["actor"],
            action=row["action"],
            matched_selector=row["matched_selector"],
            comment=row["comment"],
            at=row["created_at"],
        )
        for row in rows
    )


def due(conn: Connection, status: Status, column: str, before: datetime, *, limit: int) -> list[str]:
    """Ids of requests in `status` whose time in `column` is at or before `before`, oldest first."""
    when = requests.c[column]
    query = select(requests.c.id).where(requests.c.status == status, when <= before).order_by(when).limit(limit)
    return list(conn.execute(query).scalars())


def in_status(conn: Connection, statuses: Collection[Status], *, limit: int) -> list[str]:
    """Ids of requests in any of these."""
    query = select(requests.c.id).where(requests.c.status.in_([str(s) for s in statuses]))
    return list(conn.execute(query.order_by(requests.c.created_at).limit(limit)).scalars())


def of_requester(conn: Connection, requester: str, statuses: Collection[Status]) -> list[str]:
    query = select(requests.c.id).where(
        requests.c.requester == requester, requests.c.status.in_([str(s) for s in statuses])
    )
    return list(conn.execute(query.order_by(requests.c.created_at)).scalars())


def purgeable(conn: Connection, statuses: Collection[Status], before: datetime, *, limit: int) -> list[str]:
    query = (
        select(requests.c.id)
        .where(requests.c.status.in_([str(s) for s in statuses]), requests.c.updated_at < before)
        .order_by(requests.c.updated_at)
        .limit(limit)
    )
    return list(conn.execute(query).scalars())


def remove(tx: Tx, request_id: str, statuses: Collection[Status], before: datetime) -> bool:
    """Delete the request with everything that hangs on it, unless it has changed since it was found `purgeable`."""
    same = (requests.c.id == request_id, requests.c.status.in_([str(s) for s in statuses]))
    hit = tx.conn.execute(delete(requests).where(*same, requests.c.updated_at < before))
    if hit.rowcount:
        tx.wake(f"request:{request_id}")
    return bool(hit.rowcount)
