"""The kombu channel over a source: topology, routing and prefetch credit are the server's.

What kombu's base class would do at home it must not: acknowledge in memory, put messages back when a channel closes,
fetch queue by queue.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, NoReturn

from kombu.transport import base, virtual

from dbward.broker.failures import BrokerRefused, translated
from dbward.broker.wire import Bind, Declare, Depths, Group, Publish, Unbind

_QoS: Any = virtual.QoS
_Channel: Any = virtual.Channel
_virtual_base: Any = virtual.base
_base: Any = base
_queue_declare_ok = _virtual_base.queue_declare_ok_t
_to_arguments = _base.to_rabbitmq_queue_arguments


class LeaseQoS(_QoS):  # type: ignore[misc]  # kombu has no types that hold
    """Remembers the prefetch count. What is delivered is the session's to know, and never put back by a channel."""

    restore_at_shutdown = False

    def __init__(self, channel: Channel, prefetch_count: int = 0) -> None:
        self.channel = channel
        self.prefetch_count = prefetch_count
        self._session = channel.session  # an acknowledgement may come after the channel was closed
        self._delivered: dict[str, Any] = {}

    def can_consume(self) -> bool:
        return True

    def append(self, message: Any, delivery_tag: str) -> None:
        """Nothing to keep: the server counts."""

    def ack(self, delivery_tag: str) -> None:
        self._session.ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        self._session.reject(delivery_tag, requeue=requeue)

    def restore_unacked(self) -> list[Any]:
        return []

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """A task of a closed channel goes on; giving its message back would run it twice."""


class Channel(_Channel):  # type: ignore[misc]  # kombu has no types that hold
    """Topology and routing are the server's; the channel only remembers what it consumes."""

    QoS = LeaseQoS
    supports_fanout = True
    do_restore = False
    body_encoding = "utf-8"
    from_transport_options = ()

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.transport = connection
        self.session = connection.session
        self._no_ack: set[str] = set()
        super().__init__(connection, **kwargs)

    def prepare_queue_arguments(self, arguments: dict[str, Any], **options: Any) -> Any:
        return _to_arguments(arguments, **options)

    def queue_declare(
        self,
        queue: str | None = None,
        passive: bool = False,  # noqa: FBT001, FBT002 - kombu's signature
        exclusive: bool = False,  # noqa: FBT001, FBT002 - kombu's signature
        arguments: dict[str, Any] | None = None,
        **_: Any,
    ) -> Any:
        queue = queue or f"amq.gen-{uuid.uuid4()}"
        if passive:
            return _queue_declare_ok(queue, self._size(queue), 0)
        said = arguments or {}
        ask = Declare(
            session=self.session.id,
            queue=queue,
            exclusive=exclusive,
            expires_ms=said.get("x-expires"),
            message_ttl_ms=said.get("x-message-ttl"),
        )
        declared = self.transport.declare(ask)
        return _queue_declare_ok(queue, declared.size, declared.consumers)

    def queue_bind(self, queue: str, exchange: str | None = None, routing_key: str = "", **_: Any) -> None:
        exchange = exchange or "amq.direct"
        kind = self.typeof(exchange).type
        self.transport.bind(Bind(queue=queue, exchange=exchange, type=kind, routing_key=routing_key or ""))

    def queue_unbind(self, queue: str, exchange: str | None = None, routing_key: str = "", **_: Any) -> None:
        with translated():
            ask = Unbind(queue=queue, exchange=exchange or "amq.direct", routing_key=routing_key or "")
            self.transport.source.unbind(ask)

    def queue_delete(self, queue: str, *_: Any, if_empty: bool = False, **__: Any) -> None:
        if if_empty and self._size(queue):
            return
        self.transport.delete(queue)

    def get_table(self, _: str) -> list[Any]:
        """The server keeps it."""
        return []

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **_: Any) -> None:
        self._inplace_augment_message(message, exchange, routing_key)
        self.transport.publish(
            Publish(
                exchange=exchange or "",
                routing_key=routing_key or "",
                mid=message["properties"]["delivery_tag"],
                message=message,
            )
        )

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any) -> None:  # noqa: FBT001 - kombu's signature
        (self._no_ack.add if no_ack else self._no_ack.discard)(queue)
        super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)

    def basic_cancel(self, consumer_tag: str) -> None:
        super().basic_cancel(consumer_tag)
        # A poll that still asks for this queue would be handed its next message.
        self.transport.hang_up()

    def groups(self) -> Iterator[Group]:
        """What this channel asks for."""
        queues = sorted(set(self._active_queues))
        unlimited = [queue for queue in queues if queue in self._no_ack]
        leased = [queue for queue in queues if queue not in self._no_ack]
        if leased:
            yield Group(queues=leased, prefetch=self.qos.prefetch_count)
        if unlimited:
            yield Group(queues=unlimited, no_ack=True)

    def _reset_cycle(self) -> None:
        """There is no cycle of single gets."""

    def _size(self, queue: str) -> int:
        with translated():
            found = self.transport.source.depths(Depths(queues=[queue]))
        if not found:
            raise BrokerRefused(f"no queue {queue}", (50, 10), "Channel.queue_declare", 404)
        return int(found[0].ready)

    def _purge(self, _: str) -> NoReturn:
        raise BrokerRefused("a queue cannot be purged: cancel the requests instead")

    def _get(self, _: str, **__: Any) -> NoReturn:
        raise BrokerRefused("messages are only consumed, not fetched one by one")

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.basic_publish(message, "", queue)
