"""The Celery application over the dbward transport: for agents, `celery inspect` and Flower alike."""

from __future__ import annotations

from typing import Any, Final

import celery
from celery import Celery
from celery.signals import worker_init, worker_shutdown
from celery.worker import state
from celery.worker.consumer import Consumer

from dbward.broker import transport
from dbward.errors import Misconfigured

CELERY: Final = "5.7."
PENDING: Final = "_pending_operations"
"""What Celery's main loop does next, once the wait for messages returns; it has no public name."""

if not celery.__version__.startswith(CELERY) or not hasattr(Consumer, "call_soon_ack"):
    # Before 5.7 a worker on a polling transport holds back acknowledgements, and with them its next task.
    raise Misconfigured(
        f"Celery {celery.__version__} is installed; dbward's transport works with {CELERY}x only",
        hint="install `celery>=5.7,<5.8`",
    )


def make_app(*, server_url: str, token: str, transport_options: dict[str, Any] | None = None) -> Celery:
    """An application whose broker is the server at `server_url`, which may be `http://` or `https://`.

    `transport_options` are shown by `inspect stats`: no secrets. `{"session": id}` makes this process a worker.
    """
    app = Celery("dbward", set_as_current=False)
    app.conf.update(
        broker_url=transport.broker_url(server_url, token),
        broker_transport_options=transport_options or {},
        # The transport waits outages out by itself; Celery's turn is only while a process starts.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=False,
        # Threads that wait for answers would each hold a connection that another needs to ask.
        broker_pool_limit=None,
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=True,
        task_publish_retry=False,
        task_send_sent_event=False,
        worker_prefetch_multiplier=1,
        worker_pool="threads",
        # Both undo what the server already does: it counts the credit, and leases outlive a connection.
        worker_enable_prefetch_count_reduction=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,
        worker_redirect_stdouts=False,
        worker_hijack_root_logger=False,
    )
    return app


@worker_init.connect(weak=False)
def _let_interrupt(sender: Any, **_: Any) -> None:
    """Let the transport's wait end when Celery's main loop has something else to do: stop, or change its queues."""

    def stopping() -> bool:
        flags: tuple[Any, ...] = (state.should_stop, state.should_terminate)  # a status to stop with, which may be 0
        return any(flag is not None and flag is not False for flag in flags)

    def interrupted() -> bool:
        return stopping() or bool(getattr(getattr(sender, "consumer", None), PENDING, ()))

    transport.Transport.stopping = staticmethod(stopping)
    transport.Transport.interrupted = staticmethod(interrupted)


@worker_shutdown.connect(weak=False)
def _give_back(**_: Any) -> None:
    transport.close_worker_sessions()
