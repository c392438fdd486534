"""The agent as a Celery worker: a thread pool whose main loop fetches from the server, steered by `worker.agent`."""

from __future__ import annotations

import logging
import os
import queue
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Thread, Timer
from types import FrameType
from typing import Any, Final

from celery import Celery, Task
from celery.app import trace
from celery.exceptions import Reject
from celery.worker import WorkController
from celery.worker import state as worker_state

from dbward import VERSION, ids
from dbward.broker.failures import BrokerRefused, BrokerUnavailable, TokenRefused
from dbward.broker.names import EXECUTE_TASK, EXPLAIN_TASK
from dbward.client.agent_api import AgentApi
from dbward.client.wire import AgentWelcome
from dbward.domain.model import Target
from dbward.errors import DbwardError
from dbward.settings.agent import AgentSettings, SchemaSync
from tasks.app import make_app
from tasks.control import restrict_panel
from worker import startup
from worker.agent import EXIT_FAILED, EXIT_OK, Agent, patience
from worker.drivers import open_driver
from worker.drivers.base import Driver
from worker.intake import PutBack
from worker.probes import Probes
from worker.schema_sync import SyncPlan

log = logging.getLogger("dbward.agent")

HEARTBEAT_SECS: Final = 60
"""One event a minute: enough for Flower to show the worker, and within four idle requests a minute."""

APPLY_AGAIN_SECS: Final = 2.0

END_SECS: Final = 20.0
"""After the drain: how long the main loop has to end by itself, before the process ends without it."""


class AgentWorker(WorkController):
    """Celery's worker, steered from outside: `worker.agent.Consumer`, whose calls all take effect in the main loop."""

    consumer: Any  # set by Celery's start-up steps; its stubs do not know it

    def __init__(self, agent: Agent, app: Celery, *, node: str, queues: frozenset[str], concurrency: int) -> None:
        self._agent = agent
        self._queues = queues
        self._current: frozenset[str] = frozenset()
        self._wanted: frozenset[str] = frozenset()
        self._behind = False
        trace.setup_worker_optimizations(app, node)
        super().__init__(
            app=app,
            hostname=node,
            pool="threads",
            concurrency=concurrency,
            prefetch_multiplier=1,
            queues=sorted(queues),
            without_gossip=True,
            without_mingle=True,
            heartbeat_interval=HEARTBEAT_SECS,
        )

    def setup_queues(self, include: Any, exclude: Any = None) -> None:
        """Know all queues, consume from none: which ones, the agent says."""
        super().setup_queues(include, exclude)
        for name in self._queues:
            self.app.amqp.queues.deselect(name)

    def on_consumer_ready(self, consumer: Any) -> None:  # noqa: ARG002 - Celery passes it
        self._agent.runs()

    def consume(self, queues: frozenset[str]) -> None:
        self._wanted = queues
        self.soon(self._apply)

    def soon(self, call: Callable[[], None]) -> None:
        self.consumer.call_soon(call)

    def end(self, status: int) -> None:
        last_resort = Timer(END_SECS, _end_now, (status,))
        last_resort.daemon = True
        last_resort.start()
        worker_state.should_stop = status  # type: ignore[assignment]  # the stubs know its first value only

    def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:  # noqa: FBT001, FBT002
        """However the main loop ended, running statements get their drain before the pool is taken down."""
        self._agent.stop(EXIT_OK if exitcode is None else exitcode)
        self._agent.wait_drained()
        super().stop(in_sighandler=in_sighandler, exitcode=exitcode)

    def _apply(self) -> None:
        """Bring about what is wanted, as far as the server can be reached; the rest later."""
        wanted, before = self._wanted, self._current
        for name in before - wanted:
            self.consumer.cancel_task_queue(name)
            self._current -= {name}
        try:
            for name in wanted - before:
                self.consumer.add_task_queue(name)
                self._current |= {name}
        except (BrokerUnavailable, BrokerRefused, TokenRefused) as e:
            if not self._behind:
                log.warning("queues cannot be consumed yet, trying again: %s", e)
            self._behind = True
            self.consumer.timer.call_after(APPLY_AGAIN_SECS, self.soon, (self._apply,))
        else:
            self._behind = False
        if self._current != before:
            self._agent.consumes(self._current)


