"""`/api/preflight`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dbward.client.answers.base import Answer, Count
from dbward.client.answers.requests import Explained, Factor
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
