"""The audit log's rows and the one-row head that says where the chain ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, delete, func, insert, literal, select, update

from dbward.db.engine import Tx
from dbward.db.tables import audit_events, audit_head
from dbward.domain.audit import CHAIN_VERSION, AuditEvent, Head, Link, event_hash
from dbward.domain.model import Event
from dbward.errors import LostRace

PAGE_ROWS: Final = 1000
PAGE_BYTES: Final = 4 * 2**20

_seq = audit_events.c.seq
_LINK_COLUMNS = [
    *(audit_events.c[name] for name in AuditEvent.__slots__),
    _seq,
    audit_events.c.event_hash,
    audit_events.c.chain_version,
]
# What may be long; the rest of a row is a few hundred bytes.
_SIZE = sum(
    (func.coalesce(func.length(audit_events.c[name]), 0) for name in ("detail_raw", "reason", "metadata_json")),
    literal(1000),
)

# Written with every event, so built once: values are passed to `execute`, which costs a third of `.values(...)`.
_TAIL = select(audit_head.c.seq, audit_head.c.hash, audit_head.c.checkpoint_seq, audit_head.c.checkpoint_at)
_MOVE_HEAD = update(audit_head).where(audit_head.c.id == 1, audit_head.c.seq == bindparam("was"))
_ADD_EVENT = insert(audit_events)


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of the chain as a writer needs it."""

    seq: int
    hash: str | None
    checkpoint_seq: int
    checkpoint_at: datetime | None


def begin(tx: Tx, signature: str, now: datetime) -> None:
    """Create the head of an empty chain; `signature` signs (0, None). A first checkpoint is due in an hour."""
    tx.conn.execute(
        insert(audit_head).values(
            id=1, seq=0, hash=None, signature=signature, first_seq=1, checkpoint_seq=0, checkpoint_at=now
        )
    )


def tail(conn: Connection) -> Tail | None:
    row = conn.execute(_TAIL).first()
    return Tail(*row) if row is not None else None


def head(conn: Connection) -> Head | None:
    columns = [audit_head.c[name] for name in ("seq", "hash", "signature", "first_seq", "first_prev_hash")]
    row = conn.execute(select(*columns)).first()
    return Head(*row) if row is not None else None


def append(
    tx: Tx, after: Tail, event: AuditEvent, sign: Callable[[int, str], str], *, checkpoint_at: datetime | None = None
) -> Tail:
    """Chain `event` after `after` and move the signed head to it; `checkpoint_at` when it is a checkpoint itself."""
    chained = replace(event, prev_hash=after.hash)
    digest = event_hash(chained, after.hash)
    seq = after.seq + 1
    now = Tail(seq, digest, seq if checkpoint_at else after.checkpoint_seq, checkpoint_at or after.checkpoint_at)
    moved = tx.conn.execute(
        _MOVE_HEAD,
        {
            "was": after.seq,
            "seq": seq,
            "hash": digest,
            "signature": sign(seq, digest),
            "checkpoint_seq": now.checkpoint_seq,
            "checkpoint_at": now.checkpoint_at,
        },
    )
    if moved.rowcount != 1:
        raise LostRace("the audit log was extended by another writer")
    values = {name: getattr(chained, name) for name in AuditEvent.__slots__}
    tx.conn.execute(_ADD_EVENT, values | {"seq": seq, "event_hash": digest, "chain_version": CHAIN_VERSION})
    return now


def page(conn: Connection, wanted: Search, *, after: int, upto: int) -> list[Link]:
    """The next rows in order with `after` < seq <= `upto`, empty when there are none: at most 1000, and about
    4 MB, however long the SQL on record is; but one at least.
    """
    matching = and_(*_conditions(wanted, after=after))
    sizes = conn.execute(select(_seq, _SIZE).where(matching, _seq <= upto).order_by(_seq).limit(PAGE_ROWS)).all()
    if not sizes:
        return []
    last, total = sizes[0].seq, 0
    for seq, size in sizes:
        total += size
        if total > PAGE_BYTES and seq != sizes[0].seq:
            break
        last = seq
    rows = conn.execute(select(*_LINK_COLUMNS).where(matching, _seq <= last).order_by(_seq))
    return [_link(row) for row in rows]


def _link(row: Row[Any]) -> Link:
    *values, seq, digest, version = tuple(row)
    return Link(seq, AuditEvent(**dict(zip(AuditEvent.__slots__, values, strict=True))), digest, version)


def beyond(conn: Connection, seq: int) -> int:
    """How many rows stand after `seq`; any after the head were put there by somebody else."""
    return conn.execute(select(func.count()).where(_seq > seq)).scalar_one()


def hash_at(conn: Connection, seq: int) -> str | None:
    return conn.execute(select(audit_events.c.event_hash).where(_seq == seq)).scalar()


@dataclass(frozen=True, slots=True)
class Search:
    """Exact matches by column; `since` and `until` inclusive, as `domain.audit.stamp` makes them; `before_seq` not."""

    equal: Mapping[str, str] = field(default_factory=dict)
    since: str | None = None
    until: str | None = None
    before_seq: int | None = None


EVERYTHING = Search()


def search(conn: Connection, wanted: Search, *, limit: int, offset: int) -> list[Link]:
    """Newest first."""
    query = select(*_LINK_COLUMNS).where(*_conditions(wanted)).order_by(_seq.desc()).limit(limit).offset(offset)
    return [_link(row) for row in conn.execute(query)]


def count(conn: Connection, wanted: Search, *, most: int) -> int:
    """How many match, counted no further than `most`."""
    found = select(_seq).where(*_conditions(replace(wanted, before_seq=None))).limit(most).subquery()
    return conn.execute(select(func.count()).select_from(found)).scalar_one()


def _conditions(wanted: Search, *, after: int = 0) -> Iterator[ColumnElement[bool]]:
    yield _seq > after  # one bound alone: of two, SQLite may take the wider and read on from there
    for name, value in wanted.equal.items():
        yield audit_events.c[name] == value
    if wanted.since is not None:
        yield audit_events.c.created_at >= wanted.since
    if wanted.until is not None:
        yield audit_events.c.created_at <= wanted.until
    if wanted.before_seq is not None:
        yield _seq < wanted.before_seq


def happened(conn: Connection, event: Event, actor_id: str, since: str) -> bool:
    """Whether `actor_id` has done that at `since`, as `domain.audit.stamp` makes it, or later."""
    query = (
        select(audit_events.c.seq)
        .where(
            audit_events.c.actor_id == actor_id,
            audit_events.c.event_type == event,
            audit_events.c.created_at >= since,
        )
        .limit(1)
    )
    return conn.execute(query).first() is not None


def last_checkpoint_before(conn: Connection, created_at: str) -> tuple[int, str] | None:
    """`(seq, hash)` of the newest checkpoint at or before `created_at`."""
    query = (
        select(audit_events.c.seq, audit_events.c.event_hash)
        .where(audit_events.c.event_type == Event.AUDIT_SIGNED_CHECKPOINT, audit_events.c.created_at <= created_at)
        .order_by(audit_events.c.seq.desc())
        .limit(1)
    )
    row = conn.execute(query).first()
    return (row.seq, row.event_hash) if row is not None else None


def cut(tx: Tx, upto: int, last_hash: str) -> None:
    """Delete the rows up to `upto`, whose hash is `last_hash`, and remember where the chain begins from now on."""
    tx.conn.execute(delete(audit_events).where(audit_events.c.seq <= upto))
    tx.conn.execute(
        update(audit_head).where(audit_head.c.id == 1).values(first_seq=upto + 1, first_prev_hash=last_hash)
    )
