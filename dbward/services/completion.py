"""The end of an execution: what the agent reports, and what the server concludes when it hears nothing.

The blob first, then one transaction that moves, acknowledges and records: a crash between the two leaves an upload that
the retry of `complete` finds whole.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from dbward.broker import store as broker
from dbward.canonical import canonical_json, sha256_hex
from dbward.client.wire import Completed, CompleteRequest
from dbward.db import executions, requests
from dbward.db.engine import Tx
from dbward.db.rows import ExecutionRow, RequestRow, ResultRow
from dbward.domain import policy, rbac
from dbward.domain.migration import MIGRATING, read_pinned, read_repair
from dbward.domain.model import SYSTEM, Event, ExecutionStatus, Operation, Permission, Principal, ResultPolicy, Status
from dbward.domain.states import Trigger
from dbward.errors import Conflict, DbwardError, Invalid, Missing
from dbward.results.store import storage_key
from dbward.runtime import Runtime
from dbward.services.journal import record

LIVE_RETENTION = timedelta(minutes=10)
"""How long a result that must not be stored is kept for the client that waits for it."""

_REPORTABLE = {ExecutionStatus.CLAIMED, ExecutionStatus.RUNNING, ExecutionStatus.LOST}
_STATUS = {
    "completed": ExecutionStatus.COMPLETED,
    "failed": ExecutionStatus.FAILED,
    "refused": ExecutionStatus.FAILED,
    "cancelled": ExecutionStatus.FAILED,
    "unknown": ExecutionStatus.LOST,
}
_EVENT = {
    "completed": Event.EXECUTION_COMPLETED,
    "failed": Event.EXECUTION_FAILED,
    "refused": Event.EXECUTION_TOKEN_REFUSED,
    "cancelled": Event.EXECUTION_FAILED,
    "unknown": Event.EXECUTION_LOST,
}


def complete(rt: Runtime, who: Principal, execution_id: str, report: CompleteRequest) -> Completed:
    """Take the agent's word for how it ended. Repeating the same report is accepted and changes nothing.

    A report after the lease ran out still counts: it turns `execution_lost` into what really happened.
    Raises `Conflict` for another claim, a different second report, or `completed` without `start`.
    """
    digest = sha256_hex(canonical_json(report.model_dump(mode="json", exclude={"tag"})))
    with rt.store.read() as conn:
        seen = executions.find(conn, execution_id)
        about = requests.find(conn, seen.request_id) if seen is not None else None
    if seen is None or about is None:
        raise Missing(f"execution {execution_id}")
    _check(who, seen, about, report)
    if report.result_size is not None and report.result_sha256 is not None and seen.outcome_digest is None:
        key = storage_key(seen.request_id, execution_id)
        try:
            rt.results.finish(
                key,
                size=report.result_size,
                sha256=report.result_sha256,
                expires_at=rt.now() + _retention(rt, about, _result_rule(rt, about)),
            )
        except (DbwardError, OSError):
            rt.metrics.result_storage.labels("failed").inc()
            raise

    def work(tx: Tx) -> Completed:
        execution = executions.lock(tx, execution_id)
        request = requests.lock(tx, execution.request_id)
        _check(who, execution, request, report)
        if execution.outcome_digest == digest:
            return Completed(request_id=request.id, status=request.status)
        if execution.outcome_digest is not None:
            raise Conflict("this execution was reported with another outcome", code="execution.already_completed")
        if execution.status is ExecutionStatus.WITHDRAWN:  # cancelled before it started: there is nothing to report
            return Completed(request_id=request.id, status=request.status)
        if execution.status not in _REPORTABLE:
            raise Conflict(f"execution is {execution.status}", code="execution.not_claimed")
        moved = _finish(rt, tx, who, execution, request, report, digest)
        return Completed(request_id=moved.id, status=moved.status)

    return rt.store.write(work)


def known(who: Principal, execution: ExecutionRow, request: RequestRow) -> None:
    """Raises `Missing` for one of another agent or outside the token's scopes, as for one that does not exist."""
    # An instance holds no `@`, so what stands before the last one is the subject.
    foreign = execution.agent_id is not None and execution.agent_id.rpartition("@")[0] != who.subject
    if foreign or not rbac.allowed(who, Permission.AGENT_OPERATE, request.target):
        raise Missing(f"execution {execution.id}")


