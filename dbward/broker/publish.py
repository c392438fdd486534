"""Jobs into their queues: a standard Celery message, written in the transaction that decided on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from celery import Celery
from kombu import Producer

from dbward.broker import transport
from dbward.broker.names import EXECUTE_TASK, EXPLAIN_TASK, job_queue
from dbward.broker.source_sql import SqlSource
from dbward.broker.wake import Hub
from dbward.db.engine import Tx
from dbward.domain.model import Target

T = TypeVar("T")


class _Inside(threading.local):
    """Runs work in the transaction that the caller is in."""

    tx: Tx | None = None

    def write(self, work: Callable[[Tx], T]) -> T:
        if self.tx is None:
            raise RuntimeError("there is no transaction to publish in")
        return work(self.tx)


class Publisher:
    """Celery's own `send_task`, whose broker is the caller's transaction. `now` is the server's clock."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._inside = _Inside()
        source = SqlSource(self._inside, Hub(), now)  # nobody waits on this hub: the transaction wakes after its commit
        self._app = Celery("dbward", set_as_current=False)
        self._app.conf.update(
            broker_url=transport.LOCAL_URL,
            broker_transport_options={"source": source},
            task_serializer="json",
            task_ignore_result=True,
            task_send_sent_event=False,
        )
        self._producer = Producer(self._app.connection_for_write().channel(), auto_declare=False)

    def execution(self, tx: Tx, *, target: Target, request_id: str, execution_id: str) -> None:
        """Queue one execution for the agents of `target`. They are woken after the commit."""
        self._send(tx, EXECUTE_TASK, target, execution_id, {"request_id": request_id, "execution_id": execution_id})

    def explain(self, tx: Tx, *, target: Target, explain_id: str) -> None:
        """Queue the question how statements would run. The agents are woken after the commit."""
        self._send(tx, EXPLAIN_TASK, target, explain_id, {"explain_id": explain_id})

    def _send(self, tx: Tx, task: str, target: Target, job_id: str, arguments: dict[str, str]) -> None:
        self._inside.tx = tx
        try:
            self._app.send_task(
                task,
                kwargs=arguments,
                task_id=job_id,
                queue=job_queue(target),
                producer=self._producer,
                retry=False,
            )
        finally:
            self._inside.tx = None
