"""Submitting, listing, showing and cancelling requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dbward import ids
from dbward.broker import store as broker
from dbward.canonical import canonical_json, sha256_hex
from dbward.client.shapes import OFFSET_MAX, PAGE_MAX, NewRequest, RequestFilter
from dbward.db import agents, executions, requests
from dbward.db.engine import Tx
from dbward.db.requests import Criteria
from dbward.db.rows import RequestRow
from dbward.domain import approvals, policy, rbac
from dbward.domain.judge import Judgement, finding_json, trace
from dbward.domain.migration import MIGRATING
from dbward.domain.model import (
    Dialect,
    Event,
    ExecutionStatus,
    Operation,
    Permission,
    Principal,
    Selector,
    Status,
    Target,
)
from dbward.domain.names import parse_name, parse_operation, parse_selector
from dbward.domain.policy import AutoApproved, BreakGlass, Decision, Denied, NeedsApproval
from dbward.domain.sql.redact import redact
from dbward.domain.states import Trigger
from dbward.errors import Conflict, DbwardError, Invalid, Misconfigured, Refused, TooLarge, Unavailable
from dbward.runtime import Runtime
from dbward.services import access, context, explains, sight, submission, views
from dbward.services.agents import queue_hint
from dbward.services.dispatch import check_reason, dispatch, refuse_change
from dbward.services.explains import served_by
from dbward.services.journal import FINGERPRINT_MAX, record, record_refusal
from dbward.services.submission import Submission
from dbward.services.views import View, check_time

BLOCKS_TOLD = 50
"""Of the findings that block a request, in the error and on the record, which is kept for good."""

_NORMAL = (Permission.REQUEST_QUERY, Permission.REQUEST_DML, Permission.REQUEST_DDL)
_EMERGENCY = (Permission.REQUEST_BREAK_GLASS_QUERY, Permission.REQUEST_BREAK_GLASS_DML)
SUBMITTING = (*_NORMAL, *_EMERGENCY)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A request that passed every check that needs no transaction."""

    said: Submission
    body: NewRequest
    reason: str | None
    share_with: tuple[Selector, ...]
    fingerprint: str

    @property
    def sql(self) -> tuple[str, Dialect] | None:
        """For the record: None when there is none."""
        text = self.said.sql if self.said.plan.operation in MIGRATING else self.body.detail
        return (text, self.said.dialect) if text is not None else None


def create(rt: Runtime, who: Principal, body: NewRequest) -> tuple[View, bool]:
    """Decide on a new request; auto-approved and break-glass ones are dispatched in the same transaction.

    Returns the view and True, or the request that the same idempotency key made before and False.
    Raises `Unavailable` while draining, `Refused` (recorded), `Invalid`, and `Conflict` for a key reused otherwise.
    """
    if rt.hub.closing:
        raise Unavailable("server_shutting_down", hint="submit it again in a moment")
    asks_for_ddl = body.emergency and body.allow_ddl
    if asks_for_ddl:
        rt.metrics.ddl_attempted.inc()
    try:
        draft = _draft(rt, who, body)
        outcome = rt.store.write(lambda tx: _submit(rt, tx, who, draft))
        if isinstance(outcome, DbwardError):
            raise outcome
    except Exception as e:
        if asks_for_ddl:
            rt.metrics.ddl_denied.inc()
        if body.emergency and (isinstance(e, _UNRECORDED) or not isinstance(e, DbwardError)):
            rt.metrics.break_glass_audit_failure.inc()
        raise
    if asks_for_ddl:
        rt.metrics.ddl_allowed.inc()
    return outcome


_UNRECORDED = (Unavailable, Misconfigured)
"""What keeps a request from the record, and so from running, whoever asks: the state, and not what was asked."""


