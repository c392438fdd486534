"""The agent's side of an execution: claim, start, renew, upload, complete. Every step is guarded by the claim it names.

A claim needs the broker lease of its message, so only whoever holds the message can claim. `start` spends the token: up
to there another agent may be given the job, from there on nobody is.
"""

from __future__ import annotations

from datetime import timedelta

from dbward import ids
from dbward.broker import store as broker
from dbward.client.wire import (
    Claimed,
    ClaimRequest,
    PartAccepted,
    ReleaseRequest,
    Renewed,
    RenewRequest,
    StartRequest,
    WireLimits,
)
from dbward.db import executions, requests
from dbward.db.engine import Tx
from dbward.db.rows import ExecutionRow, RequestRow
from dbward.domain import policy, rbac, tokens
from dbward.domain.model import SYSTEM, Event, ExecutionStatus, Permission, Principal, Status
from dbward.domain.states import Trigger
from dbward.errors import Conflict, DbwardError, Invalid, Missing, Unavailable
from dbward.results.store import storage_key
from dbward.runtime import Runtime
from dbward.services.agents import dialect_at, reporting
from dbward.services.completion import fail_unstarted, known, own
from dbward.services.journal import record, record_refusal

PART_MAX_BYTES = 4 * 1024 * 1024
OVERHEAD_BYTES = 1024 * 1024
"""What a stored result may have beyond `max_persist_bytes`: its header line and the row that crossed the limit."""

_CLAIMABLE = {
    (ExecutionStatus.QUEUED, Status.DISPATCHED),
    (ExecutionStatus.CLAIMED, Status.RUNNING),  # whoever claimed it died, or gave the message back, before it started
}


def claim(rt: Runtime, who: Principal, execution_id: str, asked: ClaimRequest) -> Claimed:
    """Give the job to the session that holds its message: what to run, its limits, and a token signed over all of it.

    Raises `Unavailable` while draining and for a session that has yet to report itself, `Missing` (also for a target
    outside the token's scopes), and `Conflict` when somebody else holds the message, when the execution was started,
    cancelled or finished, and when the database is not the kind that the statements were read as.
    """
    if rt.hub.closing:
        raise Unavailable("server_shutting_down", hint="another server will take the claim")

    def work(tx: Tx) -> Claimed | DbwardError:
        execution, request = _pair(tx, execution_id)
        if (refusal := rbac.refuse(who, Permission.AGENT_OPERATE, target=request.target, owner=None)) is not None:
            record_refusal(rt, tx, refusal, actor=who, request=request, action="claim")
            return Missing(f"execution {execution_id}")  # to this agent it does not exist
        now = rt.now()
        if not broker.holds(tx.conn, execution_id, session=asked.session, tag=asked.tag):
            raise Conflict("this session does not hold the job's message", code="execution.not_held")
        if (execution.status, request.status) not in _CLAIMABLE:
            raise Conflict(
                f"execution is {execution.status}, request is {request.status}", code="execution.not_claimable"
            )
        agent = reporting(tx.conn, asked.session, who)
        if (spoken := dialect_at(agent, request.target)) not in (None, request.dialect):
            return _misread(rt, tx, execution, request, str(spoken))
        broker.extend(tx, asked.session, [asked.tag], now + rt.settings.broker.lease)
        limits = policy.limits_for(
            policy.find_execution_policy(rt.settings.policy.execution_policies, request.target),
            request.operation,
            rt.settings.results.max_persist_bytes,
            policy.workflow_from_json(request.workflow) if request.workflow is not None else None,
        )
        token = tokens.ExecutionToken(
            v=tokens.VERSION,
            claim_id=ids.new_id(),
            request_id=request.id,
            execution_id=execution.id,
            agent=agent.id,
            operation=request.operation,
            database=request.database,
            environment=request.environment,
            statements_sha256=tokens.statements_sha256(request.statements),
            statement_timeout_ms=limits.statement_timeout // timedelta(milliseconds=1),
            max_rows=limits.max_rows,
            max_bytes=limits.max_bytes,
            issued_at=now,
            expires_at=now + tokens.LIFETIME,
        )
        executions.move(
            tx,
            execution,
            ExecutionStatus.CLAIMED,
            agent_id=agent.id,
            session=asked.session,
            claim_id=token.claim_id,
            limits={
                "statement_timeout_ms": token.statement_timeout_ms,
                "max_rows": token.max_rows,
                "max_bytes": token.max_bytes,
            },
            lease_until=now + rt.settings.broker.lease,
            claimed_at=now,
        )
        requests.move(tx, request, Trigger.CLAIM, now=now)
        record(rt, tx, Event.EXECUTION_CLAIMED, actor=who, request=request, execution_id=execution.id)
        return Claimed(
            execution_id=execution.id,
            request_id=request.id,
            claim_id=token.claim_id,
            token=tokens.issue(rt.keys.execution, token),
            operation=request.operation,
            database=request.database,
            environment=request.environment,
            statements=request.statements,
            limits=WireLimits(
                statement_timeout_ms=token.statement_timeout_ms, max_rows=token.max_rows, max_bytes=token.max_bytes
            ),
            lease_secs=_lease_secs(rt),
            server_time=now,
        )

    claimed = rt.store.write(work)
    if isinstance(claimed, DbwardError):
        raise claimed
    return claimed


