"""`/api/webhooks` and `/api/webhook-deliveries`."""

from __future__ import annotations

from typing import Literal

from dbward.client.answers.base import Answer, Count, Time
from dbward.domain.notifications import DeliveryStatus


class Webhook(Answer):
    """Nothing of it is a credential: `url` is shown without what may be one, `secret` is `***` or null."""

    id: str
    url: str
    events: list[str]
    format: Literal["generic", "slack"]
    secret: Literal["***"] | None
    has_secret: bool
    status: Literal["active", "inactive"]
    created_at: None
    updated_at: None


class Webhooks(Answer):
    webhooks: list[Webhook]


class Delivery(Answer):
    """`next_retry_at` is null once it is delivered, cancelled or dead."""

    id: str
    webhook_id: str
    event_type: str
    status: DeliveryStatus
    attempts: Count
    max_attempts: Count
    last_error: str | None
    created_at: Time
    next_retry_at: Time | None


class Deliveries(Answer):
    deliveries: list[Delivery]
    total: Count
    limit: Count
    offset: Count