def own(who: Principal, execution: ExecutionRow, request: RequestRow, claim_id: str) -> None:
    """Raises `Missing` when it is not this agent's, and `Conflict` for a claim that is not the latest."""
    known(who, execution, request)
    if execution.agent_id is None or execution.claim_id != claim_id:
        raise Conflict("the execution is claimed by another", code="execution.not_claimed")


def _check(who: Principal, execution: ExecutionRow, request: RequestRow, report: CompleteRequest) -> None:
    own(who, execution, request, report.claim_id)
    never_started = execution.started_at is None
    if never_started and report.outcome not in {"refused", "failed", "cancelled"}:
        raise Conflict("an execution that was never started cannot have run", code="execution.not_started")
    if (report.result_size is None) != (report.result_sha256 is None):
        raise Invalid("result_size and result_sha256 belong together")
    _check_steps(request, report)


def _check_steps(request: RequestRow, report: CompleteRequest) -> None:
    """Of a migration that began, every file is accounted for; nothing else has files."""
    if request.operation not in MIGRATING:
        if report.migrations is not None:
            raise Invalid("this execution is no migration")
        return
    if report.migrations is None:
        if report.outcome == "completed":
            raise Invalid("what became of the migrations is missing")
        return
    if request.operation is Operation.MIGRATE_REPAIR:
        asked = [read_repair(request.statements).version]
    else:
        asked = [one.version for one in read_pinned(request.statements)]
    if [step.version for step in report.migrations] != asked:
        raise Invalid("these are not the migrations of the request, in their order")


def _finish(
    rt: Runtime,
    tx: Tx,
    who: Principal,
    execution: ExecutionRow,
    request: RequestRow,
    report: CompleteRequest,
    digest: str,
) -> RequestRow:
    now = rt.now()
    late = execution.status is ExecutionStatus.LOST
    executions.move(
        tx,
        execution,
        _STATUS[report.outcome],
        finished_at=now,
        lease_until=None,
        rows_affected=report.rows_affected,
        duration_ms=report.duration_ms,
        error=report.error.model_dump() if report.error is not None else None,
        migrations=[step.model_dump(mode="json") for step in report.migrations] if report.migrations else None,
        outcome_digest=digest,
    )
    broker.withdraw(tx, execution.id)
    if report.result_size is not None and report.result_sha256 is not None:
        _keep_result(rt, tx, execution, request, report, now)
    moved = request
    if request.execution_id == execution.id:  # a late report may find the request dispatched again
        trigger = _trigger(request, report)
        if trigger is not None:
            moved = requests.move(tx, request, trigger, now=now, **_resolution(request, now))
    tx.after_commit(lambda: _count(rt, request, execution, report))
    tx.wake(f"request:{request.id}")
    facts: dict[str, object] = {"duration_ms": report.duration_ms, "outcome": report.outcome}
    if report.rows_affected is not None:
        facts["rows_affected"] = report.rows_affected
    if report.row_count is not None:
        facts["row_count"] = report.row_count
    if report.error is not None:
        facts["error_code"] = report.error.code
    if report.migrations:
        facts["migrations"] = [f"{step.version} {step.outcome}" for step in report.migrations]
    if late:
        facts["late"] = True
    record(
        rt,
        tx,
        _EVENT[report.outcome],
        actor=who,
        request=moved,
        execution_id=execution.id,
        failed=report.outcome != "completed",
        denied=report.outcome == "refused",
        reason=_reason(report),
        metadata=facts,
    )
    return moved


def _reason(report: CompleteRequest) -> str | None:
    """A database's own message may repeat values, which the record does not hold: its code stands for it."""
    if report.error is None:
        return None
    return report.error.message if report.outcome == "refused" else report.error.code


def _count(rt: Runtime, request: RequestRow, execution: ExecutionRow, report: CompleteRequest) -> None:
    rt.metrics.executions.labels(report.outcome).inc()
    if report.result_size is not None:
        rt.metrics.result_storage.labels("stored").inc()
    if execution.started_at is not None and report.duration_ms is not None:
        rt.metrics.executed(request.target, report.duration_ms / 1000)


def _resolution(request: RequestRow, now: datetime) -> dict[str, datetime]:
    return {} if request.status is Status.CANCELLED else {"resolved_at": now}


