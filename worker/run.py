"""One execution from its queue message to its report, with every way to fail named.

    claim → verify → open the database → start → run and upload → complete

Up to `start` nothing has happened: the message can be given back and another agent may try. `start` spends the token:
from there on nothing is ever run again, and what is left is to say truthfully how it ended.
"""

from __future__ import annotations

import logging
import secrets
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from threading import Event, Lock
from typing import Any, Final, Literal, TypeVar, assert_never

from dbward.client.agent_api import AgentApi, patiently
from dbward.client.wire import Claimed, ClaimRequest, CompleteRequest, ReleaseRequest, StartRequest, WireError
from dbward.domain.model import StatementError
from dbward.errors import Conflict, DbwardError, Missing, RateLimited, Unauthorized, Unavailable
from dbward.logs import bound
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
from worker.job import Plan, Rejected, Rules, plan
from worker.jobs import Job, Jobs
from worker.keys import ServerKey
from worker.lease import Lease, Stop
from worker.upload import Stored, Upload, UploadFailed

log = logging.getLogger("dbward.agent")

T = TypeVar("T")

RELEASE_DELAY_SECS: Final = 5
"""How long a job whose database is down here is kept back, before it is offered to an agent again."""

REPORT_PATIENCE_SECS: Final = 3600.0
"""How long a known outcome is kept for a server that is away: it is accepted late, so keeping it is worth much."""

QUIET_SECS: Final = 5.0

MAX_MESSAGE: Final = 8_000
"""Characters of a database's message that are reported."""


class PutBack(Exception):
    """Nothing was claimed: the message goes back to its queue."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How an execution ended. `stored` is the result at the server, `upload` can send its end again."""

    outcome: Literal["completed", "failed", "refused", "cancelled", "unknown"]
    error: StatementError | None = None
    answer: Outcome | None = None
    stored: Stored | None = None
    upload: Upload | None = None
    duration_ms: int = 0


