"""`/api/preflight` and `/api/policy-resolution`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dbward.client.answers.base import Answer, Count
from dbward.client.answers.requests import Explained, Factor, Mode
from dbward.domain.model import Operation


class Classified(Answer):
    """`operation` is `unknown` when the statement is refused."""

    statement_type: str
    operation: Operation | Literal["unknown"]
    mutating: bool
    ddl: bool
    requires_ddl_permission: bool
    multi_statement: bool
    statement_count: Count
    reasons: list[str]


class Finding(Answer):
    """`position` counts characters of the statement from 0."""

    code: str
    action: Literal["block", "warn"]
    message: str
    hint: str | None = None
    statement_index: Count
    position: int | None = None


class Review(Answer):
    findings: list[Finding]
    blocked: bool


class Assessment(Answer):
    level: str
    factors: list[Factor]


class Approver(Answer):
    selector: str
    min: Count


class Policy(Answer):
    """What the policy says of it: `approvers` are those of all steps."""

    sql_valid: bool
    caller_can_submit: bool
    would_auto_approve: bool
    requires_approval: bool
    approvers: list[Approver]
    break_glass_allowed: bool
    workflow_id: str | None
    require_reason: bool


class Impact(Answer):
    """How the database would run it; the keys beside `status` are there when they are known."""

    status: Literal["completed", "timeout", "skipped", "not_available", "disabled_by_policy", "error"]
    reason: str | None = None
    explain_plan: list[Explained] = Field(default=[])
    plan_text: str = ""
    estimated_rows: float = 0
    estimated_cost: float = 0
    index_used: bool = False


class Verdict(Answer):
    status: Literal["requestable", "warning", "blocked"]
    risk: str
    classification: Classified
    review: Review
    risk_assessment: Assessment
    policy: Policy
    impact: Impact
    explanation: list[str]
    fix_hints: list[str]
    retryable: bool
    next_actions: list[str]


class AutoApprove(Answer):
    mode: Literal["always", "risk_based"]
    max_risk_level: str | None
    allow_read_only: bool
    allow_safe_ddl: bool
    max_estimated_rows: int


class Step(Answer):
    mode: Mode
    approvers: list[Approver]


class ResolvedWorkflow(Answer):
    id: str
    matched_by: str
    steps: list[Step]
    require_reason: bool
    explain: bool
    allow_self_approve: bool


class ResolvedExecution(Answer):
    """`explicit` false: nothing is configured, and these are the built-in values."""

    statement_timeout_secs: float
    migration_statement_timeout_secs: float | None
    max_rows: int | None
    max_executions: int
    matched_by: str
    explicit: bool


class ResolvedReview(Answer):
    id: str
    database: str
    environment: str
    source: Literal["config", "builtin"]
    rules: dict[str, Literal["block", "warn", "off"]]


class Line(Answer):
    """What would happen to one operation, as far as can be said before the SQL is known."""

    operation: Operation
    workflow_id: str | None
    matched_by: str | None
    auto_approve: AutoApprove | None
    decision_preview: str
    reason_code: str


class Resolution(Answer):
    """With `operation` the workflow in full; without, a line for each. Not `registered`: only the first keys."""

    database: str
    environment: str
    registered: bool
    operation: Operation = Operation.EXECUTE_SELECT
    decision_preview: str = ""
    reason_code: str = ""
    execution_policy: ResolvedExecution | None = None
    sql_review_policy: ResolvedReview | None = None
    workflow: ResolvedWorkflow | None = None
    auto_approve: AutoApprove | None = None
    resolutions: list[Line] = Field(default=[])
