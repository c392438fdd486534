"""The agent as one thing: its databases, its jobs, what it tells the server, how it ends. Knows nothing of Celery."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from threading import Event, Lock, Thread
from typing import Final, Protocol

from dbward import VERSION
from dbward.broker.names import job_queue
from dbward.client.agent_api import AgentApi
from dbward.client.wire import PROTOCOL, AgentReport, AgentWelcome
from dbward.domain.model import Operation, Target
from dbward.errors import Misconfigured
from worker import startup
from worker.accounts import warn_of_writer
from worker.databases import Databases
from worker.drivers.base import Driver
from worker.explain import Explainer
from worker.intake import Intake
from worker.job import Rules, refuse_skew
from worker.jobs import Jobs
from worker.lease import Stop
from worker.probes import BEAT_SECS, Probes
from worker.report import Reporter
from worker.run import Runner
from worker.schema_sync import SchemaSync, SyncPlan
from worker.timer import Timer

log = logging.getLogger("dbward.agent")

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_TOKEN: Final = 77
"""The server does not accept the token any more: restarting with the same one is no use."""

CANCEL_SECS: Final = 15.0
"""After the drain's deadline: how long cancelled statements have to roll back and be reported."""


class Consumer(Protocol):
    """What fetches the messages; every method may be called from any thread and returns at once."""

    def consume(self, queues: frozenset[str]) -> None:
        """Fetch from exactly these queues as soon as it can, and say so with `Agent.consumes`."""

    def soon(self, call: Callable[[], None]) -> None:
        """Call from the main loop, the next time it comes round."""

    def end(self, status: int) -> None:
        """End the main loop; nothing is in hand any more."""