def _submit(rt: Runtime, tx: Tx, who: Principal, draft: _Draft) -> tuple[View, bool] | DbwardError:
    """The outcome, or a refusal that is on the record and must be raised after the commit."""
    access.check_acting(tx, who)
    body, said = draft.body, draft.said
    if body.idempotency_key is not None:
        earlier = requests.find_by_key(tx.conn, who.subject, body.idempotency_key)
        if earlier is not None:
            return _replay(tx, earlier, draft), False
    needed = rbac.permission_for(
        said.plan.operation,
        emergency=body.emergency,
        allow_ddl=body.allow_ddl,
        is_ddl=said.plan.is_ddl,
        contains_ddl=said.plan.contains_ddl,
    )
    for permission in needed:
        refusal = rbac.refuse(who, permission, target=said.target, owner=None)
        if refusal is not None:
            return record_refusal(rt, tx, refusal, actor=who, request=None, action="create", target=said.target)
    made = submission.judged(rt, tx.conn, said, emergency=body.emergency)
    if made.blocking and not (body.emergency and body.allow_ddl and made.may_bypass_review):
        return _blocked(rt, tx, who, draft, made)
    if isinstance(made.decision, Denied):
        denied = Invalid(
            made.decision.reason, code=made.decision.code, hint="an administrator adds a [[workflows]] entry"
        )
        return record_refusal(rt, tx, denied, actor=who, request=None, action="create", target=said.target)
    if made.workflow is not None and made.workflow.require_reason and draft.reason is None:
        raise Invalid("reason is required", hint="this workflow wants a reason: pass `reason`")
    return _insert(rt, tx, who, draft, made), True


def _blocked(rt: Runtime, tx: Tx, who: Principal, draft: _Draft, made: Judgement) -> Invalid:
    """Put on the record that the review blocks it, and say how it could pass."""
    record(
        rt,
        tx,
        Event.REQUEST_BLOCKED_BY_REVIEW,
        actor=who,
        target=draft.said.target,
        denied=True,
        reason=draft.reason,
        metadata={
            "blocked_rules": [f"{finding.rule}: {finding.message}" for finding in made.blocking[:BLOCKS_TOLD]],
            "blocked_count": len(made.blocking),
            "break_glass_attempted": draft.body.emergency,
        },
        sql=draft.sql,
    )
    told = made.blocking[:BLOCKS_TOLD]
    hints = [finding.hint for finding in told]
    if draft.body.emergency and not draft.body.allow_ddl and made.may_bypass_review:
        hints.append("in an emergency, allow_ddl lets it pass")
    return Invalid(
        "the SQL review blocks this: "
        + "; ".join(submission.placed(draft.said, finding) for finding in told)
        + (f"; and {len(made.blocking) - len(told)} more" if len(made.blocking) > len(told) else ""),
        code="sql.blocked_by_review",
        hint="; ".join(dict.fromkeys(hints)),
        detail={"findings": [finding_json(finding) for finding in made.findings]},
    )


def _draft(rt: Runtime, who: Principal, body: NewRequest) -> _Draft:
    target = Target(parse_name(body.database, "database"), parse_name(body.environment, "environment"))
    operation = parse_operation(body.operation)
    if not _could_submit(who, target, body):
        refusal = Refused(f"submitting needs a role with request.* permissions on {target}")
        raise rt.store.write(
            lambda tx: record_refusal(rt, tx, refusal, actor=who, request=None, action="create", target=target)
        )
    _refuse_large(rt, operation, body.detail)
    reason = check_reason(body.reason)
    if body.allow_ddl and not body.emergency:
        raise Invalid("allow_ddl needs emergency")
    if body.emergency and reason is None:
        raise Invalid("reason is required in an emergency", hint="say why; the reason goes on the record")
    if operation is Operation.MIGRATE_STATUS:
        raise Invalid(
            f"{operation} is no request",
            code="operation.unsupported",
            hint="GET /api/migrations/{database}/{environment} tells what is applied, and needs no approval",
        )
    if operation is Operation.MIGRATE_REPAIR and not body.emergency:
        raise Invalid(
            "a repair needs emergency", hint="it changes the record of what was applied and nobody approves it"
        )
    submission.require_registered(rt, target)
    migrating = operation in MIGRATING
    return _Draft(
        said=submission.read_migration(rt, target, operation, body.detail)
        if migrating
        else submission.read(rt, target, body.detail),
        body=body,
        reason=reason,
        share_with=tuple(parse_selector(text) for text in body.share_with),
        fingerprint=_fingerprint(body, operation if migrating else None),
    )