class Runner:
    """Runs executions, each in its caller's thread; safe to use from many.

    `abandon` ends all waiting for a server that is away. `closing` says that no new job is taken,
    `quiet` that none is fetched any more either.
    `on_unauthorized` is called when the server does not accept the token any more.
    """

    def __init__(
        self,
        api: AgentApi,
        databases: Databases,
        key: ServerKey,
        rules: Rules,
        *,
        jobs: Jobs,
        session: str,
        closing: Event,
        quiet: Event,
        abandon: Event,
        on_unauthorized: Callable[[], None],
    ) -> None:
        self._api = api
        self._databases = databases
        self._key = key
        self._rules = rules
        self._jobs = jobs
        self._session = session
        self._closing = closing
        self._quiet = quiet
        self._abandon = abandon
        self._on_unauthorized = on_unauthorized
        self._spent: dict[str, datetime] = {}
        self._spent_lock = Lock()

    def execute(self, request_id: str, execution_id: str, tag: str) -> None:
        """Take one message to its end. Returning means it is done with; `PutBack` that it is to be delivered again."""
        if self._closing.is_set():
            # Given back while this agent still fetches, it would come straight back and use up its deliveries.
            self._quiet.wait(QUIET_SECS)
            raise PutBack("this agent is stopping")
        job = Job(execution_id, request_id)
        self._jobs.add(job)
        try:
            with bound(request_id=request_id, execution_id=execution_id):
                self._execute(job, tag)
        except PutBack:
            raise
        except Exception as e:  # noqa: BLE001 - Celery would log its text, and acknowledge the message
            # If the token was spent, the server refuses the next claim; if not, its delivery cap ends this.
            _log_surprise("the execution failed in the agent", e)
            raise PutBack("the agent failed") from None
        finally:
            self._jobs.remove(job)

    def _execute(self, job: Job, tag: str) -> None:
        claimed = self._claim(job, tag)
        if claimed is None:
            return
        checked = self._verify(job, claimed)
        if isinstance(checked, Rejected):
            log.error("execution refused: %s (%s)", checked.message, checked.code)
            self._complete(job, claimed.claim_id, tag, _refused(checked))
            return
        job.operation = checked.operation
        with ExitStack() as stack:
            try:
                session = stack.enter_context(self._databases.open(checked.target))
            except (Unreachable, CredentialsRefused) as e:
                # Nothing was sent: another agent, or this one later, may try. The database is marked down by now.
                self._release(job, checked, f"{checked.target}: {e}", RELEASE_DELAY_SECS)
                return
            except Exception as e:  # noqa: BLE001 - it would come again: fail, do not go round in circles
                _log_surprise(f"the driver failed to open {checked.target}", e)
                self._complete(job, checked.claim_id, tag, _failed(_surprise(e)))
                return
            if job.halt.is_set():
                self._release(job, checked, "the agent is stopping", 0)
                return
            if self._start(job, checked):
                ended = self._run(job, checked, session)
                stack.close()  # before the report: whoever hears that it is over finds the database free
                self._complete(job, checked.claim_id, tag, ended)

    def _claim(self, job: Job, tag: str) -> Claimed | None:
        """The job, or None when the server does not want it run any more. Raises `PutBack`."""
        request = ClaimRequest(session=self._session, tag=tag)
        try:
            return self._patiently(partial(self._api.claim, job.execution_id, request), "claim", stop=job.halt)
        except (Conflict, Missing) as e:
            # Cancelled, finished, or delivered to somebody else meanwhile: the message is out of date.
            log.info("execution dropped: %s", e.message)
            return None
        except (Unavailable, RateLimited) as e:
            raise PutBack("the server was away while the agent stopped") from e
        except Unauthorized as e:
            self._on_unauthorized()
            raise PutBack("the token is not accepted any more") from e
        except DbwardError as e:
            # Not for this agent (403), or not understood: the server's delivery cap ends it if nobody can.
            log.warning("the claim is refused: %s", e.message)
            raise PutBack(e.message) from e

    def _verify(self, job: Job, claimed: Claimed) -> Plan | Rejected:
        """The plan, if its token holds; a claim is accepted once in the life of this process."""
        checked = plan(claimed, self._key.current, self._rules, asked_for=job.execution_id, now=_now())
        if isinstance(checked, Rejected) and checked.key_may_be_old and self._key.refetch():
            checked = plan(claimed, self._key.current, self._rules, asked_for=job.execution_id, now=_now())
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
            self._on_unauthorized()
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
            self._on_unauthorized()
            raise PutBack("the token is not accepted any more") from e
        except DbwardError as e:
            log.warning("execution not started: %s", e.message)
            self._release(job, checked, e.message, RELEASE_DELAY_SECS)
            return False
        return True

    def _run(self, job: Job, checked: Plan, session: Session) -> Ended:
        upload = Upload(self._api, job.execution_id, checked.claim_id, stop=job.halt)
        lease = Lease(
            self._api, job.execution_id, checked.claim_id, on_stop=job.stop, on_unauthorized=self._on_unauthorized
        )
        log.info("running %s on %s", checked.operation, checked.target)
        began = time.monotonic()
        lease.open()
        job.runs_on(session)
        try:
            ended = self._attempt(job, checked, session, upload)
            job.runs_on(None)
            if isinstance(ended, Outcome):
                ended = _finished(ended, checked, upload)
        finally:
            lease.close()
        ended = replace(ended, duration_ms=int((time.monotonic() - began) * 1000))
        log.info("ended: %s after %d ms", ended.outcome, ended.duration_ms)
        return ended

    def _attempt(self, job: Job, checked: Plan, session: Session, upload: Upload) -> Outcome | Ended:
        """Run the statements: what the database answered, or how they ended without an answer. Never raises."""
        if job.halt.is_set():
            return _stopped(job)
        try:
            return session.run(checked.statements, read_only=checked.read_only, limits=checked.limits, sink=upload)
        except StatementCancelled:
            return _stopped(job)
        except StatementFailed as e:  # a time limit or a row over the cap too
            if e.code == CONNECTION_LOST:
                self._databases.mark_down(checked.target, e.message)
            return _failed(e.error)
        except UploadFailed as e:
            # The sink stopped the driver before it committed anything.
            return _stopped(job) if e.stopped else _failed(StatementError(e.code, e.message))
        except OutcomeUnknown as e:
            # The link died with the commit on its way: no retry; a person who can look at the data decides.
            self._databases.mark_down(checked.target, e.message)
            return _unknown(e.error)
        except Exception as e:  # noqa: BLE001 - whatever it is, the server must hear of it
            _log_surprise("the driver failed", e)
            return _failed(_surprise(e)) if checked.read_only else _unknown(_surprise(e))

    def _complete(self, job: Job, claim_id: str, tag: str, ended: Ended) -> None:
        """Report until the server has taken it, or the agent must stop."""
        lost = False
        while True:
            call = partial(self._api.complete, job.execution_id, _report(ended, claim_id, tag))
            try:
                done = self._patiently(call, "report", stop=self._abandon, limit_secs=REPORT_PATIENCE_SECS)
            except Unauthorized:
                self._on_unauthorized()
                log.warning("outcome %s could not be reported", ended.outcome)
                return
            except DbwardError as e:
                if e.code == "result.incomplete" and not lost:
                    lost = True
                    ended = _after_loss(ended, (e.detail or {}).get("size"))
                    continue
                log.warning("outcome %s was not taken: %s", ended.outcome, e.message)
                return
            log.info("reported; the request is %s", done.status)
            return

    def _patiently(self, call: Callable[[], T], step: str, *, stop: Event, limit_secs: float | None = None) -> T:
        return patiently(call, stop=stop, what=step, limit_secs=limit_secs)


