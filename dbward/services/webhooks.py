"""The configured webhooks, and what they were to be told of."""

from __future__ import annotations

from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit

from dbward.client.shapes import OFFSET_MAX, PAGE_MAX, DeliveryFilter
from dbward.db import deliveries
from dbward.db.rows import DeliveryRow
from dbward.domain.model import Permission, Principal
from dbward.errors import Conflict, Missing
from dbward.runtime import Runtime
from dbward.services import access
from dbward.services.views import View
from dbward.settings.server_features import Webhook

MASK = "***"
SECRET_SEGMENT = 20
"""Characters from which on a part of a path is taken for a key: those of chat services are longer, names are not."""


def list_webhooks(rt: Runtime, who: Principal) -> View:
    """Every configured webhook. Raises `Refused`."""
    access.check(who, Permission.WORKFLOW_READ)
    return {"webhooks": [_view(hook) for hook in rt.settings.features.webhooks]}


def show(rt: Runtime, who: Principal, webhook_id: str) -> View:
    """Raises `Refused`, `Missing`."""
    access.check(who, Permission.WORKFLOW_READ)
    return _view(_find(rt, webhook_id))


def try_out(rt: Runtime, who: Principal, webhook_id: str) -> NoReturn:
    """Raises `Refused`, `Missing`, and else `Conflict`: nothing calls webhooks in this version."""
    access.check(who, Permission.WEBHOOK_WRITE)
    _find(rt, webhook_id)
    raise Conflict(
        "this version calls no webhooks, so none can be tried out",
        code="webhook.not_called",
        hint="what it would be told of is listed at /api/webhook-deliveries",
    )


def list_deliveries(rt: Runtime, who: Principal, wanted: DeliveryFilter) -> View:
    """One page of deliveries, newest first, with the number that match. Raises `Refused`."""
    access.check(who, Permission.METRICS_VIEW)
    limit = min(wanted.limit, PAGE_MAX)
    with rt.store.read() as conn:
        rows, total = deliveries.page(
            conn, wanted.status, wanted.webhook, limit=limit, offset=min(wanted.offset, OFFSET_MAX)
        )
    return {
        "deliveries": [_delivery(row) for row in rows],
        "total": total,
        "limit": limit,
        "offset": wanted.offset,
    }


def _find(rt: Runtime, webhook_id: str) -> Webhook:
    found = next((hook for hook in rt.settings.features.webhooks if hook.id == webhook_id), None)
    if found is None:
        raise Missing(f"webhook {webhook_id}")
    return found


def _view(hook: Webhook) -> View:
    return {
        "id": hook.id,
        "url": masked(hook.url),
        "events": hook.events,
        "format": hook.format,
        "secret": MASK if hook.secret else None,
        "has_secret": bool(hook.secret),
        "status": "active",
        "created_at": None,
        "updated_at": None,
    }


def masked(url: str) -> str:
    """The URL without what may be a credential: user and password, the query, long parts of the path."""
    parts = urlsplit(url)
    _, at, host = parts.netloc.rpartition("@")
    path = "/".join(MASK if len(segment) >= SECRET_SEGMENT else segment for segment in parts.path.split("/"))
    return urlunsplit((parts.scheme, f"{MASK}@{host}" if at else host, path, MASK if parts.query else "", ""))


def _delivery(row: DeliveryRow) -> View:
    """Not the payload, nor whose request it was: who may look at deliveries may not see requests."""
    return {
        "id": row.id,
        "webhook_id": row.webhook_id,
        "event_type": row.event_type,
        "status": row.status,
        "attempts": row.attempts,
        "max_attempts": row.max_attempts,
        "last_error": row.last_error,
        "created_at": row.created_at,
        "next_retry_at": row.next_retry_at,
    }