def _refuse_large(rt: Runtime, operation: Operation, detail: str) -> None:
    size = len(detail.encode())
    if operation in MIGRATING:
        most, what, setting = rt.settings.max_migration_bytes, "what is to be migrated", "max_migration_bytes"
    else:
        most, what, setting = rt.settings.max_detail_bytes, "the statement", "max_detail_bytes"
    if size > most:
        raise TooLarge(
            f"{what} has {size} bytes, over the limit of {most}", hint=f"split it, or raise [requests] {setting}"
        )


def _could_submit(who: Principal, target: Target, body: NewRequest) -> bool:
    """Whether any statement could pass: asked before the statement is read and the target looked up."""
    by_kind = _EMERGENCY if body.emergency else _NORMAL
    if not any(rbac.allowed(who, permission, target) for permission in by_kind):
        return False
    needs_ddl = body.emergency and body.allow_ddl
    return not needs_ddl or rbac.allowed(who, Permission.REQUEST_BREAK_GLASS_DDL, target)


def _fingerprint(body: NewRequest, migrating: Operation | None) -> str:
    """Of everything that makes two submissions the same; `reason` and `metadata` may differ. Where the text does not
    say what is asked for, `migrating` does."""
    same = body.model_dump(
        include={"database", "environment", "detail", "emergency", "allow_ddl", "no_result_store", "share_with"}
    )
    same["share_with"] = sorted(set(body.share_with))
    if migrating is not None:
        same["operation"] = migrating
    return sha256_hex(canonical_json(same))


def _replay(tx: Tx, earlier: RequestRow, draft: _Draft) -> View:
    if earlier.idempotency_fingerprint != draft.fingerprint:
        raise Conflict(
            "this idempotency key was used for another request", hint="use a new key for a different request"
        )
    return _created_view(earlier, requests.selectors(tx.conn, earlier.id), replayed=True)


def _insert(rt: Runtime, tx: Tx, who: Principal, draft: _Draft, made: Judgement) -> View:
    now = rt.now()
    flow = made.workflow
    status = _initial_status(made.decision)
    ttl = (flow.pending_ttl if flow is not None else None) or rt.settings.retention.approval_ttl
    waiting = approvals.pending_selectors(flow, ()) if flow is not None and status is Status.PENDING else ()
    expires = {
        Status.PENDING: now + ttl,
        Status.AUTO_APPROVED: None,
        Status.BREAK_GLASS: None,
    }[status]
    row = RequestRow(
        id=ids.new_id(),
        requester=who.subject,
        database=draft.said.target.database,
        environment=draft.said.target.environment,
        operation=draft.said.plan.operation,
        detail=draft.body.detail,
        statements=list(draft.said.signed),
        dialect=draft.said.dialect,
        status=status,
        emergency=draft.body.emergency,
        allow_ddl=draft.body.allow_ddl,
        no_result_store=draft.body.no_result_store,
        reason=draft.reason,
        metadata=draft.body.metadata,
        share_with=[str(selector) for selector in draft.share_with],
        idempotency_key=draft.body.idempotency_key,
        idempotency_fingerprint=draft.fingerprint,
        workflow=policy.workflow_to_json(flow) if flow is not None else None,
        decision=_decision(draft.said, made),
        current_step=0,
        execution_id=None,
        created_at=now,
        updated_at=now,
        expires_at=expires,
        approved_at=None if status is Status.PENDING else now,
        dispatched_at=None,
        resolved_at=None,
        cancel_reason=None,
        cancelled_by=None,
    )
    requests.insert_request(tx, row)
    requests.set_selectors(tx, row.id, [str(selector) for selector in waiting])
    record(
        rt,
        tx,
        _CREATED[status],
        actor=who,
        request=row,
        reason=row.reason,
        metadata=_pinned_facts(draft.said),
        sql=draft.sql,
    )
    if made.blocking:
        _record_bypass(rt, tx, who, row, draft)
    if status is Status.BREAK_GLASS:
        tx.after_commit(rt.metrics.break_glass.inc)
    if status is Status.PENDING:
        explains.ask_for_request(rt, tx, row, draft.said.plan.statements)
    else:
        row = dispatch(rt, tx, row, actor=who)
    return _created_view(row, [str(selector) for selector in waiting], replayed=False, warnings=_warnings(rt, tx, row))