def _finished(answer: Outcome, checked: Plan, upload: Upload) -> Ended:
    """The statements took effect; only their rows can still be lost."""
    try:
        return Ended("completed", answer=answer, stored=upload.finish(), upload=upload)
    except UploadFailed as e:
        return _without_result(answer, checked.read_only, e.code, e.message)


def _without_result(answer: Outcome, read_only: bool, code: str, message: str) -> Ended:  # noqa: FBT001
    """A read without its rows is worth nothing; a change happened, whatever became of the rows it returned."""
    if read_only:
        return _failed(StatementError(code, message))
    reason = f"the rows could not be stored: {message}"
    return Ended("completed", answer=replace(answer, truncated=True, truncation_reason=reason))


def _after_loss(ended: Ended, held: Any) -> Ended:
    """The server lost the end of the upload (it was cut off without a proper stop): send it again, or go without."""
    if ended.upload is None or ended.answer is None:
        return replace(ended, stored=None)
    try:
        if isinstance(held, int) and ended.upload.resend(held):
            return ended
        code, message = "result.upload_lost", "the server lost a part of the result that the agent no longer has"
    except UploadFailed as e:
        code, message = e.code, e.message
    again = _without_result(ended.answer, ended.answer.rows_affected is None, code, message)
    return replace(again, duration_ms=ended.duration_ms)


def _stopped(job: Job) -> Ended:
    """Stopped in the database and rolled back, for the job's reason."""
    match job.why:
        case Stop.CANCELLED:
            return Ended(
                "cancelled", StatementError("statement.cancelled", "cancelled on request; nothing was committed")
            )
        case Stop.DRAINED:
            text = "the agent was stopped before the statement ended; nothing was committed"
            return _failed(StatementError("agent.stopped", text))
        case Stop.LOST:
            text = "the agent lost its lease and stopped the statement; nothing was committed"
            return _failed(StatementError("execution.lease_lost", text))
        case None:
            text = "the statement was stopped in the database by somebody else; nothing was committed"
            return _failed(StatementError("statement.killed", text))
        case _ as never:
            assert_never(never)


def _failed(error: StatementError) -> Ended:
    return Ended("failed", error)


def _unknown(error: StatementError) -> Ended:
    return Ended("unknown", error)


def _refused(why: Rejected) -> Ended:
    return Ended("refused", StatementError(why.code, why.message, hint=why.hint))


def _surprise(e: Exception) -> StatementError:
    """An error nobody foresaw. Its text may hold anything, so only its kind leaves this machine."""
    return StatementError("agent.internal", f"the agent failed ({type(e).__name__}); its log says more")


def _log_surprise(what: str, e: Exception) -> None:
    """Where it came from, and its kind; its text may hold SQL or data, which do not belong in a log."""
    log.error("%s (%s), at:\n%s", what, type(e).__name__, "".join(traceback.format_tb(e.__traceback__)))


def _report(ended: Ended, claim_id: str, tag: str) -> CompleteRequest:
    answer, stored, error = ended.answer, ended.stored, ended.error
    return CompleteRequest(
        claim_id=claim_id,
        tag=tag,
        outcome=ended.outcome,
        rows_affected=answer.rows_affected if answer else None,
        row_count=answer.row_count if answer else None,
        truncated=answer.truncated if answer else False,
        truncation_reason=answer.truncation_reason if answer else None,
        result_size=stored.size if stored else None,
        result_sha256=stored.sha256 if stored else None,
        error=_wire_error(error) if error else None,
        duration_ms=ended.duration_ms,
    )


def _wire_error(error: StatementError) -> WireError:
    return WireError(
        code=error.code,
        message=error.message[:MAX_MESSAGE],
        sqlstate=error.sqlstate,
        detail=error.detail[:MAX_MESSAGE] if error.detail else None,
        hint=error.hint[:MAX_MESSAGE] if error.hint else None,
        position=error.position,
    )


def _now() -> datetime:
    return datetime.now(UTC)
