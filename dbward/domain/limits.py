"""Whether a request may be dispatched, or dispatched again: how long an approval is good for, and how often."""

from __future__ import annotations

from datetime import datetime, timedelta

from dbward.domain.model import ExecutionPolicy, Status, Workflow
from dbward.domain.states import DISPATCHABLE
from dbward.errors import Conflict, DbwardError, Gone

APPROVAL_TTL = timedelta(days=1)
"""How long an approval waits for its first execution when the workflow does not say."""

_RAN = frozenset({Status.EXECUTED, Status.FAILED, Status.EXECUTION_LOST})


def approval_deadline(flow: Workflow | None, approved_at: datetime) -> datetime:
    """When an unused approval runs out. `flow` is the request's snapshot; None: an emergency that had no workflow."""
    ttl = None if flow is None else flow.approval_ttl
    return approved_at + (APPROVAL_TTL if ttl is None else ttl)


def refuse_resume(
    *,
    status: Status,
    approved_at: datetime | None,
    finished_ok: int,
    now: datetime,
    flow: Workflow | None,
    policy: ExecutionPolicy,
) -> DbwardError | None:
    """Why the request may not be dispatched now, or None when it may.

    `approved_at` is when it was approved by whatever means: the last approval, policy, or the emergency; it never moves
    afterwards. `finished_ok` counts executions that completed, stored result or not. Failed and lost ones do not use up
    `max_executions`; a failure needs `retry_on_failure`, a lost outcome only somebody who decides.
    """
    if status not in DISPATCHABLE:
        return Conflict(f"request is {status}: resuming is not possible")
    if approved_at is None:
        return Gone("approval expired: it is not on record when this was approved", hint="submit a new request")
    repeated = status in _RAN or finished_ok > 0
    if not repeated and now > (deadline := approval_deadline(flow, approved_at)):
        return Gone(f"approval expired at {_shown(deadline)}", hint="submit a new request")
    if finished_ok >= policy.max_executions:
        return Conflict(
            f"executed {finished_ok} of at most {policy.max_executions} times",
            hint="submit a new request, or raise max_executions in the execution policy",
        )
    if repeated and now > (end := approved_at + policy.execution_window):
        return Gone(f"execution window ended at {_shown(end)}", hint="submit a new request")
    if status is Status.FAILED and not policy.retry_on_failure:
        return Conflict(
            "the execution failed, and the execution policy does not allow a retry",
            hint="submit a new request, or set retry_on_failure in the execution policy",
        )
    return None


def _shown(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