def _pinned_facts(said: Submission) -> View:
    """What the record says of a migration beside its SQL."""
    if said.repair is not None:
        return {"action": said.repair.action, "version": said.repair.version}
    return (
        {"migrations": [f"{file.sent.title} sha256:{file.sent.checksum}" for file in said.files]} if said.files else {}
    )


def _decision(said: Submission, made: Judgement) -> View:
    files = {"migrations": submission.judged_files(said, made)} if said.files else {}
    return {**trace(made), **files}


def _warnings(rt: Runtime, tx: Tx, row: RequestRow) -> list[str]:
    """What keeps the request from running as things are: whoever submits should not have to find out by waiting."""
    if row.operation not in MIGRATING or served_by(agents.all_agents(tx.conn), rt, row.target, row.operation):
        return []
    return [f"no agent that runs {row.operation} serves {row.target} at the moment"]


_CREATED = {
    Status.PENDING: Event.REQUEST_CREATED,
    Status.AUTO_APPROVED: Event.REQUEST_AUTO_APPROVED,
    Status.BREAK_GLASS: Event.REQUEST_BREAK_GLASS,
}


def _initial_status(decision: Decision) -> Status:
    match decision:
        case AutoApproved():
            return Status.AUTO_APPROVED
        case BreakGlass():
            return Status.BREAK_GLASS
        case NeedsApproval():
            return Status.PENDING
        case Denied():
            raise AssertionError("a denied request is never stored")


def _record_bypass(rt: Runtime, tx: Tx, who: Principal, row: RequestRow, draft: _Draft) -> None:
    """That an emergency went past the review is an event of its own, in the transaction that let it."""
    record(
        rt,
        tx,
        Event.DDL_BREAK_GLASS_BYPASS,
        actor=who,
        request=row,
        reason=row.reason,
        metadata={
            "request_id": row.id,
            "sql_redacted": redact(*draft.sql)[:FINGERPRINT_MAX] if draft.sql is not None else None,
            "statement_count": len(row.statements),
            "reason": row.reason,
            "classifier_bypassed": False,
            "reviewer_bypassed": True,
        },
    )


def _created_view(row: RequestRow, waiting: list[str], *, replayed: bool, warnings: Sequence[str] = ()) -> View:
    return {
        "id": row.id,
        "status": row.status,
        "operation": row.operation,
        "approvers": waiting if row.status is Status.PENDING else [],
        "idempotent": replayed,
        "expires_at": row.expires_at if row.status is Status.PENDING else None,
        "execution_id": row.execution_id,
        "warnings": list(warnings),
    }