def run_agent(settings: AgentSettings) -> int:
    """Run until told to stop. Exit status: 0 clean, 1 could not start or had to cancel statements, 77 token refused."""
    signals = _Signals()
    try:
        return _run(settings, signals)
    except startup.Stopped:
        return EXIT_OK
    except DbwardError as e:
        failure = e
    finally:
        signals.close()
    hint = f" ({failure.hint})" if failure.hint else ""
    log.error("%s%s", failure.message, hint, extra={"code": failure.code})
    return EXIT_FAILED


def _run(settings: AgentSettings, signals: _Signals) -> int:
    for warning in settings.warnings:
        log.warning("%s", warning)
    if settings.insecure:
        log.warning("the token goes over plain http to a host outside this network, as allow_insecure allows")
    session = ids.new_id()
    token = settings.agent_token.reveal()
    api = AgentApi(settings.server_url, token, version=VERSION)
    agent = Agent(
        api,
        _drivers(settings),
        Probes(settings.alive_file, settings.ready_file),
        instance=settings.agent_id,
        session=session,
        operations=settings.operations,
        max_concurrent=settings.max_concurrent_tasks,
        statement_timeout_secs=settings.statement_timeout.total_seconds(),
        drain_timeout_secs=settings.drain_timeout.total_seconds(),
        patience=patience(
            first_secs=settings.startup_retry_initial.total_seconds(),
            last_secs=settings.startup_retry_max.total_seconds(),
            max_secs=settings.startup_max_wait.total_seconds() if settings.startup_max_wait is not None else None,
        ),
        schemas=_sync_plan(settings.schema_sync),
    )
    signals.steer(agent)
    try:
        welcome = agent.start()
        app = make_app(server_url=settings.server_url, token=token, transport_options={"session": session})
        worker = _worker(agent, app, welcome, settings.max_concurrent_tasks)
        if agent.attach(worker):
            worker.start()
            agent.stop(worker.exitcode or EXIT_OK)
        agent.wait_drained()
        return agent.status
    finally:
        agent.close()


def _worker(agent: Agent, app: Celery, welcome: AgentWelcome, concurrency: int) -> AgentWorker:
    @app.task(name=EXECUTE_TASK, bind=True)
    def execute(task: Task[..., None], request_id: str, execution_id: str) -> None:
        with _put_back():
            agent.execute(request_id, execution_id, _tag(task))

    @app.task(name=EXPLAIN_TASK, bind=True)
    def explain(task: Task[..., None], explain_id: str) -> None:
        with _put_back():
            agent.explain(explain_id, _tag(task))

    app.finalize()
    restrict_panel()
    return AgentWorker(agent, app, node=welcome.node, queues=agent.queues(), concurrency=concurrency)


def _tag(task: Task[..., None]) -> str:
    """Of the message's lease."""
    properties: Mapping[str, Any] = task.request.properties or {}
    return str(properties["delivery_tag"])


@contextmanager
def _put_back() -> Iterator[None]:
    """Have the message delivered again when the agent says so."""
    try:
        yield
    except PutBack as e:
        raise Reject(str(e), requeue=True) from e


def _drivers(settings: AgentSettings) -> dict[Target, Driver]:
    return {target: open_driver(url.reveal()) for target, url in settings.databases.items()}


def _sync_plan(settings: SchemaSync) -> SyncPlan | None:
    if not settings.enabled:
        return None
    interval = settings.interval
    return SyncPlan(settings.sync_on_startup, interval.total_seconds() if interval is not None else None)


def _end_now(status: int) -> None:
    log.error("the worker does not end by itself; ending the process")
    logging.shutdown()
    os._exit(status or EXIT_FAILED)


class _Signals:
    """SIGTERM and SIGINT on a thread of their own: a handler may interrupt any lock, so it only passes them on."""

    def __init__(self) -> None:
        self._received: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._agent: Agent | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._pass_on)

    def steer(self, agent: Agent) -> None:
        """From now on the first signal drains the agent, and a second one cancels what runs."""
        self._agent = agent
        Thread(target=self._run, name="signals", daemon=True).start()

    def close(self) -> None:
        self._received.put(None)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the form of a handler
        self._received.put(number)

    def _run(self) -> None:
        agent, seen = self._agent, False
        while agent is not None and (number := self._received.get()) is not None:
            log.info("received %s", signal.Signals(number).name)
            if seen:
                agent.stop_now()
            else:
                agent.stop()
            seen = True