def start(rt: Runtime, who: Principal, execution_id: str, asked: StartRequest) -> Renewed:
    """Spend the token. Repeating it with the same nonce is the retry of a lost answer; with another it is a replay.

    Raises `Conflict`: cancelled, claimed by another, expired, or replayed (which goes on the record).
    """

    def work(tx: Tx) -> DbwardError | None:
        execution, request = _pair(tx, execution_id)
        own(who, execution, request, asked.claim_id)
        now = rt.now()
        if execution.status is ExecutionStatus.RUNNING:
            if execution.start_nonce == asked.nonce:
                return None
            replay = Conflict("the execution token was spent before", code="token.replayed")
            record(
                rt,
                tx,
                Event.EXECUTION_TOKEN_REFUSED,
                actor=who,
                request=request,
                execution_id=execution.id,
                denied=True,
                reason=replay.message,
            )
            return replay
        if execution.status is not ExecutionStatus.CLAIMED or request.status is not Status.RUNNING:
            raise Conflict(
                f"execution is {execution.status}, request is {request.status}", code="execution.not_startable"
            )
        if execution.claimed_at is None or now >= execution.claimed_at + tokens.LIFETIME:
            raise Conflict("the execution token has expired", code="token.expired")
        executions.move(
            tx,
            execution,
            ExecutionStatus.RUNNING,
            started_at=now,
            start_nonce=asked.nonce,
            lease_until=now + rt.settings.broker.lease,
        )
        record(rt, tx, Event.EXECUTION_STARTED, actor=who, request=request, execution_id=execution.id)
        return None

    if (refused := rt.store.write(work)) is not None:
        raise refused
    return Renewed(cancelled=False, lost=False, lease_secs=_lease_secs(rt))


def renew(rt: Runtime, who: Principal, execution_id: str, asked: RenewRequest) -> Renewed:
    """Renew the lease once and say whether to go on. The waiting is `web.live`'s."""

    def work(tx: Tx) -> Renewed:
        execution, request = _pair(tx, execution_id)
        own(who, execution, request, asked.claim_id)
        held = executions.extend(tx, execution_id, asked.claim_id, rt.now() + rt.settings.broker.lease)
        return Renewed(cancelled=request.status is Status.CANCELLED, lost=not held, lease_secs=_lease_secs(rt))

    return rt.store.write(work)


def to_stop(rt: Runtime, execution_id: str, claim_id: str) -> bool:
    """Whether the agent should stop the statement: cancelled, or no longer its own. Read again after every wake-up."""
    with rt.store.read() as conn:
        execution = executions.find(conn, execution_id)
        request = requests.find(conn, execution.request_id) if execution is not None else None
    if execution is None or request is None or execution.claim_id != claim_id:
        return True
    held = execution.status in {ExecutionStatus.CLAIMED, ExecutionStatus.RUNNING}
    return request.status is Status.CANCELLED or not held


