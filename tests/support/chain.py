"""A long audit log, made much faster than a server would write it and just as valid."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import insert, update

from dbward.db import audit
from dbward.db.audit import Tail
from dbward.db.engine import Tx
from dbward.db.tables import audit_events, audit_head
from dbward.domain.audit import CHAIN_VERSION, AuditEvent, checkpoint_metadata, event_hash, sign_head, stamp
from dbward.domain.model import Event
from dbward.runtime import Runtime
from dbward.services.journal import CHECKPOINT_EVERY

_BATCH = 10_000


def extend(rt: Runtime, count: int, *, span: timedelta = timedelta()) -> None:
    """Append `count` events, checkpoints not counted, spread over the `span` of time before now."""
    for done in range(0, count, _BATCH):
        size = min(_BATCH, count - done)
        age = span * (1 - done / count)
        rt.store.write(lambda tx, size=size, age=age: _extend(rt, tx, size, age))  # type: ignore[misc]


def _extend(rt: Runtime, tx: Tx, count: int, age: timedelta) -> None:
    now = rt.now() - age
    end = audit.tail(tx.conn)
    assert end is not None
    rows: list[dict[str, Any]] = []

    def add(event: AuditEvent, end: Tail, *, checkpoint: bool = False) -> Tail:
        chained = replace(event, prev_hash=end.hash)
        seq, digest = end.seq + 1, event_hash(chained, end.hash)
        values = {name: getattr(chained, name) for name in AuditEvent.__slots__}
        rows.append(values | {"seq": seq, "event_hash": digest, "chain_version": CHAIN_VERSION})
        return Tail(seq, digest, seq if checkpoint else end.checkpoint_seq, now if checkpoint else end.checkpoint_at)

    at = stamp(now)
    for number in range(count):
        end = add(_event(number, at), end)
        if end.seq - end.checkpoint_seq >= CHECKPOINT_EVERY:
            assert end.hash is not None
            since = end.seq - end.checkpoint_seq
            said = checkpoint_metadata(
                rt.keys.audit, rt.keys.audit_key_id, head_hash=end.hash, count=since, created_at=at
            )
            end = add(_checkpoint(said, at), end, checkpoint=True)
    tx.conn.execute(insert(audit_events), rows)
    assert end.hash is not None
    tx.conn.execute(
        update(audit_head).values(
            seq=end.seq,
            hash=end.hash,
            signature=sign_head(rt.keys.audit, end.seq, end.hash),
            checkpoint_seq=end.checkpoint_seq,
            checkpoint_at=end.checkpoint_at,
        )
    )


def _event(number: int, at: str) -> AuditEvent:
    """As ordinary as they come, by one of a thousand people, about a request of its own."""
    request = str(uuid.uuid4())
    return AuditEvent(
        id=str(uuid.uuid4()),
        event_type=Event.REQUEST_CREATED,
        event_category="approval",
        outcome="success",
        actor_id=f"person-{number % 1000}",
        actor_type="user",
        resource_type="request",
        resource_id=request,
        peer_ip="10.0.0.1",
        client_ip="192.0.2.7",
        client_ip_source="xff",
        request_id=request,
        operation="execute_dml",
        database_name="app",
        environment="production",
        detail_fingerprint="UPDATE customers SET plan = ?, changed_at = ? WHERE id = ?",
        reason="as asked for in the ticket",
        metadata_json='{"risk":"low"}',
        created_at=at,
    )


def _checkpoint(said: str, at: str) -> AuditEvent:
    return AuditEvent(
        id=str(uuid.uuid4()),
        event_type=Event.AUDIT_SIGNED_CHECKPOINT,
        event_category="policy",
        outcome="info",
        actor_id="system",
        actor_type="system",
        metadata_json=said,
        created_at=at,
    )
