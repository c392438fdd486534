"""What the agent has in hand: each job from its message to its report, and how to stop it."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Condition, Event, Lock

from dbward.client.wire import ActiveJob
from dbward.domain.model import Operation
from worker.drivers.base import Session
from worker.lease import Stop


class Job:
    """One execution in hand. `halt` is set once it should stop; `why` says the first reason."""

    def __init__(self, execution_id: str, request_id: str) -> None:
        self.execution_id = execution_id
        self.request_id = request_id
        self.operation: Operation | None = None
        self.began = time.monotonic()
        self.halt = Event()
        self.why: Stop | None = None
        self._session: Session | None = None
        self._lock = Lock()

    def runs_on(self, session: Session | None) -> None:
        """From here `stop` also stops the statement in the database; None when it is over."""
        with self._lock:
            self._session = session
            stopped = self.why is not None
        if session is not None and stopped:
            session.cancel()

    def stop(self, why: Stop) -> None:
        """Ask the job to end, and return at once; a second reason changes nothing."""
        with self._lock:
            if self.why is not None:
                return
            self.why = why
            session = self._session
        self.halt.set()
        if session is not None:
            session.cancel()


class Jobs:
    """All jobs in hand. `on_change` is called after one came or went, without any lock held."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._jobs: dict[int, Job] = {}
        self._changed = Condition()
        self._on_change = on_change

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        with self._changed:
            self._jobs[id(job)] = job
        self._on_change()

    def remove(self, job: Job) -> None:
        with self._changed:
            self._jobs.pop(id(job), None)
            self._changed.notify_all()
        self._on_change()

    def active(self) -> list[ActiveJob]:
        """Those whose operation is known, for the report."""
        now = time.monotonic()
        with self._changed:
            return [
                ActiveJob(request_id=job.request_id, operation=job.operation, elapsed_secs=int(now - job.began))
                for job in self._jobs.values()
                if job.operation is not None
            ]

    def stop_all(self, why: Stop) -> None:
        with self._changed:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.stop(why)

    def wait_idle(self, secs: float, *, unless: Callable[[], bool]) -> bool:
        """Whether nothing is in hand any more within `secs`; returns early when `unless` became true (see `poke`)."""
        with self._changed:
            self._changed.wait_for(lambda: not self._jobs or unless(), timeout=max(0.0, secs))
            return not self._jobs

    def poke(self) -> None:
        """Make `wait_idle` look again."""
        with self._changed:
            self._changed.notify_all()
