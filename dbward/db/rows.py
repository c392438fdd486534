"""Turns rows of the state database into frozen values, so that nothing above this package sees a SQLAlchemy row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import RowMapping

from dbward.domain.model import Dialect, ExecutionStatus, Operation, Status, Target
from dbward.domain.notifications import DeliveryStatus
from dbward.domain.plans import ExplainKind, ExplainStatus
from dbward.domain.schema import SchemaStatus, TableKind


@dataclass(frozen=True, slots=True)
class RequestRow:
    id: str
    requester: str
    database: str
    environment: str
    operation: Operation
    detail: str
    statements: list[str]
    dialect: str
    status: Status
    emergency: bool
    allow_ddl: bool
    no_result_store: bool
    reason: str | None
    metadata: dict[str, Any]
    share_with: list[str]
    idempotency_key: str | None
    idempotency_fingerprint: str | None
    workflow: dict[str, Any] | None
    decision: dict[str, Any]
    current_step: int
    execution_id: str | None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    approved_at: datetime | None
    dispatched_at: datetime | None
    resolved_at: datetime | None
    cancel_reason: str | None
    cancelled_by: str | None

    @property
    def target(self) -> Target:
        return Target(self.database, self.environment)


@dataclass(frozen=True, slots=True)
class ExecutionRow:
    id: str
    request_id: str
    status: ExecutionStatus
    agent_id: str | None
    session: str | None
    claim_id: str | None
    start_nonce: str | None
    limits: dict[str, Any] | None
    lease_until: datetime | None
    created_at: datetime
    claimed_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    rows_affected: int | None
    duration_ms: int | None
    error: dict[str, Any] | None
    migrations: list[dict[str, Any]] | None
    outcome_digest: str | None


@dataclass(frozen=True, slots=True)
class ResultRow:
    execution_id: str
    request_id: str
    storage_key: str
    content_length: int
    sha256: str
    row_count: int
    truncated: bool
    truncation_reason: str | None
    stored_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class AgentRow:
    id: str
    subject_id: str
    token_id: str
    session: str
    version: str
    databases: list[dict[str, Any]]
    operations: list[str]
    max_concurrent: int
    in_flight: int
    active_jobs: list[dict[str, Any]]
    draining: bool
    started_at: datetime
    last_seen_at: datetime


@dataclass(frozen=True, slots=True)
class TokenRow:
    id: str
    subject_type: str
    subject_id: str
    prefix: str
    hash: str
    name: str | None
    kind: str
    ceiling: list[str] | None
    scopes: list[list[str]] | None
    expires_at: datetime | None
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class UserRow:
    """A person. `source` says who may change what: the configuration, the API, or the identity provider. Deleted ones
    stay as rows, so that an id never comes to mean somebody else.
    """

    id: str
    roles: list[str]
    groups: list[str]
    status: str
    source: str
    created_at: datetime
    updated_at: datetime
    display_name: str | None = None
    email: str | None = None
    slack_user_id: str | None = None
    last_seen_at: datetime | None = None
    suspended_by: str | None = None
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class UploadRow:
    id: str
    database: str
    environment: str
    token_id: str
    session: str
    dialect: Dialect
    begun_at: datetime
    last_at: datetime

    @property
    def target(self) -> Target:
        return Target(self.database, self.environment)


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    database: str
    environment: str
    upload_id: str | None
    status: SchemaStatus
    dialect: Dialect
    content_hash: str | None
    table_count: int
    unread: list[str]
    error: str | None
    collected_at: datetime | None
    tried_at: datetime

    @property
    def target(self) -> Target:
        return Target(self.database, self.environment)


@dataclass(frozen=True, slots=True)
class TableRow:
    """`content`: `columns`, `constraints` and `indexes` as the API shows them; `digest` is of it and the kind."""

    schema_name: str
    name: str
    kind: TableKind
    estimated_rows: int | None
    column_count: int
    constraint_count: int
    index_count: int
    content: dict[str, Any]
    digest: str


@dataclass(frozen=True, slots=True)
class ExplainRow:
    """`statements`: `{sql, refused, aliases}`; `outcome`, one for each: `{sql, plan}` or `{sql, error, hint}`.

    Of the kind `migrations` there is no statement, and the outcome is one entry, an `AppliedFound`.
    """

    id: str
    kind: ExplainKind
    request_id: str | None
    requested_by: str
    database: str
    environment: str
    dialect: Dialect
    statements: list[dict[str, Any]]
    timeout_ms: int
    status: ExplainStatus
    agent_id: str | None
    claim_id: str | None
    created_at: datetime
    expires_at: datetime
    finished_at: datetime | None
    outcome: list[dict[str, Any]] | None
    reason: str | None

    @property
    def target(self) -> Target:
        return Target(self.database, self.environment)


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """`payload`: what happened, as facts; how the webhook is told of it follows from the webhook's format."""

    id: str
    webhook_id: str
    event_type: str
    request_id: str | None
    payload: dict[str, Any]
    status: DeliveryStatus
    attempts: int
    max_attempts: int
    last_error: str | None
    created_at: datetime
    next_retry_at: datetime | None
    finished_at: datetime | None


Row = TypeVar(
    "Row",
    RequestRow,
    ExecutionRow,
    ResultRow,
    AgentRow,
    TokenRow,
    UserRow,
    UploadRow,
    SnapshotRow,
    TableRow,
    ExplainRow,
    DeliveryRow,
)

_ENUMS: dict[type, dict[str, type[StrEnum]]] = {
    RequestRow: {"status": Status, "operation": Operation},
    ExecutionRow: {"status": ExecutionStatus},
    UploadRow: {"dialect": Dialect},
    SnapshotRow: {"status": SchemaStatus, "dialect": Dialect},
    TableRow: {"kind": TableKind},
    ExplainRow: {"kind": ExplainKind, "dialect": Dialect, "status": ExplainStatus},
    DeliveryRow: {"status": DeliveryStatus},
}


def read(kind: type[Row], row: Mapping[str, Any] | RowMapping) -> Row:
    """One row as its value; texts of enumerated columns become their enum."""
    enums = _ENUMS.get(kind, {})
    values = {f.name: row[f.name] for f in fields(kind)}
    for name, enum in enums.items():
        values[name] = enum(values[name])
    return kind(**values)