def _trigger(request: RequestRow, report: CompleteRequest) -> Trigger | None:
    if request.status is Status.CANCELLED:
        return Trigger.AGENT_CANCELLED  # stays cancelled, whatever came of it
    match report.outcome:
        case "completed":
            return Trigger.COMPLETE_OK
        case "unknown":
            return Trigger.LOSE if request.status is Status.RUNNING else None
        case _:
            return Trigger.COMPLETE_FAILED


def _keep_result(
    rt: Runtime, tx: Tx, execution: ExecutionRow, request: RequestRow, report: CompleteRequest, now: datetime
) -> None:
    rule = _result_rule(rt, request)
    assert report.result_size is not None
    assert report.result_sha256 is not None
    row = ResultRow(
        execution_id=execution.id,
        request_id=request.id,
        storage_key=storage_key(request.id, execution.id),
        content_length=report.result_size,
        sha256=report.result_sha256,
        row_count=report.row_count or 0,
        truncated=report.truncated,
        truncation_reason=report.truncation_reason,
        stored_at=now,
        expires_at=now + _retention(rt, request, rule),
    )
    executions.add_result(tx, row)


def _result_rule(rt: Runtime, request: RequestRow) -> ResultPolicy:
    return policy.find_result_policy(rt.settings.policy.result_policies, request.target)


def _live_only(request: RequestRow, rule: ResultPolicy) -> bool:
    return request.no_result_store or rule.delivery_mode == "stream"


def _retention(rt: Runtime, request: RequestRow, rule: ResultPolicy) -> timedelta:
    if _live_only(request, rule):
        return LIVE_RETENTION
    return rule.retention if rule.id else rt.settings.retention.result_ttl  # without an id it is the built-in rule


def lose(rt: Runtime, tx: Tx, execution: ExecutionRow) -> None:
    """Give up an execution whose agent is gone: it was started, so what came of it cannot be known."""
    tx.after_commit(rt.metrics.executions.labels("lost").inc)
    tx.after_commit(rt.metrics.lease_expirations.inc)
    request = requests.lock(tx, execution.request_id)
    now = rt.now()
    message = "the agent is not heard of any more; whether the statement took effect is not known"
    executions.move(
        tx,
        execution,
        ExecutionStatus.LOST,
        finished_at=now,
        lease_until=None,
        error={"code": "execution.lost", "message": message},
    )
    broker.withdraw(tx, execution.id)
    if request.execution_id == execution.id and request.status is Status.RUNNING:
        request = requests.move(tx, request, Trigger.LOSE, now=now, resolved_at=now)
    tx.wake(f"request:{request.id}")
    record(
        rt,
        tx,
        Event.EXECUTION_LOST,
        actor=SYSTEM,
        request=request,
        execution_id=execution.id,
        failed=True,
        reason=message,
    )


def give_up_delivery(rt: Runtime, tx: Tx, execution_id: str) -> None:
    """Fail a job whose message was delivered too often and never started."""
    broker.bury(tx, execution_id)
    execution = executions.find(tx.conn, execution_id)
    if execution is None or execution.status not in {ExecutionStatus.QUEUED, ExecutionStatus.CLAIMED}:
        return
    fail_unstarted(
        rt,
        tx,
        execution,
        requests.lock(tx, execution.request_id),
        code="delivery.exhausted",
        message="the job was delivered to agents again and again and never started; nothing was run",
        hint="look at the agents' logs",
    )


def fail_unstarted(
    rt: Runtime, tx: Tx, execution: ExecutionRow, request: RequestRow, *, code: str, message: str, hint: str | None
) -> None:
    """End a job as failed before anything of it was run. Its message is the caller's business."""
    tx.after_commit(rt.metrics.executions.labels("failed").inc)
    now = rt.now()
    executions.move(
        tx,
        execution,
        ExecutionStatus.FAILED,
        finished_at=now,
        lease_until=None,
        error={"code": code, "message": message, "hint": hint},
    )
    if request.execution_id == execution.id and request.status in {Status.DISPATCHED, Status.RUNNING}:
        request = requests.move(tx, request, Trigger.COMPLETE_FAILED, now=now, resolved_at=now)
    record(
        rt,
        tx,
        Event.EXECUTION_FAILED,
        actor=SYSTEM,
        request=request,
        execution_id=execution.id,
        failed=True,
        reason=message,
        metadata={"error_code": code},
    )
