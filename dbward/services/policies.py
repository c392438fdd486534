"""The configured policies, which of them cover a target, and what they would decide before there is any SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from dbward.domain import policy, rbac, review
from dbward.domain.model import (
    AutoApprove,
    ExecutionPolicy,
    Operation,
    Permission,
    Principal,
    ResultPolicy,
    SqlReviewPolicy,
    Step,
    Target,
    Workflow,
)
from dbward.domain.names import parse_name, parse_operation
from dbward.domain.notifications import NotificationPolicy
from dbward.errors import Missing
from dbward.runtime import Runtime
from dbward.services import access
from dbward.services.views import View
from dbward.settings.server import ServerSettings

_OPERATIONS = (
    Operation.EXECUTE_SELECT,
    Operation.EXECUTE_DML,
    Operation.MIGRATE_UP,
    Operation.MIGRATE_DOWN,
    Operation.MIGRATE_STATUS,
    Operation.MIGRATE_REPAIR,
)
_BUILTIN_REVIEW = SqlReviewPolicy()
_NEVER_CHANGED = {"created_at": None, "updated_at": None}
"""Configuration has no such times; clients expect the keys."""


class Kind(StrEnum):
    """A kind of policy, called as the key that its list has in an answer."""

    WORKFLOWS = "workflows"
    EXECUTION = "execution_policies"
    RESULT = "result_policies"
    NOTIFICATION = "notification_policies"
    SQL_REVIEW = "sql_review_policies"


def list_policies(rt: Runtime, who: Principal, kind: Kind) -> View:
    """Every policy of one kind, in the order of the configuration. Raises `Refused`."""
    access.check(who, Permission.WORKFLOW_READ)
    return {kind: _views(rt.settings, kind)}


def show(rt: Runtime, who: Principal, kind: Kind, policy_id: str) -> View:
    """The policy of this id. Raises `Refused`, `Missing`."""
    access.check(who, Permission.WORKFLOW_READ)
    found = next((view for view in _views(rt.settings, kind) if view["id"] == policy_id), None)
    if found is None:
        raise Missing(f"{_KINDS[kind].word} {policy_id}")
    return found


def _views(settings: ServerSettings, kind: Kind) -> list[View]:
    how = _KINDS[kind]
    return [how.view(entry) for entry in how.entries(settings)]


def _workflow_view(flow: Workflow) -> View:
    return policy.workflow_to_json(flow) | {"auto_approve": _auto_approve(flow.auto_approve)} | _NEVER_CHANGED


def _execution_view(found: ExecutionPolicy) -> View:
    return {
        "id": found.id,
        "database": found.database,
        "environment": found.environment,
        "max_executions": found.max_executions,
        "execution_window_secs": _secs(found.execution_window),
        "retry_on_failure": found.retry_on_failure,
        "statement_timeout_secs": _secs(found.statement_timeout),
        "max_statement_timeout_secs": _secs(found.max_statement_timeout),
        "max_rows": found.max_rows,
        "migration_lease_duration_secs": _secs(found.migration_lease_duration),
        "migration_statement_timeout_secs": _secs(found.migration_statement_timeout),
        **_NEVER_CHANGED,
    }


def _result_view(found: ResultPolicy) -> View:
    return {
        "id": found.id,
        "database": found.database,
        "environment": found.environment,
        "retention_days": found.retention.days,
        "delivery_mode": found.delivery_mode,
        "access": [str(selector) for selector in found.access],
        **_NEVER_CHANGED,
    }


def _notification_view(found: NotificationPolicy) -> View:
    return {
        "id": found.id,
        "database": found.database,
        "environment": found.environment,
        "webhooks": found.webhooks,
        "events": found.events,
    }


def _review_view(found: SqlReviewPolicy) -> View:
    return {
        "id": found.id,
        "database": found.database,
        "environment": found.environment,
        "rules": {**review.DEFAULT_ACTIONS, **found.rules},
        "source": "builtin" if found.id == _BUILTIN_REVIEW.id else "config",
    }


@dataclass(frozen=True, slots=True)
class _Kind:
    word: str
    entries: Callable[[ServerSettings], Iterable[Any]]
    view: Callable[[Any], View]


_KINDS = {
    Kind.WORKFLOWS: _Kind("workflow", lambda settings: settings.policy.workflows, _workflow_view),
    Kind.EXECUTION: _Kind("execution policy", lambda settings: settings.policy.execution_policies, _execution_view),
    Kind.RESULT: _Kind("result policy", lambda settings: settings.policy.result_policies, _result_view),
    Kind.NOTIFICATION: _Kind(
        "notification policy", lambda settings: settings.features.notification_policies, _notification_view
    ),
    Kind.SQL_REVIEW: _Kind(
        "SQL review policy", lambda settings: (*settings.policy.sql_review, _BUILTIN_REVIEW), _review_view
    ),
}


# --- which of them cover a target -------------------------------------------------------------------------------------


def resolve(rt: Runtime, who: Principal, database: str, environment: str, operation: str | None) -> View:
    """The policies of one target: for one operation in full, without one as a line for each. Raises `Refused`."""
    target = Target(parse_name(database, "database"), parse_name(environment, "environment"))
    if (refusal := rbac.refuse(who, Permission.REQUEST_VIEW, target=target, owner=None)) is not None:
        raise refusal
    head: View = {"database": target.database, "environment": target.environment}
    if target not in rt.settings.policy.targets:
        return head | {"registered": False, "decision_preview": "deny", "reason_code": "db_not_registered"}
    execution = policy.find_execution_policy(rt.settings.policy.execution_policies, target)
    rules = policy.find_review_policy(rt.settings.policy.sql_review, target)
    common: View = {
        "registered": True,
        "execution_policy": _execution_policy(execution),
        "sql_review_policy": _review_view(rules),
    }
    if operation is None:
        return head | common | {"resolutions": [_line(rt, target, one) for one in _OPERATIONS]}
    wanted = parse_operation(operation)
    flow = policy.find_workflow(rt.settings.policy.workflows, target, wanted)
    return head | common | {"operation": wanted, "workflow": _workflow(flow), **_preview(flow)}


def _line(rt: Runtime, target: Target, operation: Operation) -> View:
    flow = policy.find_workflow(rt.settings.policy.workflows, target, operation)
    return {
        "operation": operation,
        "workflow_id": flow.id if flow is not None else None,
        "matched_by": _matched_by(flow) if flow is not None else None,
        **_preview(flow),
    }


def _preview(flow: Workflow | None) -> View:
    """What can be said before the SQL is known."""
    auto = flow.auto_approve if flow is not None else None
    if flow is None:
        verdict = ("deny", "no_matching_workflow")
    elif auto is None:
        verdict = ("needs_approval", "no_auto_approve")
    elif auto.mode == "always":
        verdict = ("auto_approved", "explicit_always")
    else:
        verdict = ("may_auto_approve", "risk_unknown_until_analyzed")
    return {
        "auto_approve": _auto_approve(auto),
        "decision_preview": verdict[0],
        "reason_code": verdict[1],
    }


def _auto_approve(auto: AutoApprove | None) -> View | None:
    if auto is None:
        return None
    return {
        "mode": auto.mode,
        "max_risk_level": auto.risk,
        "allow_read_only": auto.allow_read_only,
        "allow_safe_ddl": auto.allow_safe_ddl,
        "max_estimated_rows": auto.max_estimated_rows,
    }


def _workflow(flow: Workflow | None) -> View | None:
    if flow is None:
        return None
    return {
        "id": flow.id,
        "matched_by": _matched_by(flow),
        "steps": [_step(step) for step in flow.steps],
        "require_reason": flow.require_reason,
        "explain": flow.explain,
        "allow_self_approve": flow.allow_self_approve,
    }


def _step(step: Step) -> View:
    """`min` is how many approvals complete the step at least: all that are asked for, or the fewest in mode `any`."""
    wanted = [entry.min for entry in step.approvers]
    return {
        "mode": step.mode,
        "approvers": [str(entry.selector) for entry in step.approvers],
        "min": sum(wanted) if step.mode == "all" else min(wanted),
        "required": policy.approvers_json(step),
    }


def _matched_by(found: Workflow | ExecutionPolicy) -> str:
    return f"({found.database}, {found.environment})"


def _execution_policy(found: ExecutionPolicy) -> View:
    return {
        "statement_timeout_secs": _secs(found.statement_timeout),
        "migration_statement_timeout_secs": _secs(found.migration_statement_timeout),
        "max_rows": found.max_rows,
        "max_executions": found.max_executions,
        "matched_by": _matched_by(found),
        "explicit": bool(found.id),
    }


def _secs(duration: timedelta | None) -> int | None:
    """Whole seconds, as the configuration has them."""
    return None if duration is None else duration // timedelta(seconds=1)
