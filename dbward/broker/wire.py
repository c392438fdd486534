"""What goes over `POST /api/broker/<op>`, and what a source takes and gives; both ends validate by these types.

A message is what kombu made of it: `body`, `headers`, `properties`, `content-type`, `content-encoding`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PROTOCOL = 1

Name = Annotated[str, Field(min_length=1, max_length=255)]
RoutingKey = Annotated[str, Field(max_length=255)]
Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Tags = Annotated[list[Id], Field(max_length=2000)]
Millis = Annotated[int, Field(ge=0, le=86_400_000)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hello(_Wire):
    """Asked first, which is when a bad token or a wrong version shows."""

    protocol: int = PROTOCOL


class Welcome(_Wire):
    protocol: int
    lease_ms: int
    max_wait_ms: int


class Declare(_Wire):
    session: Id
    queue: Name
    exclusive: bool = False
    expires_ms: Millis | None = None
    message_ttl_ms: Millis | None = None


class Declared(_Wire):
    """`consumers` counts other live processes that use the queue as their own."""

    size: int
    consumers: int


class Bind(_Wire):
    queue: Name
    exchange: Name
    type: Literal["direct", "topic", "fanout"]
    routing_key: RoutingKey


class Unbind(_Wire):
    queue: Name
    exchange: Name
    routing_key: RoutingKey


class Publish(_Wire):
    """`mid` makes repeating it harmless: a queue takes a message of that id once."""

    exchange: RoutingKey
    routing_key: RoutingKey
    mid: Id
    message: dict[str, Any]


class Published(_Wire):
    queues: int


class Group(_Wire):
    """Queues that share one credit: at most `prefetch` of their messages are leased to the session, 0 is no limit.

    With `no_ack` messages are gone once handed out.
    """

    queues: list[Name] = Field(min_length=1, max_length=500)
    prefetch: int = Field(default=0, ge=0, le=100_000)
    no_ack: bool = False


class Fetch(_Wire):
    """One poll for everything a process consumes. `seq` grows with each: the newest poll of a session wins.

    `have` are the leases the process knows of: they are renewed, and others of the session are taken back, for their
    answer never arrived.
    """

    session: Id
    seq: int = Field(ge=1, lt=2**62)
    groups: list[Group] = Field(max_length=50)
    have: Tags = []
    wait_ms: Millis = 0


class Delivery(_Wire):
    """`tag` names this one lease and is null without one; `deliveries` counts this one."""

    queue: str
    tag: str | None
    deliveries: int
    message: dict[str, Any]


class Fetched(_Wire):
    """`stale` are tags of `have` that are not leases of this session any more."""

    messages: list[Delivery] = []
    stale: list[str] = []


class Settle(_Wire):
    session: Id
    tags: Tags


class Stale(_Wire):
    stale: list[str]


class Reject(_Wire):
    """Without `requeue` the message becomes a dead letter."""

    session: Id
    tag: Id
    requeue: bool
    delay_ms: Millis = 0


class Release(_Wire):
    session: Id


class OneQueue(_Wire):
    queue: Name


class Depths(_Wire):
    queues: list[Name] = Field(max_length=500)


class QueueDepth(_Wire):
    """`oldest_secs` is the age of the oldest message that is ready; null without one."""

    queue: str
    ready: int
    leased: int
    dead: int
    oldest_secs: int | None


class DepthList(_Wire):
    queues: list[QueueDepth]


class Nothing(_Wire):
    """An answer that says only that it was done."""