class Agent:
    """One per process. `start`, then `attach` a consumer, then `execute` for each message, until `stop`.

    `operations` and `statement_timeout` (zero: none) are this agent's own bounds on what the server may ask. `schemas`
    says when the databases' schemas are collected, None never.
    """

    def __init__(
        self,
        api: AgentApi,
        drivers: dict[Target, Driver],
        probes: Probes,
        *,
        instance: str,
        session: str,
        operations: Collection[Operation],
        max_concurrent: int,
        statement_timeout_secs: float,
        drain_timeout_secs: float,
        patience: startup.Patience,
        schemas: SyncPlan | None = None,
    ) -> None:
        self._api = api
        self._probes = probes
        self._instance = instance
        self._session = session
        self._operations = tuple(operations)
        self._max_concurrent = max_concurrent
        self._statement_timeout_secs = statement_timeout_secs
        self._drain_timeout_secs = drain_timeout_secs
        self._patience = patience
        self._started_at = datetime.now(UTC)
        self._closing = Event()
        self._abandon = Event()
        self._hurry = Event()
        self._quiet = Event()
        self._drained = Event()
        self._lock = Lock()
        self._queue_lock = Lock()
        self._status = EXIT_OK
        self._consumer: Consumer | None = None
        self._running = False
        self._allowed: frozenset[str] = frozenset()
        self._runner: Runner | None = None
        self._explainer: Explainer | None = None
        self._timer = Timer("beat")
        self._reporter = Reporter(self._report, busy=lambda: len(self._jobs) > 0, on_unauthorized=self.unauthorized)
        self._jobs = Jobs(self._reporter.jobs_changed)
        self._databases = Databases(
            drivers,
            on_change=self._databases_changed,
            on_met=lambda target, driver: warn_of_writer(target, driver, self._operations),
            first_secs=patience.first_secs,
            last_secs=patience.last_secs,
        )
        self._schemas = SchemaSync(
            api,
            self._databases,
            schemas,
            session=session,
            served=self._served,
            on_unauthorized=self.unauthorized,
            on_forgotten=self._reporter.state_changed,
        )

    @property
    def status(self) -> int:
        """The exit status, once `stop` has been called."""
        return self._status

    @property
    def stopping(self) -> bool:
        return self._closing.is_set()

    def start(self) -> AgentWelcome:
        """Everything before the first job. Raises `DbwardError`, or `startup.Stopped` when told to stop meanwhile."""
        self._probes.open()
        self._timer.every(BEAT_SECS, self._beat)
        key = startup.fetch_key(self._api, self._patience, self._closing)
        startup.connect(self._databases, self._patience, self._closing)
        welcome = startup.greet(self._api, self._snapshot, self._patience, self._closing)
        self._welcome(welcome)
        if not self._allowed:
            raise Misconfigured(
                "the server lets this agent serve none of its databases",
                code="agent.no_scope",
                hint="compare [databases] here with the scopes of the agent's token and the server's databases",
            )
        intake = Intake(
            key,
            jobs=self._jobs,
            session=self._session,
            closing=self._closing,
            quiet=self._quiet,
            on_unauthorized=self.unauthorized,
            on_forgotten=self._reporter.state_changed,
        )
        rules = Rules(
            node=welcome.node,
            targets=self._databases.targets,
            operations=self._operations,
            statement_timeout=timedelta(seconds=self._statement_timeout_secs),
        )
        runner = self._runner = Runner(
            self._api, self._databases, intake, rules, abandon=self._abandon, on_changed=self._schemas.changed
        )
        self._explainer = Explainer(self._api, self._databases, intake, lambda: runner.rules)
        self._reporter.open()
        self._schemas.open()
        return welcome

    def queues(self) -> frozenset[str]:
        """All queues this agent may ever fetch from, and the server agrees to."""
        return self._allowed

    def attach(self, consumer: Consumer) -> bool:
        """Give it the consumer to steer; False when the agent was stopped meanwhile and nothing is to be consumed."""
        with self._lock:
            if self._closing.is_set():
                return False
            self._consumer = consumer
        self._steer()
        return True

    def runs(self) -> None:
        """The consumer's main loop runs now."""
        self._running = True
        self._steer()

    def consumes(self, queues: frozenset[str]) -> None:
        """The consumer fetches from these queues now: with any, this agent is ready."""
        with self._queue_lock:
            self._probes.set_ready(bool(queues) and not self._closing.is_set())
        log.info("consuming from %s", ", ".join(sorted(queues)) or "no queue")

    def execute(self, request_id: str, execution_id: str, tag: str) -> None:
        """Run one message to its end. Raises `run.PutBack` when it is to be delivered again."""
        if self._runner is None:
            raise RuntimeError("the agent was not started")
        self._runner.execute(request_id, execution_id, tag)

    def explain(self, explain_id: str, tag: str) -> None:
        """Answer one question how statements would run. Raises `run.PutBack` when it is to be delivered again."""
        if self._explainer is None:
            raise RuntimeError("the agent was not started")
        self._explainer.explain(explain_id, tag)

    def unauthorized(self) -> None:
        """The server refused the token: stop, saying so once."""
        if not self._closing.is_set():
            log.error("the server does not accept this agent's token any more (revoked or expired); stopping")
        self.stop(EXIT_TOKEN)

    def stop(self, status: int = EXIT_OK) -> None:
        """Take nothing new, let running statements finish up to the drain time-out, then end. Returns at once."""
        with self._lock:
            if self._closing.is_set():
                return
            self._status = status
            self._closing.set()
        self._databases.poke()
        self._schemas.poke()
        Thread(target=self._drain, name="drain", daemon=True).start()

    def stop_now(self) -> None:
        """Do not wait for running statements any longer: cancel them in the database."""
        self._hurry.set()
        self._jobs.poke()

    def wait_drained(self) -> None:
        self._drained.wait()

    def close(self) -> None:
        self._abandon.set()
        self._schemas.close()
        self._reporter.close()
        self._timer.close()
        self._databases.close()
        self._api.close()
        self._probes.close()

    def _drain(self) -> None:
        try:
            self._probes.set_ready(False)
            self._steer()
            self._reporter.state_changed()
            if len(self._jobs):
                log.info("stopping; up to %.0f s for %d running jobs", self._drain_timeout_secs, len(self._jobs))
            if not self._jobs.wait_idle(self._drain_timeout_secs, unless=self._hurry.is_set):
                self._cancel_all()
        finally:
            self._abandon.set()
            self._reporter.close()
            self._drained.set()
            with self._lock:
                consumer = self._consumer
            if consumer is not None:
                consumer.end(self._status)

    def _cancel_all(self) -> None:
        log.warning("cancelling %d running jobs in their databases", len(self._jobs))
        self._status = self._status or EXIT_FAILED
        self._jobs.stop_all(Stop.DRAINED)
        if not self._jobs.wait_idle(CANCEL_SECS, unless=lambda: False):
            log.error("%d jobs did not end; their outcome is left open", len(self._jobs))

    def _beat(self) -> None:
        """Renew the alive file from the main loop, so that it ages when that hangs; at start there is none yet."""
        consumer = self._consumer
        if consumer is None or not self._running:
            self._probes.beat()
        else:
            consumer.soon(self._probes.beat)

    def _databases_changed(self) -> None:
        self._steer()
        self._schemas.poke()
        self._reporter.state_changed()

    def _wanted(self) -> frozenset[str]:
        return frozenset(job_queue(target) for target in self._served())

    def _served(self) -> frozenset[Target]:
        """The targets that are up and that the server agrees to; none once the agent stops."""
        if self._closing.is_set():
            return frozenset()
        return frozenset(target for target in self._databases.up() if job_queue(target) in self._allowed)

    def _steer(self) -> None:
        """Have the queues consumed whose databases are up; not ready from the moment that none is wanted."""
        with self._queue_lock:
            wanted = self._wanted()
            if self._consumer is not None:
                self._consumer.consume(wanted)
                if self._closing.is_set():
                    self._consumer.soon(self._quiet.set)
            if not wanted:
                self._probes.set_ready(False)

    def _report(self) -> None:
        sent = datetime.now(UTC)
        welcome = self._api.report(self._snapshot())
        if (skewed := refuse_skew(welcome.server_time, sent=sent, received=datetime.now(UTC))) is not None:
            log.warning("%s", skewed.message)
        if self._runner is not None:
            self._runner.rename(welcome.node)
        self._welcome(welcome)

    def _welcome(self, welcome: AgentWelcome) -> None:
        own = {job_queue(target): target for target in self._databases.targets}
        allowed = frozenset(own) & frozenset(welcome.queues)
        if allowed == self._allowed:
            return
        refused = sorted(str(own[queue]) for queue in frozenset(own) - allowed)
        if refused:
            log.warning("the server does not let this agent serve %s", ", ".join(refused))
        self._allowed = allowed
        self._steer()
        self._schemas.poke()

    def _snapshot(self) -> AgentReport:
        return AgentReport(
            instance=self._instance,
            session=self._session,
            protocol=PROTOCOL,
            version=VERSION,
            databases=self._databases.served(),
            operations=list(self._operations),
            max_concurrent=self._max_concurrent,
            in_flight=len(self._jobs),
            active_jobs=self._jobs.active(),
            draining=self._closing.is_set(),
            started_at=self._started_at,
        )


def patience(*, first_secs: float, last_secs: float, max_secs: float | None) -> startup.Patience:
    """The start's time budget, counted from now."""
    return startup.Patience(first_secs=first_secs, last_secs=last_secs, max_secs=max_secs, began=time.monotonic())
