"""`/api/workflows` and the other policies, and `/api/policy-resolution`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dbward.client.answers.base import Answer, Count
from dbward.client.answers.preflight import Approver
from dbward.client.answers.requests import Mode
from dbward.domain.model import Operation

Secs = Count


class Scoped(Answer):
    """`id` follows from the scope, either part of which may be `*`."""

    id: str
    database: str
    environment: str


class Policy(Scoped):
    """The times are always null: configuration has none."""

    created_at: None
    updated_at: None


class AutoApprove(Answer):
    mode: Literal["always", "risk_based"]
    max_risk_level: str | None
    allow_read_only: bool
    allow_safe_ddl: bool
    max_estimated_rows: int


class Step(Answer):
    mode: Mode
    approvers: list[Approver]


class Workflow(Policy):
    """No `operations`: all that no other workflow of this scope names."""

    operations: list[Operation]
    auto_approve: AutoApprove | None
    steps: list[Step]
    require_reason: bool
    allow_self_approve: bool
    allow_same_approver_across_steps: bool
    explain: bool
    pending_ttl_secs: Secs | None
    approval_ttl_secs: Secs | None
    statement_timeout_secs: Secs | None


class Workflows(Answer):
    workflows: list[Workflow]


class ExecutionPolicy(Policy):
    max_executions: Count
    execution_window_secs: Secs
    retry_on_failure: bool
    statement_timeout_secs: Secs
    max_statement_timeout_secs: Secs
    max_rows: Count | None
    migration_lease_duration_secs: Secs | None
    migration_statement_timeout_secs: Secs | None


class ExecutionPolicies(Answer):
    execution_policies: list[ExecutionPolicy]


class ResultPolicy(Policy):
    """`access`: selectors that may read the results, besides those a request shares them with."""

    retention_days: Count
    delivery_mode: Literal["both", "stream"]
    access: list[str]


class ResultPolicies(Answer):
    result_policies: list[ResultPolicy]


class NotificationPolicy(Scoped):
    """No `events`: each webhook's own filter decides."""

    webhooks: list[str]
    events: list[str]


class NotificationPolicies(Answer):
    notification_policies: list[NotificationPolicy]


class SqlReviewPolicy(Scoped):
    """`rules` are all rules there are, with what a finding of each leads to."""

    rules: dict[str, Literal["block", "warn", "off"]]
    source: Literal["config", "builtin"]


class SqlReviewPolicies(Answer):
    sql_review_policies: list[SqlReviewPolicy]


class ResolvedStep(Answer):
    """`min`: how many approvals complete the step at least; `required` says how many each of the approvers gives."""

    mode: Mode
    approvers: list[str]
    min: Count
    required: list[Approver]


class ResolvedWorkflow(Answer):
    id: str
    matched_by: str
    steps: list[ResolvedStep]
    require_reason: bool
    explain: bool
    allow_self_approve: bool


class ResolvedExecution(Answer):
    """`explicit` false: nothing is configured, and these are the built-in values."""

    statement_timeout_secs: Secs
    migration_statement_timeout_secs: Secs | None
    max_rows: Count | None
    max_executions: Count
    matched_by: str
    explicit: bool


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
    sql_review_policy: SqlReviewPolicy | None = None
    workflow: ResolvedWorkflow | None = None
    auto_approve: AutoApprove | None = None
    resolutions: list[Line] = Field(default=[])
