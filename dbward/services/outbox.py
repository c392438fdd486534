"""What webhooks are to be told of: left in the transaction of the event itself, so that neither is there without the
other, and ended or forgotten in time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta

from dbward import ids
from dbward.db import deliveries
from dbward.db.engine import Tx
from dbward.db.rows import DeliveryRow
from dbward.domain.audit import AuditEvent
from dbward.domain.model import Event, Target
from dbward.domain.notifications import DeliveryStatus, recipients
from dbward.runtime import Runtime
from dbward.services.views import View

MAX_ATTEMPTS = 10
GIVE_UP_AFTER = timedelta(days=7)
FORGET_AFTER = timedelta(days=7)
BATCH = 500

_NOT_CONFIGURED = "the webhook is not in the configuration any more"
_NOT_SENT = "not sent within 7 days"
_WITH_SQL = frozenset(
    {
        Event.REQUEST_CREATED,
        Event.REQUEST_AUTO_APPROVED,
        Event.REQUEST_BREAK_GLASS,
        Event.REQUEST_BLOCKED_BY_REVIEW,
    }
)


def put(rt: Runtime, tx: Tx, event: Event, entry: AuditEvent, *, requester: str | None, at: datetime) -> None:
    """A delivery for every webhook that is to be told of `event`, which the log holds as `entry`."""
    features = rt.settings.features
    if not features.webhooks:
        return
    target = None
    if entry.database_name is not None and entry.environment is not None:
        target = Target(entry.database_name, entry.environment)
    filters = {hook.id: hook.events for hook in features.webhooks}
    told = recipients(event, target, filters, features.notification_policies)
    if told:
        payload = _payload(event, entry, requester)
        deliveries.add(tx, [_row(name, event, entry.request_id, payload, at) for name in told])


def _payload(event: Event, entry: AuditEvent, requester: str | None) -> View:
    """The facts of an event. SQL only as the log shows it to everybody: without its values, or not at all."""
    return {
        "event": event,
        "occurred_at": entry.created_at.replace("+00:00", "Z"),  # as the API shows the event
        "request_id": entry.request_id,
        "execution_id": entry.resource_id if entry.resource_type == "execution" else None,
        "user_id": entry.resource_id if entry.resource_type == "user" else None,
        "database": entry.database_name,
        "environment": entry.environment,
        "operation": entry.operation,
        "actor": entry.actor_id,
        "requester": requester,
        "detail": entry.detail_fingerprint if event in _WITH_SQL else None,
        "matched_selector": json.loads(entry.metadata_json).get("matched_selector"),
    }


def _row(webhook_id: str, event: Event, request_id: str | None, payload: View, at: datetime) -> DeliveryRow:
    return DeliveryRow(
        id=f"wd-{ids.new_id()}",
        webhook_id=webhook_id,
        event_type=event,
        request_id=request_id,
        payload=payload,
        status=DeliveryStatus.PENDING,
        attempts=0,
        max_attempts=MAX_ATTEMPTS,
        last_error=None,
        created_at=at,
        next_retry_at=at,
        finished_at=None,
    )


def cancel_removed(rt: Runtime, tx: Tx) -> None:
    """End what is pending for webhooks that the configuration does not hold any more."""
    kept = [hook.id for hook in rt.settings.features.webhooks]
    deliveries.cancel_all_but(tx, kept, _NOT_CONFIGURED, rt.now())


def tidy(rt: Runtime) -> None:
    """Give up what could not be sent for a week, and forget what ended a week ago."""
    now = rt.now()
    _in_batches(rt, lambda tx: deliveries.give_up(tx, now - GIVE_UP_AFTER, _NOT_SENT, now, limit=BATCH))
    _in_batches(rt, lambda tx: deliveries.forget(tx, now - FORGET_AFTER, limit=BATCH))


def _in_batches(rt: Runtime, work: Callable[[Tx], int]) -> None:
    """A transaction for each batch, so that other writers need not wait for all of it."""
    while rt.store.write(work) == BATCH:
        pass
