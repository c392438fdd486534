"""Remote control of an agent: what it answers to, and the one command of our own."""

from __future__ import annotations

from typing import Any

from celery.worker.control import Panel, inspect_command

from dbward.broker.access import COMMANDS
from dbward.broker.wire import Depths


@inspect_command()
def queue_depth(state: Any) -> list[dict[str, Any]]:
    """What waits in the queues of this worker: ready, leased, dead, and the age in seconds of the oldest."""
    consumer = state.consumer
    queues = sorted(queue.name for queue in consumer.task_consumer.queues)
    found = consumer.connection.transport.source.depths(Depths(queues=queues))
    return [depth.model_dump() for depth in found]


def restrict_panel() -> None:
    """Forget every command that is not allowed, aliases too: the server refuses them, and an agent has never heard of
    them.
    """
    for name in set(Panel.data) - COMMANDS:
        del Panel.data[name]
        Panel.meta.pop(name, None)
