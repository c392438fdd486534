"""Approving and rejecting: eligibility, progress, move and audit in one transaction."""

from __future__ import annotations

from dataclasses import replace

from dbward import ids
from dbward.db import requests
from dbward.db.engine import Tx
from dbward.db.rows import RequestRow
from dbward.domain import approvals as rules
from dbward.domain.approvals import Approval, Progress
from dbward.domain.limits import approval_deadline
from dbward.domain.model import Event, Principal, Status, Workflow
from dbward.domain.policy import workflow_from_json
from dbward.domain.states import Trigger
from dbward.errors import Conflict, DbwardError, Gone, Refused
from dbward.runtime import Runtime
from dbward.services import access, sight
from dbward.services.dispatch import check_reason
from dbward.services.journal import record, record_refusal
from dbward.services.views import View


def approve(rt: Runtime, who: Principal, request_id: str, comment: str | None, selector: str | None) -> View:
    """Count one approval for one selector of the current step; the last one makes the request resumable.

    Raises, in this order: `Invalid` (comment), `Missing`, `Conflict` (not pending), `Gone` (expired), `Refused`
    (not eligible), `Conflict` (approved already), `Invalid` and `Conflict` for the choice of selector.
    """
    comment = check_reason(comment, "comment")

    def work(tx: Tx) -> View | DbwardError:
        access.check_acting(tx, who)
        found = _decidable(rt, tx, who, request_id, "approve")
        if isinstance(found, DbwardError):
            return found
        row, flow, given = found
        before = rules.progress(flow, given)
        try:
            chosen = rules.choose_selector(flow, given, who, row.requester, selector)
        except Refused as refusal:
            return record_refusal(rt, tx, refusal, actor=who, request=row, action="approve")
        now = rt.now()
        approval = Approval(before.current_step, who.subject, "approve", str(chosen), comment, now)
        requests.add_approval(tx, ids.new_id(), row.id, approval)
        given = (*given, approval)
        after = rules.progress(flow, given)
        done = after.current_step >= after.total_steps
        moved = requests.move(
            tx,
            row,
            Trigger.APPROVE_FINAL if done else Trigger.APPROVE_STEP,
            now=now,
            current_step=after.current_step,
            **({"approved_at": now, "resolved_at": now, "expires_at": approval_deadline(flow, now)} if done else {}),
        )
        requests.set_selectors(tx, row.id, [str(s) for s in rules.pending_selectors(flow, given)])
        _record_approval(rt, tx, who, row, approval, before, done=done)
        return {
            "id": row.id,
            "status": moved.status,
            "approved_by": who.subject,
            "matched_selector": str(chosen),
            "step_completed": after.current_step,
            "current_step": after.current_step,
            "total_steps": after.total_steps,
        }

    return _outcome(rt.store.write(work))


def reject(rt: Runtime, who: Principal, request_id: str, comment: str | None) -> View:
    """End the request; whoever may approve its current step may reject it. Raises as `approve` does."""
    comment = check_reason(comment, "comment")

    def work(tx: Tx) -> View | DbwardError:
        access.check_acting(tx, who)
        found = _decidable(rt, tx, who, request_id, "reject")
        if isinstance(found, DbwardError):
            return found
        row, flow, given = found
        try:
            step, matched = rules.choose_rejecting(flow, given, who, row.requester)
        except Refused as refusal:
            return record_refusal(rt, tx, refusal, actor=who, request=row, action="reject")
        now = rt.now()
        requests.add_approval(
            tx, ids.new_id(), row.id, Approval(step, who.subject, "reject", str(matched), comment, now)
        )
        moved = requests.move(tx, row, Trigger.REJECT, now=now, resolved_at=now)
        requests.set_selectors(tx, row.id, [])
        record(
            rt,
            tx,
            Event.REQUEST_REJECTED,
            actor=who,
            request=row,
            reason=comment,
            metadata={"matched_selector": str(matched)},
        )
        tx.after_commit(rt.metrics.approvals.labels("reject").inc)
        return {"id": row.id, "status": moved.status}

    return _outcome(rt.store.write(work))


def _decidable(
    rt: Runtime, tx: Tx, who: Principal, request_id: str, action: str
) -> tuple[RequestRow, Workflow, tuple[Approval, ...]] | DbwardError:
    """The pending request with its workflow and decisions, or the `Missing` to raise after the commit."""
    row = sight.lock(rt, tx, who, request_id, sight.awaiting(who), action=action)
    if isinstance(row, DbwardError):
        return row
    if row.status is not Status.PENDING:
        already = "already approved" if row.status is Status.APPROVED else f"already {row.status}"
        raise Conflict(f"request is {already}", hint="only pending requests are decided")
    if row.expires_at is not None and row.expires_at <= rt.now():
        raise Gone("request has expired", hint="ask the requester to submit it again")
    if row.workflow is None:
        raise Conflict("request has no workflow to decide it by")
    return row, workflow_from_json(row.workflow), requests.approvals_of(tx.conn, row.id)


def _record_approval(
    rt: Runtime, tx: Tx, who: Principal, row: RequestRow, approval: Approval, before: Progress, *, done: bool
) -> None:
    said = {"matched_selector": approval.matched_selector}
    if approval.comment:
        said["approval_comment"] = approval.comment
    step = {**said, "step_number": before.current_step + 1, "total_steps": before.total_steps}
    record(rt, tx, Event.STEP_APPROVED, actor=who, request=row, metadata=step)
    tx.after_commit(rt.metrics.approvals.labels("approve").inc)
    if done:
        waited = approval.at - row.created_at
        tx.after_commit(lambda: rt.metrics.approval_wait.observe(waited.total_seconds()))
        record(rt, tx, Event.REQUEST_APPROVED, actor=who, request=replace(row, status=Status.APPROVED), metadata=said)


def _outcome(result: View | DbwardError) -> View:
    if isinstance(result, DbwardError):
        raise result
    return result
