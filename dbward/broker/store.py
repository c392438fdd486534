"""The broker's SQL. Every verb works in the caller's transaction and commits nothing.

A message is leased, not deleted, when it is handed out; `tag` is new with each lease and proves who has it. Only
`sweep` ends leases, by the clock of the process that also notices when it stood still. So a message is free when
`lease_until` is null, and until somebody else takes it, its last tag can still renew and acknowledge it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, delete, exists, func, insert, or_, select, update

from dbward.broker.names import topic_matches
from dbward.broker.options import DEAD_LETTERS_KEPT, DELIVERY_CAP, MAX_FETCH, MAX_FETCH_BYTES, MAX_WAITING
from dbward.broker.wire import Declared, Delivery, Group
from dbward.db.engine import Tx
from dbward.db.tables import broker_bindings as bindings
from dbward.db.tables import broker_messages as messages
from dbward.db.tables import broker_queues as queues
from dbward.db.tables import broker_sessions as sessions
from dbward.errors import Missing

_FREE = and_(messages.c.lease_until.is_(None), messages.c.dead_at.is_(None))
_GIVE_BACK = {
    "lease_session": None,
    "lease_until": None,
    "tag": None,
    # It never reached a task, so this delivery does not count.
    "deliveries": case((messages.c.deliveries > 0, messages.c.deliveries - 1), else_=0),
}
_LEASE = (
    update(messages)
    .where(messages.c.id == bindparam("row"))
    .values(
        lease_session=bindparam("session"),
        lease_until=bindparam("until"),
        tag=bindparam("new_tag"),
        deliveries=messages.c.deliveries + 1,
    )
)


@dataclass(frozen=True, slots=True)
class QueueRow:
    """`owner` is the token that declared it; None: the server."""

    owner: str | None
    expires_ms: int | None


@dataclass(frozen=True, slots=True)
class Depth:
    """`oldest_secs` is the age of the oldest message that is ready; None without one."""

    queue: str
    ready: int
    leased: int
    dead: int
    oldest_secs: int | None


@dataclass(frozen=True, slots=True)
class Swept:
    """Jobs whose message is a dead letter; reported until `bury`."""

    dead_jobs: list[str]


# --- queues -----------------------------------------------------------------------------------------------------------


def find_queues(conn: Connection, names: Collection[str]) -> dict[str, QueueRow]:
    """Those of the queues that exist."""
    query = select(queues.c.name, queues.c.owner, queues.c.expires_ms).where(queues.c.name.in_(names))
    return {row.name: QueueRow(row.owner, row.expires_ms) for row in conn.execute(query)}


def count_owned(conn: Connection, owner: str) -> int:
    return conn.execute(select(func.count()).where(queues.c.owner == owner)).scalar_one()


def ensure_job_queues(tx: Tx, names: Collection[str]) -> None:
    """Make the queues that are missing; they belong to the server and never expire."""
    missing = sorted(set(names) - find_queues(tx.conn, names).keys())
    if missing:
        at = datetime.now(UTC)
        rows = [{"name": name, "exclusive": False, "created_at": at} for name in missing]
        tx.conn.execute(insert(queues), rows)


def declare(
    tx: Tx,
    queue: str,
    *,
    owner: str,
    session: str,
    exclusive: bool = False,
    expires: timedelta,
    message_ttl: timedelta | None = None,
    now: datetime,
) -> Declared:
    """Make a queue that lives as long as it is read, or take over one; a queue of the server is left as it is."""
    row = tx.conn.execute(select(queues).where(queues.c.name == queue)).first()
    if row is not None and row.owner is None:
        return Declared(size=size(tx.conn, queue), consumers=0)
    values = {
        "owner": owner,
        "owner_session": session,
        "exclusive": exclusive,
        "expires_ms": expires // timedelta(milliseconds=1),
        "message_ttl_ms": message_ttl // timedelta(milliseconds=1) if message_ttl is not None else None,
        "alive_until": now + expires,
    }
    if row is None:
        tx.conn.execute(insert(queues).values(name=queue, created_at=now, **values))
        return Declared(size=0, consumers=0)
    tx.conn.execute(update(queues).where(queues.c.name == queue).values(values))
    others = 0
    if row.owner_session not in (None, session):
        alive = select(func.count()).where(sessions.c.id == row.owner_session, sessions.c.alive_until > now)
        others = tx.conn.execute(alive).scalar_one()
    return Declared(size=size(tx.conn, queue), consumers=others)


def touch_queues(tx: Tx, names: Collection[str], *, now: datetime, wait: timedelta) -> None:
    """Keep the expiring queues among them alive for a poll, and for their own time after it."""
    query = select(queues.c.name, queues.c.expires_ms).where(queues.c.name.in_(names), queues.c.expires_ms.is_not(None))
    for row in tx.conn.execute(query).all():
        until = now + wait + timedelta(milliseconds=row.expires_ms)
        tx.conn.execute(update(queues).where(queues.c.name == row.name).values(alive_until=until))


def delete_queue(tx: Tx, queue: str) -> None:
    """With its messages and bindings; whoever polls it is woken to find it gone."""
    tx.conn.execute(delete(queues).where(queues.c.name == queue))
    tx.wake(f"queue:{queue}")


def size(conn: Connection, queue: str) -> int:
    """Messages that are free, now or later."""
    return conn.execute(select(func.count()).where(messages.c.queue == queue, _FREE)).scalar_one()


def bind(tx: Tx, queue: str, *, exchange: str, type: str, routing_key: str) -> None:  # noqa: A002 - AMQP's word
    """Raises `Missing` when there is no such queue."""
    if queue not in find_queues(tx.conn, [queue]):
        raise unknown_queue(queue)
    key = (bindings.c.exchange == exchange, bindings.c.routing_key == routing_key, bindings.c.queue == queue)
    if tx.conn.execute(update(bindings).where(*key).values(type=type)).rowcount == 0:
        tx.conn.execute(insert(bindings).values(exchange=exchange, routing_key=routing_key, queue=queue, type=type))


def unbind(tx: Tx, queue: str, *, exchange: str, routing_key: str) -> None:
    key = (bindings.c.exchange == exchange, bindings.c.routing_key == routing_key, bindings.c.queue == queue)
    tx.conn.execute(delete(bindings).where(*key))


def route(conn: Connection, exchange: str, routing_key: str) -> list[str]:
    """The queues a message reaches. Without an exchange it is the queue of that name, which must exist (`Missing`)."""
    if not exchange:
        if routing_key not in find_queues(conn, [routing_key]):
            raise unknown_queue(routing_key)
        return [routing_key]
    query = select(bindings.c.type, bindings.c.routing_key, bindings.c.queue).where(bindings.c.exchange == exchange)
    reached = {row.queue for row in conn.execute(query) if _binds(row.type, row.routing_key, routing_key)}
    return sorted(reached)


def _binds(kind: str, bound: str, routing_key: str) -> bool:
    if kind == "fanout":
        return True
    return topic_matches(bound, routing_key) if kind == "topic" else bound == routing_key


def unknown_queue(queue: str) -> Missing:
    return Missing(f"queue {queue}", code="broker.unknown_queue", detail={"queue": queue})


# --- messages ---------------------------------------------------------------------------------------------------------


def publish(
    tx: Tx,
    *,
    exchange: str,
    routing_key: str,
    mid: str,
    message: dict[str, Any],
    now: datetime,
    job_id: str | None = None,
) -> int:
    """Put a message into every queue it reaches, and wake their polls after the commit; how many there are.

    Repeating it with the same `mid` changes nothing. Raises `Missing` as `route`.
    """
    reached = route(tx.conn, exchange, routing_key)
    body = json.dumps(message, separators=(",", ":"))
    for queue in reached:
        if _is_known(tx.conn, mid, queue) or (job_id is None and size(tx.conn, queue) >= MAX_WAITING):
            continue
        ttl = tx.conn.execute(select(queues.c.message_ttl_ms).where(queues.c.name == queue)).scalar()
        tx.conn.execute(
            insert(messages).values(
                queue=queue,
                mid=mid,
                job_id=job_id,
                body=body,
                created_at=now,
                available_at=now,
                expires_at=now + timedelta(milliseconds=ttl) if ttl is not None else None,
                deliveries=0,
            )
        )
        tx.wake(f"queue:{queue}")
    return len(reached)


def _is_known(conn: Connection, mid: str, queue: str) -> bool:
    query = select(messages.c.id).where(messages.c.mid == mid, messages.c.queue == queue)
    return conn.execute(query).first() is not None


def lease(
    tx: Tx, session: str, groups: Iterable[Group], *, now: datetime, until: datetime, cap: int = DELIVERY_CAP
) -> list[Delivery]:
    """Hand out what is free, oldest first, within each group's credit; those of a `no_ack` group are gone at once."""
    handed: list[Delivery] = []
    room = MAX_FETCH_BYTES
    for group in groups:
        limit = min(_credit(tx.conn, session, group), MAX_FETCH - len(handed))
        if limit <= 0:
            continue
        due = or_(messages.c.expires_at.is_(None), messages.c.expires_at > now)
        query = (
            select(messages.c.id, messages.c.queue, messages.c.body, messages.c.deliveries)
            .where(messages.c.queue.in_(group.queues), _FREE, messages.c.available_at <= now, due)
            .where(messages.c.deliveries < cap)
            .order_by(messages.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        for row in tx.conn.execute(query).all():
            if handed and len(row.body) > room:
                break
            room -= len(row.body)
            tag = None
            if group.no_ack:
                tx.conn.execute(delete(messages).where(messages.c.id == row.id))
            else:
                tag = f"{row.id}.{uuid.uuid4().hex}"
                tx.conn.execute(_LEASE, {"row": row.id, "session": session, "until": until, "new_tag": tag})
            handed.append(
                Delivery(queue=row.queue, tag=tag, deliveries=row.deliveries + 1, message=json.loads(row.body))
            )
    return handed


def _credit(conn: Connection, session: str, group: Group) -> int:
    if group.no_ack or group.prefetch == 0:
        return MAX_FETCH
    query = select(func.count()).where(
        messages.c.lease_session == session, messages.c.lease_until.is_not(None), messages.c.queue.in_(group.queues)
    )
    return group.prefetch - conn.execute(query).scalar_one()


def next_due(conn: Connection, names: Collection[str], now: datetime) -> datetime | None:
    """When the next delayed message of these queues becomes free."""
    query = select(func.min(messages.c.available_at)).where(
        messages.c.queue.in_(names), _FREE, messages.c.available_at > now
    )
    found: datetime | None = conn.execute(query).scalar()
    return found


def extend(tx: Tx, session: str, tags: Sequence[str], until: datetime) -> list[str]:
    """Renew leases; those that are not the session's any more come back."""
    held = _held(tx.conn, session, tags)
    if held:
        mine = (messages.c.lease_session == session, messages.c.tag.in_(held))
        tx.conn.execute(update(messages).where(*mine).values(lease_until=until))
    return [tag for tag in tags if tag not in held]


def ack(tx: Tx, session: str, tags: Sequence[str]) -> list[str]:
    """Delete what was done, and wake the session's poll, which has more credit now; returns tags as `extend`."""
    held = _held(tx.conn, session, tags)
    if held:
        tx.conn.execute(delete(messages).where(messages.c.lease_session == session, messages.c.tag.in_(held)))
        tx.wake(f"session:{session}")
    return [tag for tag in tags if tag not in held]


def _held(conn: Connection, session: str, tags: Sequence[str]) -> set[str]:
    if not tags:
        return set()
    query = select(messages.c.tag).where(messages.c.lease_session == session, messages.c.tag.in_(tags))
    return set(conn.execute(query).scalars())


def reject(
    tx: Tx, session: str, tag: str, *, requeue: bool, now: datetime, delay: timedelta = timedelta(0)
) -> list[str]:
    """Give a message up: to its queue again, or as a dead letter. Returns the tag if it was not the session's."""
    mine = (messages.c.lease_session == session, messages.c.tag == tag)
    queue = tx.conn.execute(select(messages.c.queue).where(*mine)).scalar()
    if queue is None:
        return [tag]
    values: dict[str, Any] = {"lease_session": None, "lease_until": None, "tag": None}
    values |= {"available_at": now + delay} if requeue else {"dead_at": now, "dead_reason": "rejected by its consumer"}
    tx.conn.execute(update(messages).where(*mine).values(values))
    tx.wake(f"queue:{queue}", f"session:{session}")
    return []


# --- sessions ---------------------------------------------------------------------------------------------------------


def session_token(conn: Connection, session: str) -> str | None:
    """The token that opened the session; None when it is not open."""
    found: str | None = conn.execute(select(sessions.c.token_id).where(sessions.c.id == session)).scalar()
    return found


def open_poll(tx: Tx, session: str, *, token_id: str, seq: int, alive_until: datetime) -> bool:
    """Make this the session's poll, and wake the one before; False when a newer one was here already.

    The caller has made sure that the session is the token's.
    """
    tx.wake(f"session:{session}")
    newer = update(sessions).where(sessions.c.id == session, sessions.c.last_seq < seq)
    if tx.conn.execute(newer.values(last_seq=seq, alive_until=alive_until)).rowcount:
        return True
    if session_token(tx.conn, session) is not None:
        return False
    tx.conn.execute(insert(sessions).values(id=session, token_id=token_id, last_seq=seq, alive_until=alive_until))
    return True


def is_newest_poll(conn: Connection, session: str, seq: int) -> bool:
    query = select(sessions.c.last_seq).where(sessions.c.id == session)
    return conn.execute(query).scalar() == seq


def take_back_unknown(tx: Tx, session: str, have: Collection[str]) -> None:
    """Free the session's leases that it does not know of: the answer that carried them was lost."""
    _give_back(tx, messages.c.lease_session == session, messages.c.tag.not_in(have))


def release(tx: Tx, session: str) -> int:
    """End the session: free everything it still holds. Polls of it that are still waiting get nothing."""
    tx.conn.execute(delete(sessions).where(sessions.c.id == session))
    tx.wake(f"session:{session}")
    return _give_back(tx, messages.c.lease_session == session)


def _give_back(tx: Tx, *which: Any) -> int:
    freed = tx.conn.execute(select(messages.c.queue).where(*which, messages.c.dead_at.is_(None))).scalars().all()
    if freed:
        tx.conn.execute(update(messages).where(*which, messages.c.dead_at.is_(None)).values(_GIVE_BACK))
        tx.wake(*(f"queue:{queue}" for queue in freed))
    return len(freed)


# --- jobs: what the services ask --------------------------------------------------------------------------------------


def holds(conn: Connection, job_id: str, *, session: str, tag: str) -> bool:
    """Whether the job's message was handed to the session under this very tag, and to nobody since.

    A lease that has run out still counts: were the claim refused, its agent would acknowledge the message.
    """
    query = select(messages.c.id).where(
        messages.c.job_id == job_id,
        messages.c.lease_session == session,
        messages.c.tag == tag,
        messages.c.dead_at.is_(None),
    )
    return conn.execute(query).first() is not None


def is_leased(conn: Connection, job_id: str) -> bool:
    """Whether anybody holds the job's message."""
    query = select(messages.c.id).where(messages.c.job_id == job_id, messages.c.lease_until.is_not(None))
    return conn.execute(query).first() is not None


def withdraw(tx: Tx, job_id: str) -> int:
    """Delete the job's message, leased or not; how many there were."""
    mine = messages.c.job_id == job_id
    holders = tx.conn.execute(select(messages.c.lease_session).where(mine)).scalars().all()
    if holders:
        tx.conn.execute(delete(messages).where(mine))
        tx.wake(*(f"session:{session}" for session in holders if session is not None))
    return len(holders)


def release_job(tx: Tx, job_id: str, *, now: datetime, delay: timedelta) -> None:
    """Take the lease off the job's message, which is free again after `delay`. The delivery does not count."""
    mine = messages.c.job_id == job_id
    holders = tx.conn.execute(select(messages.c.lease_session).where(mine)).scalars().all()
    tx.conn.execute(update(messages).where(mine).values(available_at=now + delay))
    _give_back(tx, mine)
    tx.wake(*(f"session:{session}" for session in holders if session is not None))


def bury(tx: Tx, job_id: str) -> None:
    """The dead letter has been dealt with: it is kept for a while to be seen, and not reported again."""
    tx.conn.execute(update(messages).where(messages.c.job_id == job_id).values(job_id=None))


def depths(conn: Connection, now: datetime, names: Collection[str] | None = None) -> list[Depth]:
    """Every queue, also the empty ones, by name; or those of `names` that exist."""
    there = messages.c.id.is_not(None)
    query = (
        select(
            queues.c.name,
            func.count(case((and_(there, _FREE), 1))).label("ready"),
            func.count(case((and_(messages.c.lease_until.is_not(None), messages.c.dead_at.is_(None)), 1))).label(
                "leased"
            ),
            func.count(messages.c.dead_at).label("dead"),
            func.min(case((and_(there, _FREE), messages.c.created_at))).label("oldest"),
        )
        .select_from(queues.outerjoin(messages, messages.c.queue == queues.c.name))
        .group_by(queues.c.name)
        .order_by(queues.c.name)
    )
    if names is not None:
        query = query.where(queues.c.name.in_(names))
    return [
        Depth(row.name, row.ready, row.leased, row.dead, _age(row.oldest, now)) for row in conn.execute(query).all()
    ]


def _age(at: datetime | None, now: datetime) -> int | None:
    return max(0, int((now - at).total_seconds())) if at is not None else None


# --- time -------------------------------------------------------------------------------------------------------------


def sweep(tx: Tx, now: datetime, cap: int = DELIVERY_CAP) -> Swept:
    """End what has run out: leases, messages, queues nobody reads, sessions; make dead letters of what was delivered
    `cap` times.
    """
    conn = tx.conn
    lapsed = messages.c.lease_until < now
    for queue in set(conn.execute(select(messages.c.queue).where(lapsed)).scalars()):
        conn.execute(update(messages).where(lapsed, messages.c.queue == queue).values(lease_until=None))
        tx.wake(f"queue:{queue}")
    conn.execute(
        update(messages)
        .where(_FREE, messages.c.deliveries >= cap)
        .values(dead_at=now, dead_reason=f"delivered {cap} times", lease_session=None, tag=None)
    )
    conn.execute(delete(messages).where(_FREE, messages.c.expires_at < now))
    forgotten = and_(messages.c.job_id.is_(None), messages.c.dead_at < now - DEAD_LETTERS_KEPT)
    conn.execute(delete(messages).where(forgotten))
    for queue in conn.execute(select(queues.c.name).where(queues.c.alive_until < now)).scalars().all():
        delete_queue(tx, queue)
    holding = exists().where(messages.c.lease_session == sessions.c.id, messages.c.lease_until.is_not(None))
    conn.execute(delete(sessions).where(sessions.c.alive_until < now, ~holding))
    dead = select(messages.c.job_id).where(messages.c.dead_at.is_not(None), messages.c.job_id.is_not(None))
    return Swept([str(job_id) for job_id in conn.execute(dead).scalars()])


_CLOCKS = (
    (messages, messages.c.id, messages.c.lease_until),
    (queues, queues.c.name, queues.c.alive_until),
    (sessions, sessions.c.id, sessions.c.alive_until),
)


def shift_leases(tx: Tx, by: timedelta) -> None:
    """Everything that would run out does so later: nobody could renew for that long."""
    for table, key, column in _CLOCKS:
        for row_key, until in tx.conn.execute(select(key, column).where(column.is_not(None))).all():
            tx.conn.execute(update(table).where(key == row_key).values({column.name: until + by}))


def grace(tx: Tx, until: datetime) -> None:
    """Nothing runs out before `until`: after a start, nobody could renew while no server ran."""
    for table, _, column in _CLOCKS:
        tx.conn.execute(update(table).where(column < until).values({column.name: until}))
