"""How an execution ended, as a value: from what the driver raised or returned to what is reported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, assert_never

from dbward.client.wire import CompleteRequest, WireError, WireStep
from dbward.domain.model import StatementError, Target
from worker.drivers.base import Outcome
from worker.drivers.errors import CredentialsRefused, Unreachable
from worker.job import Plan, Rejected
from worker.jobs import Job
from worker.lease import Stop
from worker.upload import Stored, Upload, UploadFailed

MAX_MESSAGE: Final = 8_000
"""Characters of a database's message that are reported."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How an execution ended. `stored` is the result at the server, `upload` can send its end again.

    `steps` are what became of each migration, None unless the operation is one.
    """

    outcome: Literal["completed", "failed", "refused", "cancelled", "unknown"]
    error: StatementError | None = None
    answer: Outcome | None = None
    stored: Stored | None = None
    upload: Upload | None = None
    duration_ms: int = 0
    steps: tuple[WireStep, ...] | None = None


def finished(answer: Outcome, checked: Plan, upload: Upload) -> Ended:
    """The statements took effect; only their rows can still be lost."""
    try:
        return Ended("completed", answer=answer, stored=upload.finish(), upload=upload)
    except UploadFailed as e:
        return _without_result(answer, checked.read_only, e.code, e.message)


def _without_result(answer: Outcome, read_only: bool, code: str, message: str) -> Ended:  # noqa: FBT001
    """A read without its rows is worth nothing; a change happened, whatever became of the rows it returned."""
    if read_only:
        return failed(StatementError(code, message))
    reason = f"the rows could not be stored: {message}"
    return Ended("completed", answer=replace(answer, truncated=True, truncation_reason=reason))


def after_loss(ended: Ended, held: Any) -> Ended:
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


def stopped(job: Job) -> Ended:
    """Stopped in the database and rolled back, for the job's reason."""
    match job.why:
        case Stop.CANCELLED:
            return Ended(
                "cancelled", StatementError("statement.cancelled", "cancelled on request; nothing was committed")
            )
        case Stop.DRAINED:
            text = "the agent was stopped before the statement ended; nothing was committed"
            return failed(StatementError("agent.stopped", text))
        case Stop.LOST:
            text = "the agent lost its lease and stopped the statement; nothing was committed"
            return failed(StatementError("execution.lease_lost", text))
        case None:
            text = "the statement was stopped in the database by somebody else; nothing was committed"
            return failed(StatementError("statement.killed", text))
        case _ as never:
            assert_never(never)


def failed(error: StatementError) -> Ended:
    return Ended("failed", error)


def unknown(error: StatementError) -> Ended:
    return Ended("unknown", error)


def refused(why: Rejected) -> Ended:
    return Ended("refused", StatementError(why.code, why.message, hint=why.hint))


def surprise(e: Exception) -> StatementError:
    """An error nobody foresaw. Its text may hold anything, so only its kind leaves this machine."""
    return StatementError("agent.internal", f"the agent failed ({type(e).__name__}); its log says more")


def unreachable(e: Unreachable | CredentialsRefused, target: Target) -> StatementError:
    """For whoever asked: the agent's log has the database's own words, which name its host."""
    return StatementError(e.code, f"the agent cannot reach {target} at the moment")


def report(ended: Ended, claim_id: str, tag: str) -> CompleteRequest:
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
        error=wire_error(error) if error else None,
        migrations=None if ended.steps is None else list(ended.steps),
        duration_ms=ended.duration_ms,
    )


def wire_error(error: StatementError) -> WireError:
    return WireError(
        code=error.code,
        message=error.message[:MAX_MESSAGE],
        sqlstate=error.sqlstate,
        detail=error.detail[:MAX_MESSAGE] if error.detail else None,
        hint=error.hint[:MAX_MESSAGE] if error.hint else None,
        position=error.position,
    )
