"""Which policy applies, what it decides, and the limits it sets. Missing or unknown never means approved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from dbward.domain.model import (
    ANY,
    DEFAULT_MAX_ROWS,
    Approver,
    AutoApprove,
    ExecutionPolicy,
    Limits,
    Operation,
    ResultPolicy,
    RiskLevel,
    SqlReviewPolicy,
    Step,
    Target,
    Workflow,
)
from dbward.domain.names import parse_selector
from dbward.errors import Invalid

_RANK = {RiskLevel.LOW: 1, RiskLevel.MEDIUM: 2, RiskLevel.HIGH: 3, RiskLevel.CRITICAL: 4}
"""Levels that are known; `unknown` and `unavailable` are on purpose not among them."""

_LONGEST = ExecutionPolicy().max_statement_timeout
_MIGRATIONS = frozenset({Operation.MIGRATE_UP, Operation.MIGRATE_DOWN, Operation.MIGRATE_REPAIR})


@dataclass(frozen=True, slots=True)
class AutoApproved:
    workflow_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class NeedsApproval:
    workflow_id: str
    steps: tuple[Step, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class BreakGlass:
    """Runs without approval because of an emergency; `workflow_id` None when no workflow covers it."""

    workflow_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Denied:
    code: str
    reason: str


Decision = AutoApproved | NeedsApproval | BreakGlass | Denied


def decide(flow: Workflow | None, risk_level: RiskLevel | None, emergency: bool) -> Decision:  # noqa: FBT001 - the agreed signature
    """What happens to a new request. `risk_level` None means that it was not computed, which counts as unavailable."""
    if emergency:
        return BreakGlass(None if flow is None else flow.id, "break_glass")
    if flow is None:
        return Denied("policy.no_workflow", "no workflow covers this database, environment and operation")
    auto = flow.auto_approve
    if auto is not None and auto.mode == "always":
        return AutoApproved(flow.id, "explicit_always")
    if auto is not None and auto.mode == "risk_based" and _at_most(risk_level, auto.risk):
        return AutoApproved(flow.id, "risk_below_threshold")
    if not flow.steps or not all(step.approvers for step in flow.steps):
        return Denied("policy.no_approvers", f"workflow {flow.id} needs an approval but does not say whose")
    if auto is None:
        return NeedsApproval(flow.id, flow.steps, "no_auto_approve_rule")
    known = risk_level in _RANK
    return NeedsApproval(flow.id, flow.steps, "risk_above_threshold" if known else "risk_unavailable")


def _at_most(level: RiskLevel | None, limit: RiskLevel | None) -> bool:
    if level is None or limit is None or level not in _RANK or limit not in _RANK:
        return False
    return _RANK[level] <= _RANK[limit]


class _Scoped(Protocol):
    @property
    def database(self) -> str: ...
    @property
    def environment(self) -> str: ...


_Policy = TypeVar("_Policy", bound=_Scoped)


def find_workflow(workflows: Iterable[Workflow], target: Target, operation: Operation) -> Workflow | None:
    """The most specific workflow: the environment weighs more than the database, that more than the operation list."""
    listing = [flow for flow in workflows if operation in flow.operations]
    catching_all = [flow for flow in workflows if not flow.operations]
    best = most_specific(listing, target)
    other = most_specific(catching_all, target)
    if best is None or other is None:
        return best or other
    return other if _score(other) > _score(best) else best


def find_execution_policy(policies: Iterable[ExecutionPolicy], target: Target) -> ExecutionPolicy:
    """The most specific policy, or the built-in defaults when none covers the target."""
    return most_specific(policies, target) or ExecutionPolicy()


def find_result_policy(policies: Iterable[ResultPolicy], target: Target) -> ResultPolicy:
    """The most specific policy, or the built-in defaults when none covers the target."""
    return most_specific(policies, target) or ResultPolicy()


def find_review_policy(policies: Iterable[SqlReviewPolicy], target: Target) -> SqlReviewPolicy:
    """The most specific policy, or the built-in one when none covers the target."""
    return most_specific(policies, target) or SqlReviewPolicy()


def _score(policy: _Scoped) -> int:
    return 2 * (policy.environment != ANY) + (policy.database != ANY)


def most_specific_first(policies: Iterable[_Policy]) -> list[_Policy]:
    """In the order in which `most_specific` prefers them: the first that covers a target is its policy."""
    return sorted(policies, key=_score, reverse=True)


def most_specific(policies: Iterable[_Policy], target: Target) -> _Policy | None:
    """Of those that cover the target, the first of the highest score. Settings refuse two of the same scope."""
    covering = [
        policy
        for policy in policies
        if policy.database in (ANY, target.database) and policy.environment in (ANY, target.environment)
    ]
    return max(covering, key=_score, default=None)


def limits_for(policy: ExecutionPolicy, operation: Operation, max_bytes: int, flow: Workflow | None = None) -> Limits:
    """What one execution may use. The workflow's own time limit, when it has one, goes before the policy's.

    Only a migration may have no time limit (zero); a statement is always held to `max_statement_timeout`.
    """
    rows = DEFAULT_MAX_ROWS if policy.max_rows is None else max(policy.max_rows, 0)
    if operation in _MIGRATIONS:
        return Limits(policy.migration_statement_timeout or timedelta(0), rows, max_bytes)
    wanted = policy.statement_timeout if flow is None or flow.statement_timeout is None else flow.statement_timeout
    longest = policy.max_statement_timeout if policy.max_statement_timeout > timedelta(0) else _LONGEST
    return Limits(min(wanted, longest) if wanted > timedelta(0) else longest, rows, max_bytes)


def workflow_to_json(flow: Workflow) -> dict[str, Any]:
    """The snapshot stored with a request; durations in seconds."""
    auto = flow.auto_approve
    return {
        "id": flow.id,
        "database": flow.database,
        "environment": flow.environment,
        "operations": [str(operation) for operation in flow.operations],
        "auto_approve": None
        if auto is None
        else {
            "mode": auto.mode,
            "risk": None if auto.risk is None else str(auto.risk),
            "allow_read_only": auto.allow_read_only,
            "allow_safe_ddl": auto.allow_safe_ddl,
            "max_estimated_rows": auto.max_estimated_rows,
        },
        "steps": [{"mode": step.mode, "approvers": approvers_json(step)} for step in flow.steps],
        "require_reason": flow.require_reason,
        "allow_self_approve": flow.allow_self_approve,
        "allow_same_approver_across_steps": flow.allow_same_approver_across_steps,
        "explain": flow.explain,
        "pending_ttl_secs": _secs(flow.pending_ttl),
        "approval_ttl_secs": _secs(flow.approval_ttl),
        "statement_timeout_secs": _secs(flow.statement_timeout),
    }


def approvers_json(step: Step) -> list[dict[str, Any]]:
    """Who may approve the step, and how many of them it takes."""
    return [{"selector": str(entry.selector), "min": entry.min} for entry in step.approvers]


def workflow_from_json(data: Mapping[str, Any]) -> Workflow:
    """The workflow of a snapshot. Raises `Invalid` when anything in it is missing or of the wrong kind."""
    try:
        auto = data["auto_approve"]
        return Workflow(
            id=_is(str, data["id"]),
            database=_is(str, data["database"]),
            environment=_is(str, data["environment"]),
            operations=tuple(Operation(operation) for operation in data["operations"]),
            auto_approve=None if auto is None else _auto_approve(auto),
            steps=tuple(_step(step) for step in data["steps"]),
            require_reason=_is(bool, data["require_reason"]),
            allow_self_approve=_is(bool, data["allow_self_approve"]),
            allow_same_approver_across_steps=_is(bool, data["allow_same_approver_across_steps"]),
            explain=_is(bool, data["explain"]),
            pending_ttl=_duration(data["pending_ttl_secs"]),
            approval_ttl=_duration(data["approval_ttl_secs"]),
            statement_timeout=_duration(data["statement_timeout_secs"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise Invalid(f"the stored workflow cannot be read: {e!r}", code="workflow.unreadable") from e


def _auto_approve(data: Mapping[str, Any]) -> AutoApprove:
    risk = data["risk"]
    return AutoApprove(
        mode=_mode(data["mode"], "always", "risk_based"),
        risk=None if risk is None else RiskLevel(risk),
        allow_read_only=_is(bool, data["allow_read_only"]),
        allow_safe_ddl=_is(bool, data["allow_safe_ddl"]),
        max_estimated_rows=_is(int, data["max_estimated_rows"]),
    )


def _step(data: Mapping[str, Any]) -> Step:
    approvers = tuple(
        Approver(parse_selector(entry["selector"]), _is(int, entry["min"])) for entry in data["approvers"]
    )
    if not approvers or any(entry.min < 1 for entry in approvers):
        raise ValueError("a step without a required approval")
    return Step(approvers, _mode(data["mode"], "all", "any"))


_Kind = TypeVar("_Kind")
_Word = TypeVar("_Word", bound=str)


def _is(kind: type[_Kind], value: Any) -> _Kind:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value


def _mode(value: Any, *known: _Word) -> _Word:
    for word in known:
        if value == word:
            return word
    raise ValueError(f"unknown mode {value!r}")


def _secs(duration: timedelta | None) -> float | None:
    if duration is None:
        return None
    seconds = duration.total_seconds()
    return int(seconds) if seconds.is_integer() else seconds


def _duration(seconds: Any) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
