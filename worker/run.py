"""One execution from its queue message to its report, with every way to fail named.

    claim → verify → open the database → start → run and upload → complete

Up to `start` nothing has happened: the message can be given back and another agent may try. `start` spends the token:
from there on nothing is ever run again, and what is left is to say truthfully how it ended.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from threading import Event, Lock
from typing import Final, TypeVar

from dbward.client.agent_api import AgentApi, patiently
from dbward.client.wire import Claimed, ReleaseRequest, StartRequest
from dbward.domain.model import StatementError, Target
from dbward.errors import Conflict, DbwardError, Missing, RateLimited, Unauthorized, Unavailable
from worker import outcome
from worker.databases import Databases
from worker.drivers.base import Outcome, Session
from worker.drivers.errors import (
    CONNECTION_LOST,
    CredentialsRefused,
    OutcomeUnknown,
    StatementCancelled,
    StatementFailed,
    Unreachable,
)
from worker.intake import Intake, PutBack
from worker.job import Plan, Rejected, Rules, plan
from worker.jobs import Job
from worker.lease import Lease
from worker.migrate import migrate
from worker.outcome import Ended
from worker.schema_sync import may_change_schema
from worker.surprise import log_surprise
from worker.upload import Upload, UploadFailed

log = logging.getLogger("dbward.agent")

T = TypeVar("T")

RELEASE_DELAY_SECS: Final = 5
"""How long a job whose database is down here, or migrated by another run, is kept back before it is offered again."""

REPORT_PATIENCE_SECS: Final = 3600.0
"""How long a known outcome is kept for a server that is away: it is accepted late, so keeping it is worth much."""


_Attempt = Callable[[Job, Upload], Outcome | Ended]
"""Runs a plan to its end; never raises."""


class Runner:
    """Runs executions, each in its caller's thread; safe to use from many.

    `abandon` ends all waiting for a server that is away. `on_changed` is called when a job is over that may have
    changed the schema of its target.
    """

    def __init__(
        self,
        api: AgentApi,
        databases: Databases,
        intake: Intake,
        rules: Rules,
        *,
        abandon: Event,
        on_changed: Callable[[Target], None],
    ) -> None:
        self._api = api
        self._databases = databases
        self._intake = intake
        self._rules = rules
        self._abandon = abandon
        self._on_changed = on_changed
        self._spent: dict[str, datetime] = {}
        self._spent_lock = Lock()

    @property
    def rules(self) -> Rules:
        """Those of now."""
        return self._rules

    def rename(self, node: str) -> None:
        """The server calls this agent so from now on; tokens are bound to the name."""
        self._rules = replace(self._rules, node=node)

    def execute(self, request_id: str, execution_id: str, tag: str) -> None:
        """Take one message to its end. Returning means it is done with; `PutBack` that it is to be delivered again."""
        job = Job(execution_id, request_id)
        work = partial(self._execute, job, tag)
        failure = "the execution failed in the agent"
        self._intake.take(job, work, failure=failure, request_id=request_id, execution_id=execution_id)

    def _execute(self, job: Job, tag: str) -> None:
        claimed = self._intake.claim(job, tag, self._api.claim, what="execution")
        if claimed is None:
            return
        checked = self._verify(job, claimed)
        if isinstance(checked, Rejected):
            log.error("execution refused: %s (%s)", checked.message, checked.code)
            self._complete(job, claimed.claim_id, tag, outcome.refused(checked))
            return
        job.operation = checked.operation
        with ExitStack() as stack:
            try:
                attempt = self._opened(stack, checked)
            except (Unreachable, CredentialsRefused) as e:
                # Nothing was sent: another agent, or this one later, may try. The database is marked down by now.
                self._release(job, checked, f"{checked.target}: {e}", RELEASE_DELAY_SECS)
                return
            except StatementFailed as e:
                self._complete(job, checked.claim_id, tag, outcome.failed(e.error))
                return
            except Exception as e:  # noqa: BLE001 - it would come again: fail, do not go round in circles
                log_surprise(f"the driver failed to open {checked.target}", e)
                self._complete(job, checked.claim_id, tag, outcome.failed(outcome.surprise(e)))
                return
            if attempt is None:
                self._release(job, checked, f"{checked.target} is being migrated by another run", RELEASE_DELAY_SECS)
                return
            if job.halt.is_set():
                self._release(job, checked, "the agent is stopping", 0)
                return
            if self._start(job, checked):
                ended = self._run(job, checked, attempt)
                stack.close()  # before the report: whoever hears that it is over finds the database free
                if may_change_schema(checked):  # however it ended: not every database takes DDL back
                    self._on_changed(checked.target)
                self._complete(job, checked.claim_id, tag, ended)

    def _opened(self, stack: ExitStack, checked: Plan) -> _Attempt | None:
        """What runs the plan, with all it needs kept open by `stack`; None while another run migrates the database.

        Raises Unreachable, CredentialsRefused or StatementFailed.
        """
        if checked.migration is None:
            session = stack.enter_context(self._databases.open(checked.target))
            return lambda job, upload: self._attempt(job, checked, session, upload)
        lock = stack.enter_context(self._databases.lock_migrations(checked.target))
        return None if lock is None else lambda job, _: migrate(job, checked, self._databases, lock)

    def _verify(self, job: Job, claimed: Claimed) -> Plan | Rejected:
        """The plan, if its token holds; a claim is accepted once in the life of this process."""
        checked = self._intake.checked(
            lambda key, now: plan(claimed, key, self._rules, asked_for=job.execution_id, now=now)
        )
        if isinstance(checked, Rejected):
            return checked
        with self._spent_lock:
            now = _now()
            for old in [claim for claim, expires in self._spent.items() if expires < now]:
                del self._spent[old]  # its token is refused by its age from now on
            if checked.claim_id in self._spent:
                return Rejected("token.replayed", "this execution token was used before")
            self._spent[checked.claim_id] = checked.expires_at
        return checked

    def _release(self, job: Job, checked: Plan, reason: str, delay_secs: int) -> None:
        request = ReleaseRequest(claim_id=checked.claim_id, reason=reason[:2000], delay_secs=delay_secs)
        try:
            self._patiently(partial(self._api.release, job.execution_id, request), "release", stop=self._abandon)
        except Unauthorized:
            self._intake.on_unauthorized()
        except (Unavailable, RateLimited) as e:
            raise PutBack("the server was away while the agent stopped") from e
        except DbwardError as e:
            log.warning("execution was not released: %s", e.message)
        else:
            log.info("execution released: %s", reason)

    def _start(self, job: Job, checked: Plan) -> bool:
        """Spend the token; False means: do not run."""
        # The same nonce with every repeat: a lost answer is asked for again, and only a replay is refused.
        request = StartRequest(claim_id=checked.claim_id, nonce=secrets.token_hex(16))
        try:
            self._patiently(partial(self._api.start, job.execution_id, request), "start", stop=job.halt)
        except (Conflict, Missing) as e:
            log.info("execution not started: %s", e.message)
            if e.code == "token.expired":  # the server was away for too long; the job is still good
                self._release(job, checked, e.message, 0)
            return False
        except (Unavailable, RateLimited) as e:
            # Nothing was run, and nothing will be. If the server heard it all the same, it refuses the next claim.
            raise PutBack("the server was away while the agent stopped") from e
        except Unauthorized as e:
            self._intake.on_unauthorized()
            raise PutBack("the token is not accepted any more") from e
        except DbwardError as e:
            log.warning("execution not started: %s", e.message)
            self._release(job, checked, e.message, RELEASE_DELAY_SECS)
            return False
        return True

    def _run(self, job: Job, checked: Plan, attempt: _Attempt) -> Ended:
        upload = Upload(self._api, job.execution_id, checked.claim_id, stop=job.halt)
        lease = Lease(
            self._api,
            job.execution_id,
            checked.claim_id,
            lease_secs=checked.lease_secs,
            on_stop=job.stop,
            on_unauthorized=self._intake.on_unauthorized,
        )
        log.info("running %s on %s", checked.operation, checked.target)
        began = time.monotonic()
        lease.open()
        try:
            ended = attempt(job, upload)
            if isinstance(ended, Outcome):
                ended = outcome.finished(ended, checked, upload)
        finally:
            lease.close()
        ended = replace(ended, duration_ms=int((time.monotonic() - began) * 1000))
        log.info("ended: %s after %d ms", ended.outcome, ended.duration_ms)
        return ended

    def _attempt(self, job: Job, checked: Plan, session: Session, upload: Upload) -> Outcome | Ended:
        """Run the statements: what the database answered, or how they ended without an answer. Never raises."""
        if job.halt.is_set():
            return outcome.stopped(job)
        job.runs_on(session)
        try:
            return session.run(checked.statements, read_only=checked.read_only, limits=checked.limits, sink=upload)
        except StatementCancelled:
            return outcome.stopped(job)
        except StatementFailed as e:  # a time limit or a row over the cap too
            if e.code == CONNECTION_LOST:
                self._databases.mark_down(checked.target, e.message)
            return outcome.failed(e.error)
        except UploadFailed as e:
            # The sink stopped the driver before it committed anything.
            return outcome.stopped(job) if e.stopped else outcome.failed(StatementError(e.code, e.message))
        except OutcomeUnknown as e:
            # The link died with the commit on its way: no retry; a person who can look at the data decides.
            self._databases.mark_down(checked.target, e.message)
            return outcome.unknown(e.error)
        except Exception as e:  # noqa: BLE001 - whatever it is, the server must hear of it
            log_surprise("the driver failed", e)
            return outcome.failed(outcome.surprise(e)) if checked.read_only else outcome.unknown(outcome.surprise(e))
        finally:
            job.runs_on(None)

    def _complete(self, job: Job, claim_id: str, tag: str, ended: Ended) -> None:
        """Report until the server has taken it, or the agent must stop."""
        losses = 0
        while True:
            call = partial(self._api.complete, job.execution_id, outcome.report(ended, claim_id, tag))
            try:
                done = self._patiently(call, "report", stop=self._abandon, limit_secs=REPORT_PATIENCE_SECS)
            except Unauthorized:
                self._intake.on_unauthorized()
                log.warning("outcome %s could not be reported", ended.outcome)
                return
            except DbwardError as e:
                if e.code == "result.incomplete" and losses < 2:
                    # Once its end is sent again; what is lost twice is given up.
                    ended = outcome.after_loss(ended, (e.detail or {}).get("size") if losses == 0 else None)
                    losses += 1
                    continue
                log.warning("outcome %s was not taken: %s", ended.outcome, e.message)
                return
            log.info("reported; the request is %s", done.status)
            return

    def _patiently(self, call: Callable[[], T], step: str, *, stop: Event, limit_secs: float | None = None) -> T:
        return patiently(call, stop=stop, what=step, limit_secs=limit_secs)


def _now() -> datetime:
    return datetime.now(UTC)
