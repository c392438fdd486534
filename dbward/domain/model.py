"""The words of the domain: statuses, operations, permissions and the values that carry policy. No behaviour, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Literal

MAX_SKEW = timedelta(seconds=60)
"""How far the clocks of server and agent may differ."""
ANY = "*"
"""Matches every database, or every environment."""


class Status(StrEnum):
    """Where a request is. Which moves exist is the table in `domain.states`."""

    PENDING = "pending"
    APPROVED = "approved"
    AUTO_APPROVED = "auto_approved"
    BREAK_GLASS = "break_glass"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    EXECUTED = "executed"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    EXECUTION_LOST = "execution_lost"


class ExecutionStatus(StrEnum):
    """Where one execution is. `running` means its token is spent: from there nothing is redelivered."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    LOST = "lost"
    WITHDRAWN = "withdrawn"


class Operation(StrEnum):
    EXECUTE_SELECT = "execute_select"
    EXECUTE_DML = "execute_dml"
    MIGRATE_UP = "migrate_up"
    MIGRATE_DOWN = "migrate_down"
    MIGRATE_STATUS = "migrate_status"
    MIGRATE_REPAIR = "migrate_repair"


class Dialect(StrEnum):
    POSTGRESQL = "postgresql"
    MYSQL = "mysql"
    SQLITE = "sqlite"


class Permission(StrEnum):
    REQUEST_QUERY = "request.query"
    REQUEST_DML = "request.dml"
    REQUEST_DDL = "request.ddl"
    REQUEST_BREAK_GLASS_QUERY = "request.break_glass_query"
    REQUEST_BREAK_GLASS_DML = "request.break_glass_dml"
    REQUEST_BREAK_GLASS_DDL = "request.break_glass_ddl"
    REQUEST_VIEW = "request.view"
    REQUEST_CANCEL = "request.cancel"
    REQUEST_RESUME = "request.resume"
    REQUEST_PREFLIGHT = "request.preflight"
    REQUEST_PREFLIGHT_EXPLAIN = "request.preflight_explain"
    RESULT_VIEW = "result.view"
    SCHEMA_READ = "schema.read"
    WORKFLOW_READ = "workflow.read"
    WORKFLOW_WRITE = "workflow.write"
    POLICY_WRITE = "policy.write"
    ROLE_WRITE = "role.write"
    USER_READ = "user.read"
    USER_WRITE = "user.write"
    WEBHOOK_WRITE = "webhook.write"
    TOKEN_CREATE = "token.create"
    TOKEN_REVOKE = "token.revoke"
    TOKEN_LIST = "token.list"
    TOKEN_CREATE_AGENT = "token.create_agent"
    TOKEN_REISSUE = "token.reissue"
    AUDIT_READ = "audit.read"
    METRICS_VIEW = "metrics.view"
    AGENT_OPERATE = "agent.operate"
    AGENT_CONTROL = "agent.control"


class Ownership(StrEnum):
    OWN = "own"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Grant:
    """One permission of a role. `permission` None is the wildcard `*`, which implies ownership `any`."""

    permission: Permission | None
    ownership: Ownership = Ownership.OWN


@dataclass(frozen=True, slots=True)
class Role:
    name: str
    grants: tuple[Grant, ...]
    databases: tuple[str, ...] = (ANY,)
    environments: tuple[str, ...] = (ANY,)


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One database in one environment: what an agent holds a URL for."""

    database: str
    environment: str

    def __str__(self) -> str:
        return f"{self.database}/{self.environment}"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking, resolved: roles after the token's ceiling, groups, and for agents the targets it may serve.

    `scopes` holds targets in which either part may be `*`; it is empty for users.
    """

    subject: str
    kind: Literal["user", "agent", "system"]
    roles: tuple[Role, ...] = ()
    groups: tuple[str, ...] = ()
    token_id: str | None = None
    scopes: tuple[Target, ...] = ()
    peer_ip: str | None = None
    client_ip: str | None = None
    client_ip_source: str | None = None

    @property
    def role_names(self) -> tuple[str, ...]:
        return tuple(role.name for role in self.roles)


SYSTEM = Principal(subject="system", kind="system")
"""The actor of what the server does by itself: expiry, lost executions, checkpoints."""


class SelectorKind(StrEnum):
    ROLE = "role"
    GROUP = "group"
    USER = "user"
    REQUESTER = "requester"


@dataclass(frozen=True, slots=True)
class Selector:
    """`role:x`, `group:x`, `user:x` or `requester` (whose value is empty)."""

    kind: SelectorKind
    value: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if self.value else str(self.kind)


@dataclass(frozen=True, slots=True)
class Approver:
    selector: Selector
    min: int = 1


@dataclass(frozen=True, slots=True)
class Step:
    approvers: tuple[Approver, ...]
    mode: Literal["all", "any"] = "all"


