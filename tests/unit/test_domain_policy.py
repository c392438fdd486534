"""Which policy applies, what it decides, and when a request may be dispatched."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbward.domain.limits import APPROVAL_TTL, approval_deadline, refuse_resume
from dbward.domain.model import (
    DEFAULT_MAX_ROWS,
    Approver,
    AutoApprove,
    ExecutionPolicy,
    Operation,
    ResultPolicy,
    RiskLevel,
    Selector,
    SelectorKind,
    Status,
    Step,
    Target,
    Workflow,
)
from dbward.domain.policy import (
    AutoApproved,
    BreakGlass,
    Denied,
    NeedsApproval,
    decide,
    find_execution_policy,
    find_result_policy,
    find_workflow,
    limits_for,
    workflow_from_json,
    workflow_to_json,
)
from dbward.domain.states import DISPATCHABLE
from dbward.errors import Conflict, Gone, Invalid
from tests.support.props import calm

HOUR = timedelta(hours=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
APP = Target("app", "production")
STEP = Step((Approver(Selector(SelectorKind.ROLE, "dba")),))
SELECT, DML = Operation.EXECUTE_SELECT, Operation.EXECUTE_DML


def test_the_environment_weighs_more_than_the_database_and_that_more_than_operations() -> None:
    rising = [
        Workflow("w0"),
        Workflow("w1", operations=(SELECT,)),
        Workflow("w2", database="app"),
        Workflow("w3", database="app", operations=(SELECT,)),
        Workflow("w4", environment="production"),
        Workflow("w5", environment="production", operations=(SELECT,)),
        Workflow("w6", database="app", environment="production"),
        Workflow("w7", database="app", environment="production", operations=(SELECT,)),
    ]
    for count in range(1, len(rising) + 1):
        for order in (rising[:count], rising[count - 1 :: -1]):
            found = find_workflow(order, APP, SELECT)
            assert found is not None
            assert found.id == f"w{count - 1}"
    found = find_workflow(rising, APP, DML)
    assert found is not None
    assert found.id == "w6"
    assert find_workflow([Workflow("x", database="other")], APP, SELECT) is None
    assert find_workflow([], APP, SELECT) is None


def test_policies_fall_back_to_the_built_in_one() -> None:
    assert find_execution_policy([], APP) == ExecutionPolicy()
    assert find_result_policy([ResultPolicy("r", database="x")], APP) == ResultPolicy()
    policies = [ExecutionPolicy("db", database="app"), ExecutionPolicy("env", environment="production")]
    assert find_execution_policy(policies, APP).id == "env"
    assert find_execution_policy(reversed(policies), APP).id == "env"


RISK = AutoApprove("risk_based", RiskLevel.MEDIUM)


@pytest.mark.parametrize(
    ("flow", "level", "kind", "reason"),
    [
        (None, RiskLevel.LOW, Denied, "no workflow"),
        (Workflow("w", auto_approve=AutoApprove("always")), None, AutoApproved, "explicit_always"),
        (Workflow("w", auto_approve=RISK, steps=(STEP,)), RiskLevel.LOW, AutoApproved, "risk_below_threshold"),
        (Workflow("w", auto_approve=RISK, steps=(STEP,)), RiskLevel.MEDIUM, AutoApproved, "risk_below_threshold"),
        (Workflow("w", auto_approve=RISK, steps=(STEP,)), RiskLevel.HIGH, NeedsApproval, "risk_above_threshold"),
        (Workflow("w", auto_approve=RISK, steps=(STEP,)), RiskLevel.UNKNOWN, NeedsApproval, "risk_unavailable"),
        (Workflow("w", auto_approve=RISK, steps=(STEP,)), RiskLevel.UNAVAILABLE, NeedsApproval, "risk_unavailable"),
        (Workflow("w", auto_approve=RISK, steps=(STEP,)), None, NeedsApproval, "risk_unavailable"),
        (Workflow("w", steps=(STEP,)), RiskLevel.LOW, NeedsApproval, "no_auto_approve_rule"),
        (Workflow("w", auto_approve=AutoApprove("risk_based"), steps=(STEP,)), RiskLevel.LOW, NeedsApproval, "risk"),
        (Workflow("w"), RiskLevel.LOW, Denied, "approval"),
        (Workflow("w", steps=(Step(()),)), RiskLevel.LOW, Denied, "approval"),
        (Workflow("w", steps=(STEP, Step(()))), RiskLevel.LOW, Denied, "approval"),
        (Workflow("w", auto_approve=RISK), RiskLevel.HIGH, Denied, "approval"),
    ],
)
def test_decisions(flow: Workflow | None, level: RiskLevel | None, kind: type, reason: str) -> None:
    decision = decide(flow, level, False)
    assert type(decision) is kind
    assert reason in decision.reason
    assert type(decide(flow, level, True)) is BreakGlass


names = st.sampled_from(["*", "app", "db2"])
durations = st.none() | st.timedeltas(timedelta(0), timedelta(days=400))
selectors = st.builds(Selector, st.sampled_from([SelectorKind.ROLE, SelectorKind.USER]), st.text("ab:|é", min_size=1))
approvers = st.builds(Approver, selectors, st.integers(1, 9))
steps = st.builds(Step, st.lists(approvers, min_size=1, max_size=3).map(tuple), st.sampled_from(["all", "any"]))
workflows = st.builds(
    Workflow,
    id=st.text(),
    database=names,
    environment=names,
    operations=st.lists(st.sampled_from(Operation)).map(tuple),
    auto_approve=st.none()
    | st.builds(AutoApprove, st.sampled_from(["always", "risk_based"]), st.sampled_from(RiskLevel)),
    steps=st.lists(steps, max_size=3).map(tuple),
    pending_ttl=durations,
    approval_ttl=durations,
    statement_timeout=durations,
)


@calm
@given(workflows)
def test_a_snapshot_is_read_back_as_it_was(flow: Workflow) -> None:
    assert workflow_from_json(workflow_to_json(flow)) == flow


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", [{"mode": "most", "approvers": [{"selector": "role:a", "min": 1}]}]),
        ("steps", [{"mode": "all", "approvers": []}]),
        ("steps", [{"mode": "all", "approvers": [{"selector": "role:a", "min": 0}]}]),
        ("steps", [{"mode": "all", "approvers": [{"selector": "role:a", "min": True}]}]),
        ("steps", [{"mode": "all", "approvers": [{"selector": "everyone", "min": 1}]}]),
        ("steps", None),
        ("allow_self_approve", "false"),
        ("allow_same_approver_across_steps", 0),
        ("auto_approve", {"mode": "sometimes"}),
        ("auto_approve", {"mode": "maybe", "risk": None}),
        ("operations", ["drop_everything"]),
        ("approval_ttl_secs", "3600"),
        ("approval_ttl_secs", float("nan")),
    ],
)
def test_a_damaged_snapshot_is_refused(key: str, value: object) -> None:
    data = workflow_to_json(Workflow("w", steps=(STEP,)))
    with pytest.raises(Invalid):
        workflow_from_json(data | {key: value})
    del data[key]
    with pytest.raises(Invalid):
        workflow_from_json(data)


def secs(value: float) -> timedelta:
    return timedelta(seconds=value)


@pytest.mark.parametrize(
    ("policy", "flow", "operation", "timeout"),
    [
        (ExecutionPolicy(), None, SELECT, 30),
        (ExecutionPolicy(statement_timeout=secs(900)), None, SELECT, 600),
        (ExecutionPolicy(statement_timeout=secs(0)), None, DML, 600),
        (ExecutionPolicy(statement_timeout=secs(0), max_statement_timeout=secs(0)), None, DML, 600),
        (ExecutionPolicy(), Workflow("w", statement_timeout=secs(5)), DML, 5),
        (ExecutionPolicy(), Workflow("w", statement_timeout=secs(5000)), DML, 600),
        (ExecutionPolicy(), None, Operation.MIGRATE_STATUS, 30),
        (ExecutionPolicy(), None, Operation.MIGRATE_UP, 0),
        (ExecutionPolicy(migration_statement_timeout=secs(70)), None, Operation.MIGRATE_DOWN, 70),
    ],
)
def test_time_limits(policy: ExecutionPolicy, flow: Workflow | None, operation: Operation, timeout: int) -> None:
    limits = limits_for(policy, operation, 1000, flow)
    assert limits.statement_timeout == secs(timeout)
    assert limits.max_bytes == 1000
    assert limits.max_rows == DEFAULT_MAX_ROWS


def test_row_limits() -> None:
    assert limits_for(ExecutionPolicy(max_rows=2_000_000), SELECT, 1).max_rows == 2_000_000
    assert limits_for(ExecutionPolicy(max_rows=0), SELECT, 1).max_rows == 0


def resume(
    status: Status,
    *,
    after: timedelta = HOUR,
    finished_ok: int = 0,
    flow: Workflow | None = None,
    approved_at: datetime | None = NOON,
    **policy: object,
) -> str:
    refusal = refuse_resume(
        status=status,
        approved_at=approved_at,
        finished_ok=finished_ok,
        now=NOON + after,
        flow=flow,
        policy=ExecutionPolicy(**policy),  # type: ignore[arg-type]
    )
    return "" if refusal is None else f"{type(refusal).__name__}: {refusal.message}"


def test_what_may_not_leave_its_state_is_a_conflict() -> None:
    for status in set(Status) - DISPATCHABLE:
        assert resume(status).startswith("Conflict")


@pytest.mark.parametrize("status", [Status.APPROVED, Status.AUTO_APPROVED, Status.BREAK_GLASS])
def test_an_unused_approval_runs_out(status: Status) -> None:
    assert resume(status, after=APPROVAL_TTL) == ""
    assert resume(status, after=APPROVAL_TTL + secs(1)).startswith("Gone: approval expired")
    short = Workflow("w", approval_ttl=HOUR)
    assert resume(status, after=HOUR, flow=short) == ""
    assert resume(status, after=HOUR + secs(1), flow=short).startswith("Gone: approval expired")
    assert approval_deadline(short, NOON) == NOON + HOUR
    assert resume(status, approved_at=None).startswith("Gone")


def test_executions_are_counted_by_success() -> None:
    assert resume(Status.EXECUTED, finished_ok=1).startswith("Conflict: executed 1 of at most 1")
    assert resume(Status.EXECUTED, finished_ok=1, max_executions=2) == ""
    assert resume(Status.FAILED, finished_ok=0, retry_on_failure=True) == ""
    assert resume(Status.FAILED, finished_ok=1, retry_on_failure=True).startswith("Conflict: executed")
    assert resume(Status.EXECUTION_LOST, finished_ok=1).startswith("Conflict: executed")
    assert resume(Status.APPROVED, finished_ok=1).startswith("Conflict: executed")


def test_the_window_is_anchored_at_the_approval_and_ignores_its_ttl() -> None:
    flow = Workflow("w", approval_ttl=HOUR)
    week = timedelta(days=7)
    kwargs = {"finished_ok": 3, "flow": flow, "max_executions": 9, "execution_window": week}
    assert resume(Status.EXECUTED, after=week, **kwargs) == ""  # type: ignore[arg-type]
    assert resume(Status.EXECUTED, after=week + secs(1), **kwargs).startswith("Gone: execution window")  # type: ignore[arg-type]
    assert resume(Status.APPROVED, after=week + secs(1), **kwargs).startswith("Gone: execution window")  # type: ignore[arg-type]


def test_a_failure_needs_permission_to_retry_and_a_lost_outcome_does_not() -> None:
    assert resume(Status.FAILED).startswith("Conflict")
    assert "retry" in resume(Status.FAILED)
    assert resume(Status.EXECUTION_LOST) == ""


def test_gates_answer_in_order() -> None:
    assert resume(Status.PENDING, after=timedelta(days=9), finished_ok=5).startswith("Conflict: request is pending")
    assert resume(Status.FAILED, after=timedelta(days=9), finished_ok=5).startswith("Conflict: executed 5")
    assert resume(Status.FAILED, after=timedelta(days=9)).startswith("Gone: execution window")
    assert resume(Status.APPROVED, after=timedelta(days=9)).startswith("Gone: approval expired")


@calm
@given(st.sampled_from(sorted(DISPATCHABLE)), st.timedeltas(timedelta(0), timedelta(days=40)), st.integers(0, 4))
def test_time_and_use_only_ever_close_the_gate(status: Status, after: timedelta, finished_ok: int) -> None:
    if resume(status, after=after, finished_ok=finished_ok, max_executions=3) != "":
        assert resume(status, after=after + HOUR, finished_ok=finished_ok, max_executions=3) != ""
        assert resume(status, after=after, finished_ok=finished_ok + 3, max_executions=3) != ""


def test_refusals_are_of_the_right_kind() -> None:
    refusal = refuse_resume(
        status=Status.EXECUTED, approved_at=NOON, finished_ok=1, now=NOON, flow=None, policy=ExecutionPolicy()
    )
    assert isinstance(refusal, Conflict)
    refusal = refuse_resume(
        status=Status.APPROVED,
        approved_at=NOON,
        finished_ok=0,
        now=NOON + timedelta(days=2),
        flow=None,
        policy=ExecutionPolicy(),
    )
    assert isinstance(refusal, Gone)
