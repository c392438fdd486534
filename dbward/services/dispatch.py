"""Sending an approved request to the agents: the message is a row of the same transaction."""

from __future__ import annotations

from dbward import ids
from dbward.db import executions, requests
from dbward.db.engine import Tx
from dbward.db.rows import RequestRow
from dbward.domain import limits, policy, rbac
from dbward.domain.model import Event, Permission, Principal
from dbward.domain.policy import workflow_from_json
from dbward.domain.states import Trigger
from dbward.errors import DbwardError, Invalid
from dbward.runtime import Runtime
from dbward.services import access, explains, sight
from dbward.services.journal import record, record_refusal
from dbward.services.views import View

REASON_MAX_BYTES = 1024


def check_reason(reason: str | None, what: str = "reason") -> str | None:
    """The text, or None when there is nothing but spaces. Raises `Invalid` over 1024 bytes."""
    if reason is not None and len(reason.encode()) > REASON_MAX_BYTES:
        raise Invalid(f"{what} is over {REASON_MAX_BYTES} bytes")
    return reason if reason is not None and reason.strip() else None


def dispatch(rt: Runtime, tx: Tx, row: RequestRow, *, actor: Principal, reason: str | None = None) -> RequestRow:
    """Move `row` to dispatched, with its execution, its queue message and its audit event."""
    now = rt.now()
    execution_id = ids.new_id()
    moved = requests.move(
        tx, row, Trigger.DISPATCH, now=now, execution_id=execution_id, dispatched_at=now, expires_at=None
    )
    explains.withdraw_for_request(rt, tx, row.id)
    executions.queue(tx, execution_id, row.id, now)
    rt.publisher.execution(tx, target=row.target, request_id=row.id, execution_id=execution_id)
    record(
        rt,
        tx,
        Event.REQUEST_DISPATCHED,
        actor=actor,
        request=moved,
        reason=reason,
        metadata={"execution_id": execution_id},
    )
    return moved


def resume(rt: Runtime, who: Principal, request_id: str, reason: str | None) -> View:
    """Send an approved request to its agents, or an executed, failed or lost one again where policy allows it.

    Raises `Missing`, `Refused`, `Invalid` (somebody else's request and no reason), `Conflict` and `Gone`.
    """
    reason = check_reason(reason)

    def work(tx: Tx) -> RequestRow | DbwardError:
        access.check_acting(tx, who)
        mine = sight.changed_by(who, Permission.REQUEST_RESUME)
        row = sight.lock(rt, tx, who, request_id, mine, action="resume")
        if isinstance(row, DbwardError):
            return row
        if (refusal := refuse_change(who, Permission.REQUEST_RESUME, row, reason)) is not None:
            return record_refusal(rt, tx, refusal, actor=who, request=row, action="resume")
        gate = limits.refuse_resume(
            status=row.status,
            approved_at=row.approved_at,
            finished_ok=executions.count_completed(tx.conn, row.id),
            now=rt.now(),
            flow=workflow_from_json(row.workflow) if row.workflow is not None else None,
            policy=policy.find_execution_policy(rt.settings.policy.execution_policies, row.target),
        )
        if gate is not None:
            raise gate
        return dispatch(rt, tx, row, actor=who, reason=reason)

    row = rt.store.write(work)
    if isinstance(row, DbwardError):
        raise row
    return {"id": row.id, "status": row.status, "execution_id": row.execution_id}


def refuse_change(who: Principal, permission: Permission, row: RequestRow, reason: str | None) -> DbwardError | None:
    """Cancel and resume: the owner may, others with `:any` and only when they say why."""
    refusal = rbac.refuse(who, permission, target=row.target, owner=row.requester)
    if refusal is not None:
        return refusal
    if who.subject != row.requester and not reason:
        raise Invalid(
            "reason is required: this request belongs to somebody else", hint="say why; the reason goes on the record"
        )
    return None