def release(rt: Runtime, who: Principal, execution_id: str, asked: ReleaseRequest) -> None:
    """Give back a job that was never started; its message is delivered again after the delay. Repeatable."""

    def work(tx: Tx) -> None:
        execution, request = _pair(tx, execution_id)
        known(who, execution, request)
        if execution.claim_id != asked.claim_id and execution.status is not ExecutionStatus.CLAIMED:
            return  # released before
        own(who, execution, request, asked.claim_id)
        if execution.status is not ExecutionStatus.CLAIMED:
            raise Conflict(f"execution is {execution.status}", code="execution.not_releasable")
        unclaim(rt, tx, execution, request, actor=who, reason=asked.reason)
        broker.release_job(tx, execution_id, now=rt.now(), delay=timedelta(seconds=asked.delay_secs))

    rt.store.write(work)


def take_back_if_lapsed(rt: Runtime, tx: Tx, execution_id: str) -> None:
    """Undo a claim whose agent is gone before it started: without its message nobody else would ever end it.

    As long as some agent holds the message, that agent claims again or reports.
    """
    execution, request = _pair(tx, execution_id)
    if execution.status is not ExecutionStatus.CLAIMED or broker.is_leased(tx.conn, execution_id):
        return
    if execution.lease_until is not None and execution.lease_until <= rt.now():
        tx.after_commit(rt.metrics.lease_expirations.inc)
        unclaim(rt, tx, execution, request, actor=SYSTEM, reason="the agent that claimed it is not heard of any more")


def unclaim(
    rt: Runtime, tx: Tx, execution: ExecutionRow, request: RequestRow, *, actor: Principal, reason: str
) -> None:
    """Put a claimed job back to where it was before the claim; its message is the caller's business."""
    executions.move(
        tx,
        execution,
        ExecutionStatus.QUEUED,
        claim_id=None,
        agent_id=None,
        session=None,
        limits=None,
        lease_until=None,
        claimed_at=None,
    )
    moved = requests.move(tx, request, Trigger.RELEASE, now=rt.now())
    record(rt, tx, Event.EXECUTION_RELEASED, actor=actor, request=moved, execution_id=execution.id, reason=reason)


def store_part(
    rt: Runtime, who: Principal, execution_id: str, *, claim_id: str, offset: int, data: bytes
) -> PartAccepted:
    """Keep one part of the result stream. Raises `Conflict` (claim, or a gap before `offset`) and `TooLarge`."""
    if offset < 0:
        raise Invalid("offset is negative")
    with rt.store.read() as conn:
        execution = executions.find(conn, execution_id)
        request = requests.find(conn, execution.request_id) if execution is not None else None
    if execution is None or request is None:
        raise Missing(f"execution {execution_id}")
    own(who, execution, request, claim_id)
    if execution.status not in {ExecutionStatus.RUNNING, ExecutionStatus.LOST}:
        raise Conflict(f"execution is {execution.status}", code="execution.not_running")
    key = storage_key(execution.request_id, execution.id)
    limit = rt.settings.results.max_persist_bytes + OVERHEAD_BYTES
    return PartAccepted(size=rt.results.append(key, offset=offset, data=data, limit=limit))


def _lease_secs(rt: Runtime) -> int:
    return int(rt.settings.broker.lease.total_seconds())


def _pair(tx: Tx, execution_id: str) -> tuple[ExecutionRow, RequestRow]:
    execution = executions.lock(tx, execution_id)
    return execution, requests.lock(tx, execution.request_id)


def _misread(rt: Runtime, tx: Tx, execution: ExecutionRow, request: RequestRow, spoken: str) -> Conflict:
    """End a job that was judged by the rules of another dialect: what passed for a read there may be none here."""
    refusal = Conflict(
        f"the statements were read as {request.dialect}, but {request.target} is {spoken}",
        code="execution.other_dialect",
        hint="submit the request again",
    )
    fail_unstarted(rt, tx, execution, request, code=refusal.code, message=refusal.message, hint=refusal.hint)
    broker.withdraw(tx, execution.id)
    return refusal
