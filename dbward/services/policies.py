"""Which policies cover a target, and what they would decide, before there is any SQL."""

from __future__ import annotations

from dbward.domain import policy, rbac, review
from dbward.domain.model import ExecutionPolicy, Operation, Permission, Principal, Target, Workflow
from dbward.domain.names import parse_name, parse_operation
from dbward.runtime import Runtime
from dbward.services.views import View

_OPERATIONS = (
    Operation.EXECUTE_SELECT,
    Operation.EXECUTE_DML,
    Operation.MIGRATE_UP,
    Operation.MIGRATE_DOWN,
    Operation.MIGRATE_STATUS,
    Operation.MIGRATE_REPAIR,
)


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
        "sql_review_policy": {
            "id": rules.id,
            "database": rules.database,
            "environment": rules.environment,
            "source": "config" if rules.rules else "builtin",
            "rules": {**review.DEFAULT_ACTIONS, **rules.rules},
        },
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
        "auto_approve": None
        if auto is None
        else {
            "mode": auto.mode,
            "max_risk_level": auto.risk,
            "allow_read_only": auto.allow_read_only,
            "allow_safe_ddl": auto.allow_safe_ddl,
            "max_estimated_rows": auto.max_estimated_rows,
        },
        "decision_preview": verdict[0],
        "reason_code": verdict[1],
    }


def _workflow(flow: Workflow | None) -> View | None:
    if flow is None:
        return None
    return {
        "id": flow.id,
        "matched_by": _matched_by(flow),
        "steps": [{"mode": step.mode, "approvers": policy.approvers_json(step)} for step in flow.steps],
        "require_reason": flow.require_reason,
        "explain": flow.explain,
        "allow_self_approve": flow.allow_self_approve,
    }


def _matched_by(found: Workflow | ExecutionPolicy) -> str:
    return f"({found.database}, {found.environment})"


def _execution_policy(found: ExecutionPolicy) -> View:
    migrating = found.migration_statement_timeout
    return {
        "statement_timeout_secs": found.statement_timeout.total_seconds(),
        "migration_statement_timeout_secs": migrating.total_seconds() if migrating is not None else None,
        "max_rows": found.max_rows,
        "max_executions": found.max_executions,
        "matched_by": _matched_by(found),
        "explicit": bool(found.id),
    }
