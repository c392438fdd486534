"""Writing the audit log: every decision in the transaction that made it, refusals included."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from dbward import ids
from dbward.canonical import canonical_json
from dbward.db import audit
from dbward.db.audit import Tail
from dbward.db.engine import Tx
from dbward.db.rows import RequestRow
from dbward.domain.audit import CATEGORY, AuditEvent, checkpoint_metadata, sign_head, stamp
from dbward.domain.model import SYSTEM, AuditOutcome, Dialect, Event, Principal, Target
from dbward.domain.sql.redact import redact
from dbward.errors import DbwardError, Misconfigured
from dbward.runtime import Runtime
from dbward.services import outbox

CHECKPOINT_EVERY = 100
CHECKPOINT_AFTER = timedelta(hours=1)
FINGERPRINT_MAX = 4096

_Refusal = TypeVar("_Refusal", bound=DbwardError)


def record(
    rt: Runtime,
    tx: Tx,
    event: Event,
    *,
    actor: Principal,
    request: RequestRow | None = None,
    target: Target | None = None,
    execution_id: str | None = None,
    resource: tuple[str, str] | None = None,
    denied: bool = False,
    failed: bool = False,
    reason: str | None = None,
    metadata: dict[str, Any] | None = None,
    sql: tuple[str, Dialect] | None = None,
) -> None:
    """Append one event; about `request` or `target` when given. A signed checkpoint follows when one is due, and what
    webhooks are to be told of it is left for them.

    `sql`: what the event is about, which the record holds as far as `[audit] redaction` lets it.
    """
    now = rt.now()
    kind, resource_id = resource or _resource(request, execution_id)
    where = request.target if request is not None else target
    entry = AuditEvent(
        id=ids.new_id(),
        event_type=event,
        event_category=CATEGORY[event],
        outcome=_outcome(denied=denied, failed=failed),
        actor_id=actor.subject,
        actor_type=actor.kind,
        resource_type=kind,
        resource_id=resource_id,
        peer_ip=actor.peer_ip,
        client_ip=actor.client_ip,
        client_ip_source=actor.client_ip_source,
        request_id=request.id if request is not None else None,
        operation=request.operation if request is not None else None,
        database_name=where.database if where is not None else None,
        environment=where.environment if where is not None else None,
        detail_fingerprint=_fingerprint(rt, sql),
        detail_raw=sql[0] if sql is not None and rt.settings.audit_redaction == "none" else None,
        reason=reason,
        metadata_json=canonical_json(metadata or {}),
        created_at=stamp(now),
    )
    end = _append(rt, tx, _tail(tx), entry)
    if end.seq - end.checkpoint_seq >= CHECKPOINT_EVERY or _overdue(end, now):
        checkpoint(rt, tx, end, now)
    outbox.put(rt, tx, event, entry, requester=request.requester if request is not None else None, at=now)


def checkpoint(rt: Runtime, tx: Tx, end: Tail, now: datetime) -> None:
    """Append a signed checkpoint over the chain up to `end`."""
    assert end.hash is not None
    at = stamp(now)
    count = end.seq - end.checkpoint_seq
    said = checkpoint_metadata(rt.keys.audit, rt.keys.audit_key_id, head_hash=end.hash, count=count, created_at=at)
    entry = _own_event(Event.AUDIT_SIGNED_CHECKPOINT, said, at)
    _append(rt, tx, end, entry, checkpoint_at=now)


def record_info(rt: Runtime, tx: Tx, event: Event, metadata_json: str) -> None:
    """Append something the log says about itself."""
    entry = _own_event(event, metadata_json, stamp(rt.now()))
    _append(rt, tx, _tail(tx), entry)


def record_refusal(
    rt: Runtime,
    tx: Tx,
    refusal: _Refusal,
    *,
    actor: Principal,
    request: RequestRow | None,
    action: str,
    target: Target | None = None,
    resource: tuple[str, str] | None = None,
) -> _Refusal:
    """Put a refusal on the record and hand it back, to be raised after the commit: a raise would erase its own row."""
    record(
        rt,
        tx,
        Event.REQUEST_REFUSED,
        actor=actor,
        request=request,
        target=target,
        resource=resource,
        denied=True,
        reason=refusal.message,
        metadata={"action": action, "code": refusal.code},
    )
    return refusal


def due_checkpoint(rt: Runtime, tx: Tx) -> None:
    """Write the checkpoint that time alone makes due: a quiet log is vouched for too."""
    now = rt.now()
    end = _tail(tx)
    if _overdue(end, now):
        checkpoint(rt, tx, end, now)


def _overdue(end: Tail, now: datetime) -> bool:
    fresh = end.seq - end.checkpoint_seq
    return fresh > 0 and (end.checkpoint_at is None or now - end.checkpoint_at >= CHECKPOINT_AFTER)


def _append(rt: Runtime, tx: Tx, after: Tail, entry: AuditEvent, *, checkpoint_at: datetime | None = None) -> Tail:
    tx.after_commit(rt.metrics.audit_appends.inc)
    sign = partial(sign_head, rt.keys.audit)
    return audit.append(tx, after, entry, sign, checkpoint_at=checkpoint_at)


def _tail(tx: Tx) -> Tail:
    end = audit.tail(tx.conn)
    if end is None:
        raise Misconfigured("the audit log has no head", code="audit.no_head", hint="restore the state from a backup")
    return end


def _own_event(event: Event, metadata_json: str, at: str) -> AuditEvent:
    return AuditEvent(
        id=ids.new_id(),
        event_type=event,
        event_category=CATEGORY[event],
        outcome=AuditOutcome.INFO,
        actor_id=SYSTEM.subject,
        actor_type=SYSTEM.kind,
        metadata_json=metadata_json,
        created_at=at,
    )


def _outcome(*, denied: bool, failed: bool) -> AuditOutcome:
    if denied:
        return AuditOutcome.DENIED
    return AuditOutcome.FAILURE if failed else AuditOutcome.SUCCESS


def _resource(request: RequestRow | None, execution_id: str | None) -> tuple[str | None, str | None]:
    if execution_id is not None:
        return "execution", execution_id
    return ("request", request.id) if request is not None else (None, None)


def _fingerprint(rt: Runtime, sql: tuple[str, Dialect] | None) -> str | None:
    if sql is None or rt.settings.audit_redaction == "full":
        return None
    return redact(*sql)[:FINGERPRINT_MAX]
