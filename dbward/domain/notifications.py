"""Which webhooks are told of which events. A rule of a target goes before what the webhooks say of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dbward.domain.model import ANY, Event, Target
from dbward.domain.policy import most_specific

ANNOUNCED = frozenset(
    {
        Event.REQUEST_CREATED,
        Event.REQUEST_AUTO_APPROVED,
        Event.REQUEST_BREAK_GLASS,
        Event.REQUEST_BLOCKED_BY_REVIEW,
        Event.STEP_APPROVED,
        Event.REQUEST_APPROVED,
        Event.REQUEST_REJECTED,
        Event.REQUEST_CANCELLED,
        Event.REQUEST_EXPIRED,
        Event.REQUEST_DISPATCHED,
        Event.REQUEST_DISPATCH_TIMEOUT,
        Event.EXECUTION_STARTED,
        Event.EXECUTION_COMPLETED,
        Event.EXECUTION_FAILED,
        Event.EXECUTION_LOST,
        Event.USER_CREATED,
        Event.USER_UPDATED,
        Event.USER_SUSPENDED,
        Event.USER_ACTIVATED,
        Event.USER_DELETED,
    }
)
"""What webhooks can be told of; everything else stays in the audit log."""


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class NotificationPolicy:
    """Whom to tell of what happens on the targets of one scope. No `webhooks` tells nobody; no `events` leaves the
    choice of events to each webhook.
    """

    id: str
    database: str = ANY
    environment: str = ANY
    webhooks: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


def matches(filters: Sequence[str], event: str) -> bool:
    """Whether a list of filters lets `event` through: an empty one all; else by name, `*`, or `prefix.*`."""
    return not filters or any(_matches(one, event) for one in filters)


def _matches(pattern: str, event: str) -> bool:
    if pattern.endswith(".*"):
        return event.startswith(pattern[:-1])
    return pattern in (ANY, event)


def matches_any(pattern: str) -> bool:
    """Whether there is an event that this filter lets through."""
    return any(_matches(pattern, event) for event in ANNOUNCED)


def recipients(
    event: Event,
    target: Target | None,
    webhooks: Mapping[str, Sequence[str]],
    policies: Iterable[NotificationPolicy],
) -> list[str]:
    """Ids of the webhooks that are told of `event` on `target`; `webhooks` holds the filters of each, by its id.

    The most specific policy of the target names the webhooks, and the events too when it lists any. Without one, and
    for what has no target, each webhook decides by its own filters.
    """
    if event not in ANNOUNCED:
        return []
    rule = most_specific(policies, target) if target is not None else None
    named = webhooks if rule is None else dict.fromkeys(name for name in rule.webhooks if name in webhooks)
    listed = () if rule is None else rule.events
    return [name for name in named if matches(listed or webhooks[name], event)]