def list_requests(rt: Runtime, who: Principal, wanted: RequestFilter) -> View:
    """One page of the requests this person may see, newest first. Raises `Refused`."""
    access.check(who, Permission.REQUEST_VIEW)
    criteria = Criteria(
        status=wanted.status,
        user=wanted.user,
        database=wanted.database,
        environment=wanted.environment,
        operation=parse_operation(wanted.operation) if wanted.operation is not None else None,
        since=check_time(wanted.since, "since"),
        decidable_by=sight.visibility(who, Permission.REQUEST_VIEW) if wanted.pending_for_me else None,
    )
    limit = min(wanted.limit, PAGE_MAX)
    with rt.store.read() as conn:
        rows, total = requests.page(
            conn, sight.viewed_by(who), criteria, limit=limit, offset=min(wanted.offset, OFFSET_MAX)
        )
        items = [
            views.listed(row, requests.selectors(conn, row.id) if row.status is Status.PENDING else ()) for row in rows
        ]
    return {"requests": items, "total": total, "limit": limit, "offset": wanted.offset}


def status(rt: Runtime, who: Principal, request_id: str) -> tuple[str, Status]:
    """The whole id, and the status: what a call that waits looks at again and again. Raises as `show` does."""
    access.check(who, Permission.REQUEST_VIEW)
    with rt.store.read() as conn:
        row = sight.find(conn, who, request_id)
    return row.id, row.status


def show(rt: Runtime, who: Principal, request_id: str) -> View:
    """Everything about one request.

    Raises `Refused`, `Missing` (also for one they may not see), `Conflict` (ambiguous prefix).
    """
    access.check(who, Permission.REQUEST_VIEW)
    with rt.store.read() as conn:
        row = sight.find(conn, who, request_id)
        given = requests.approvals_of(conn, row.id)
        execution = executions.find(conn, row.execution_id) if row.execution_id is not None else None
        hint = queue_hint(agents.all_agents(conn), row, rt.now()) if row.status is Status.DISPATCHED else None
        beside = context.of_request(conn, row)
    return views.shown(row, approvals=given, queue_hint=hint, execution=execution, context=beside)


def cancel(rt: Runtime, who: Principal, request_id: str, reason: str | None) -> View:
    """End a request; a queued job is withdrawn, a running statement is stopped by its agent.

    Raises `Invalid` (reason too long, or missing for somebody else's request), `Missing`, `Refused`, `Conflict`.
    """
    reason = check_reason(reason)

    def work(tx: Tx) -> RequestRow | DbwardError:
        mine = sight.changed_by(who, Permission.REQUEST_CANCEL)
        row = sight.lock(rt, tx, who, request_id, mine, action="cancel")
        if isinstance(row, DbwardError):
            return row
        if (refusal := refuse_change(who, Permission.REQUEST_CANCEL, row, reason)) is not None:
            return record_refusal(rt, tx, refusal, actor=who, request=row, action="cancel")
        return cancel_row(rt, tx, row, actor=who, reason=reason)

    row = rt.store.write(work)
    if isinstance(row, DbwardError):
        raise row
    return {"id": row.id, "status": row.status}


def cancel_row(rt: Runtime, tx: Tx, row: RequestRow, *, actor: Principal, reason: str | None) -> RequestRow:
    """Cancel inside the caller's transaction; raises `Conflict` when the request has ended."""
    now = rt.now()
    moved = requests.move(
        tx, row, Trigger.CANCEL, now=now, resolved_at=now, cancel_reason=reason, cancelled_by=actor.subject
    )
    requests.set_selectors(tx, row.id, [])
    withdraw_execution(tx, row)
    explains.withdraw_for_request(rt, tx, row.id)
    record(rt, tx, Event.REQUEST_CANCELLED, actor=actor, request=moved, reason=reason)
    return moved


def withdraw_execution(tx: Tx, row: RequestRow) -> None:
    """Take the job back unless its statement runs; then wake the agent, which stops it in the database."""
    execution = executions.find(tx.conn, row.execution_id) if row.execution_id is not None else None
    if execution is None:
        return
    if execution.status in {ExecutionStatus.QUEUED, ExecutionStatus.CLAIMED}:
        executions.move(tx, execution, ExecutionStatus.WITHDRAWN, lease_until=None)
        broker.withdraw(tx, execution.id)
    tx.wake(f"execution:{execution.id}")