class RiskLevel(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"
    UNKNOWN = "unknown"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class AutoApprove:
    """`risk` is the highest level still approved by itself; None in mode `always`."""

    mode: Literal["always", "risk_based"]
    risk: RiskLevel | None = None
    allow_read_only: bool = True
    allow_safe_ddl: bool = True
    max_estimated_rows: int = 1000


@dataclass(frozen=True, slots=True)
class Workflow:
    id: str
    database: str = ANY
    environment: str = ANY
    operations: tuple[Operation, ...] = ()
    auto_approve: AutoApprove | None = None
    steps: tuple[Step, ...] = ()
    require_reason: bool = False
    allow_self_approve: bool = False
    allow_same_approver_across_steps: bool = False
    explain: bool = True
    pending_ttl: timedelta | None = None
    approval_ttl: timedelta | None = None
    statement_timeout: timedelta | None = None


@dataclass(frozen=True, slots=True)
class ExecutionPolicy:
    """How often, how long and how much. `max_rows` None means the default cap of interactive results."""

    id: str = ""
    database: str = ANY
    environment: str = ANY
    max_executions: int = 1
    execution_window: timedelta = timedelta(days=1)
    retry_on_failure: bool = False
    statement_timeout: timedelta = timedelta(seconds=30)
    max_statement_timeout: timedelta = timedelta(seconds=600)
    max_rows: int | None = None
    migration_lease_duration: timedelta | None = None
    migration_statement_timeout: timedelta | None = None


@dataclass(frozen=True, slots=True)
class ResultPolicy:
    id: str = ""
    database: str = ANY
    environment: str = ANY
    retention: timedelta = timedelta(days=30)
    delivery_mode: Literal["both", "stream"] = "both"
    access: tuple[Selector, ...] = ()


class Action(StrEnum):
    """What a finding of a rule of the SQL review leads to."""

    BLOCK = "block"
    WARN = "warn"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class SqlReviewPolicy:
    """The rules of one scope whose actions differ from the built-in ones."""

    id: str = "builtin-default"
    database: str = ANY
    environment: str = ANY
    rules: Mapping[str, Action] = field(default_factory=dict)


DEFAULT_MAX_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one execution may use; signed into its token. Zero timeout means none (migrations only).

    `max_bytes` counts the encoded rows, `max_rows` the rows kept; the first one reached cuts the result and says so.
    """

    statement_timeout: timedelta
    max_rows: int
    max_bytes: int


class Event(StrEnum):
    """Audit event types. Past its first release a member may be added, never renamed."""

    REQUEST_CREATED = "request.created"
    REQUEST_AUTO_APPROVED = "request.auto_approved"
    REQUEST_BREAK_GLASS = "request.break_glass"
    REQUEST_DISPATCHED = "request.dispatched"
    REQUEST_REFUSED = "request.refused"
    REQUEST_BLOCKED_BY_REVIEW = "request.blocked_by_review"
    DDL_BREAK_GLASS_BYPASS = "ddl.break_glass_bypass"
    PREFLIGHT_ATTEMPTED = "preflight.attempted"
    STEP_APPROVED = "step.approved"
    REQUEST_APPROVED = "request.approved"
    REQUEST_REJECTED = "request.rejected"
    REQUEST_CANCELLED = "request.cancelled"
    REQUEST_EXPIRED = "request.expired"
    REQUEST_DISPATCH_TIMEOUT = "request.dispatch_timeout"
    EXECUTION_CLAIMED = "execution.claimed"
    EXECUTION_RELEASED = "execution.released"
    EXECUTION_STARTED = "execution.started"
    EXECUTION_COMPLETED = "execution.completed"
    EXECUTION_FAILED = "execution.failed"
    EXECUTION_LOST = "execution.lost"
    EXECUTION_TOKEN_REFUSED = "execution.token_refused"
    AGENT_REGISTERED = "agent.registered"
    SCHEMA_SNAPSHOT_UPDATED = "schema.snapshot_updated"
    SCHEMA_SNAPSHOT_FAILED = "schema.snapshot_failed"
    RESULT_PURGED = "result.purged"
    RESULT_READ = "result.read"
    AUTH_FAILURE = "auth.failure"
    AUTH_LOGIN_SUCCESS = "auth.login_success"
    TOKEN_CREATED = "token.created"
    TOKEN_REVOKED = "token.revoked"
    TOKEN_REISSUED_INITIAL = "token.reissued_initial"
    USER_CREATED = "user.created"
    USER_UPDATED = "user.updated"
    USER_SUSPENDED = "user.suspended"
    USER_ACTIVATED = "user.activated"
    USER_DELETED = "user.deleted"
    GROUP_MEMBER_ADDED = "group.member_added"
    GROUP_MEMBER_REMOVED = "group.member_removed"
    CONFIG_SYNCED = "config.synced"
    BACKUP_CREATED = "backup.created"
    STATE_RESTORED = "state.restored"
    AUDIT_EXPORTED = "audit.exported"
    AUDIT_SIGNED_CHECKPOINT = "audit.signed_checkpoint"
    AUDIT_PURGE_CHECKPOINT = "audit.purge_checkpoint"


class Category(StrEnum):
    APPROVAL = "approval"
    EXECUTION = "execution"
    AGENT = "agent"
    REQUEST = "request"
    AUTH = "auth"
    TOKEN = "token"
    IDENTITY = "identity"
    POLICY = "policy"
    PREFLIGHT = "preflight"


class AuditOutcome(StrEnum):
    SUCCESS = "success"
    DENIED = "denied"
    FAILURE = "failure"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class StatementError:
    """What the target database, or the agent, says went wrong. `position`: 1-based, in characters of the statement."""

    code: str
    message: str
    sqlstate: str | None = None
    detail: str | None = None
    hint: str | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class PolicySet:
    """All policy that a server file holds, as one immutable value, so a reload swaps it whole."""

    targets: tuple[Target, ...] = ()
    roles: dict[str, Role] = field(default_factory=dict)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Group name to the names of the roles its members get."""
    workflows: tuple[Workflow, ...] = ()
    execution_policies: tuple[ExecutionPolicy, ...] = ()
    result_policies: tuple[ResultPolicy, ...] = ()
    sql_review: tuple[SqlReviewPolicy, ...] = ()
    vouched: Mapping[Target, frozenset[str]] = field(default_factory=dict)
    """Lower-case names of functions of a target that are trusted to only compute."""
    default_role: str | None = None
