"""What the transport needs from a broker. Two real ones: `source_sql` in the server's process, `source_http` to it.

Every verb may be repeated. They raise the branches of `dbward.errors`: `Unavailable` (an outage: try again),
`Unauthorized` (the token: do not), `Refused`, `Missing` (`broker.unknown_queue`) and `Invalid`.
"""

from __future__ import annotations

from typing import Protocol

from dbward.broker.wire import (
    Bind,
    Declare,
    Declared,
    Depths,
    Fetch,
    Fetched,
    OneQueue,
    Publish,
    QueueDepth,
    Reject,
    Release,
    Settle,
    Unbind,
    Welcome,
)


class Poll(Protocol):
    """One long-poll in flight."""

    def result(self, timeout: float) -> Fetched | None:
        """The answer, or None when there is none within `timeout` seconds; then it stays in flight."""

    def close(self) -> None:
        """Hang up. What was leased for it and not received is taken back by the next poll."""


class Source(Protocol):
    def hello(self) -> Welcome: ...

    def declare(self, ask: Declare) -> Declared: ...

    def bind(self, ask: Bind) -> None: ...

    def unbind(self, ask: Unbind) -> None: ...

    def delete(self, ask: OneQueue) -> None: ...

    def publish(self, ask: Publish) -> int:
        """How many queues it reached."""

    def poll(self, ask: Fetch) -> Poll:
        """Begin a poll; it replaces the one before of the same session."""

    def ack(self, ask: Settle) -> list[str]:
        """The tags that were not leases of the session any more."""

    def extend(self, ask: Settle) -> list[str]:
        """Renew; returns tags as `ack`."""

    def reject(self, ask: Reject) -> list[str]:
        """Give up one message; returns its tag as `ack`."""

    def release(self, ask: Release) -> None:
        """End the session and free all it holds."""

    def depths(self, ask: Depths) -> list[QueueDepth]: ...

    def close(self) -> None: ...
