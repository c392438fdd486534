"""`/api/requests`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from dbward.client.answers.base import Answer, Count, Time
from dbward.client.answers.schemas import KnownTable
from dbward.domain.migration import StepOutcome
from dbward.domain.model import Operation, RiskLevel, Status

Mode = Literal["all", "any"]


class Created(Answer):
    """`approvers` are the selectors of the current step while the request is pending. `idempotent`: it existed.

    `warnings`: what keeps it from running as things are.
    """

    id: str
    status: Status
    operation: Operation
    approvers: list[str]
    idempotent: bool
    expires_at: Time | None
    execution_id: str | None
    warnings: list[str]


class Item(Answer):
    """The last three keys are there while the request is pending. A migration's `detail` is a line about it here."""

    id: str
    requester: str
    database: str
    environment: str
    operation: Operation
    detail: str
    status: Status
    emergency: bool
    reason: str | None
    created_at: Time
    updated_at: Time
    expires_at: Time | None
    current_step: Count = 0
    total_steps: Count = 0
    next_approvers: list[str] = Field(default=[])


class Page(Answer):
    requests: list[Item]
    total: Count
    limit: Count
    offset: Count


class Needed(Answer):
    """One entry of a step: how many of those the selector names must approve, and how many have."""

    selector: str
    min: Count
    current: Count


class Given(Answer):
    user: str
    action: Literal["approve", "reject"]
    at: Time
    comment: str = ""


class Step(Answer):
    index: Count
    mode: Mode
    satisfied: bool
    approvers_required: list[Needed]
    approvals: list[Given]


class Progress(Answer):
    """`current_step` is the first step that is not satisfied, and `total_steps` when there is none."""

    current_step: Count
    total_steps: Count
    steps: list[Step]


class Finding(Answer):
    """What the review says of a statement; `position` counts characters of it from 0."""

    rule: str
    action: Literal["block", "warn"]
    message: str
    hint: str
    statement_index: int
    position: int | None


class Factor(Answer):
    name: str
    targets: list[str] = Field(default=[])
    rows: int = 0
    count: int = 0


class Findings(Answer):
    findings: list[Finding]
    blocked: bool


class RiskFound(Answer):
    level: str | None
    factors: list[Factor]


class Explained(Answer):
    """One statement: its plan, or why there is none. `text` is for people."""

    sql: str
    text: str
    plan: dict[str, Any] = Field(default={})
    error: str = ""
    hint: str | None = None


class Context(Answer):
    """What approvers are shown beside the request. `tables` are names while no snapshot of the schema is known."""

    status: Literal["collecting", "ready", "partial", "unavailable"]
    explain_enabled: bool
    explain: list[Explained] | None
    explain_reason: str | None
    tables: list[KnownTable | str]
    sql_review: Findings
    risk: RiskFound


class FindingOfFile(Answer):
    """What the review says of a file of a migration; `line` counts in the file, from 1."""

    rule: str
    action: Literal["block", "warn"]
    message: str
    hint: str
    line: Count


class Migration(Answer):
    """One file of a request to migrate: the SQL of its direction, which begins in `line` of the file.

    `reversible`: it can be undone. `outcome` and `duration_ms` are of the last execution, null before its end.
    """

    version: str
    name: str
    checksum: str
    transactional: bool
    reversible: bool
    sql: str
    line: Count
    statements: Count
    risk: RiskLevel
    findings: list[FindingOfFile]
    outcome: StepOutcome | None
    duration_ms: Count | None


class Shown(Answer):
    """Everything about one request. `decision_trace` says, step by step, why it was decided as it was.

    `migrations` are the files of an up or a down, in the order in which they run.
    """

    id: str
    requester: str
    database: str
    environment: str
    operation: Operation
    status: Status
    detail: str
    migrations: list[Migration] | None
    queue_hint: Literal["no_agents", "agents_draining", "agents_saturated"] | None
    emergency: bool
    allow_ddl: bool
    no_result_store: bool
    reason: str | None
    metadata: dict[str, Any]
    share_with: list[str]
    idempotency_key: str | None
    created_at: Time
    updated_at: Time
    expires_at: Time | None
    approved_at: Time | None
    resolved_at: Time | None
    cancelled_by: str | None
    cancel_reason: str | None
    reject_reason: str | None
    approval_progress: Progress | None
    context: Context | None
    decision_trace: dict[str, Any] | None
    execution_id: str | None
    claimed_by: str | None
    error_message: str | None


class Approved(Answer):
    """`step_completed` and `current_step` are the same: the next step, or `total_steps` when none is left."""

    id: str
    status: Status
    approved_by: str
    matched_selector: str
    step_completed: Count
    current_step: Count
    total_steps: Count


class Moved(Answer):
    id: str
    status: Status


class Resumed(Moved):
    execution_id: str | None
