"""Shapes of the agent's conversation with the server (`/api/agent/*`), validated on both sides by the same types.

Durations are milliseconds (`_ms`) or seconds (`_secs`), sizes bytes, times RFC 3339 UTC.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dbward.domain.migration import StepOutcome
from dbward.domain.model import Dialect, Operation
from dbward.domain.plans import Plan
from dbward.domain.schema import TableKind

PROTOCOL = 1
"""Raised when an older agent could no longer work. A server accepts its own and lower ones it still knows."""


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServedDatabase(Wire):
    """One target as the agent sees it. `error` explains `down` and never holds a URL or a password."""

    database: str
    environment: str
    dialect: Dialect
    status: Literal["up", "down"]
    error: str | None = None


class ActiveJob(Wire):
    request_id: str
    operation: Operation
    elapsed_secs: int


class AgentReport(Wire):
    """`POST /api/agent/report`: sent at start, when anything but `active_jobs` changes, and once a minute."""

    instance: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    session: str = Field(min_length=8, max_length=64)
    protocol: int
    version: str
    databases: list[ServedDatabase]
    operations: list[Operation]
    max_concurrent: int = Field(ge=1, le=1000)
    in_flight: int = Field(ge=0)
    active_jobs: list[ActiveJob] = []
    draining: bool = False
    started_at: datetime


class AgentWelcome(Wire):
    """Answer to a report: the node name the worker must use, the queues it may consume, the server's clock."""

    node: str
    queues: list[str]
    server_time: datetime
    server_version: str
    protocol: int


class ClaimRequest(Wire):
    """`POST /api/agent/executions/{id}/claim`. `tag`: the broker lease, proof that this session has the message."""

    session: str
    tag: str


class WireLimits(Wire):
    statement_timeout_ms: int = Field(ge=0)
    max_rows: int = Field(ge=0)
    max_bytes: int = Field(ge=0)


class Claimed(Wire):
    """The plan. `token` is the signed execution token (`domain.tokens`); `statements` must hash to what it binds."""

    execution_id: str
    request_id: str
    claim_id: str
    token: str
    operation: Operation
    database: str
    environment: str
    statements: list[str]
    limits: WireLimits
    lease_secs: int
    server_time: datetime


class StartRequest(Wire):
    """`POST /api/agent/executions/{id}/start`: spends the token. 409 means: do not run.

    `nonce` is random per job: the retry of a lost answer repeats it and is accepted; any other one is a replay.
    """

    claim_id: str
    nonce: str = Field(min_length=16, max_length=64)


class RenewRequest(Wire):
    """`POST /api/agent/executions/{id}/renew`: renews the lease and waits up to `wait_secs` for a cancellation."""

    claim_id: str
    wait_secs: int = Field(default=0, ge=0, le=30)


class Renewed(Wire):
    """`cancelled`: stop the statement in the database. `lost`: the lease is not ours any more; stop as well."""

    cancelled: bool
    lost: bool
    lease_secs: int


class ReleaseRequest(Wire):
    """`POST /api/agent/executions/{id}/release`: never started; the message goes back to its queue."""

    claim_id: str
    reason: str = Field(max_length=2000)
    delay_secs: int = Field(default=0, ge=0, le=300)


class PartAccepted(Wire):
    """Answer to `POST /api/agent/executions/{id}/parts?claim_id=&offset=` (body: raw bytes of the result stream).

    `size` is how many bytes the server now holds: the next offset. A repeated part is accepted and changes nothing.
    """

    size: int


class WireError(Wire):
    code: str
    message: str
    sqlstate: str | None = None
    detail: str | None = None
    hint: str | None = None
    position: int | None = None


class WireStep(Wire):
    """What became of one migration of the request, in the order of its files; `duration_ms` None when it did not run.

    A file of several statements that fails outside a transaction is `failed`, and the error says what stayed of it.
    """

    version: str
    name: str | None = None
    outcome: StepOutcome
    duration_ms: int | None = Field(default=None, ge=0)


class CompleteRequest(Wire):
    """`POST /api/agent/executions/{id}/complete`: idempotent; also acknowledges the broker message `tag`.

    `outcome`: `completed`; `failed` (the database or a limit said no, and nothing was committed); `refused` (the token
    did not verify: nothing was opened); `cancelled` (stopped on request, rolled back); `unknown` (it was sent, and
    whether it took effect cannot be known).
    `result_size` and `result_sha256` describe the uploaded stream; both null when no stream was sent.
    `migrations` is null unless the operation is one; when it failed after the first file, those before it stay applied.
    """

    claim_id: str
    tag: str | None = None
    outcome: Literal["completed", "failed", "refused", "cancelled", "unknown"]
    rows_affected: int | None = None
    row_count: int | None = None
    truncated: bool = False
    truncation_reason: str | None = None
    result_size: int | None = None
    result_sha256: str | None = None
    error: WireError | None = None
    migrations: list[WireStep] | None = None
    duration_ms: int = Field(ge=0)


class ExplainClaimed(Wire):
    """Answer to `POST /api/agent/explains/{id}/claim`, which takes a `ClaimRequest`. Nothing in it may be run.

    `kind` `plans` asks how the statements would run, `migrations` which versions the database has applied, without any
    statement. `token` (of the purpose EXPLAIN or MIGRATIONS) binds what is asked. `timeout_ms` is for each statement;
    whatever is not reported at `expires_at` is not waited for any more.
    """

    explain_id: str
    kind: Literal["plans", "migrations"] = "plans"
    claim_id: str
    token: str
    database: str
    environment: str
    statements: list[str]
    timeout_ms: int = Field(ge=1)
    expires_at: datetime
    server_time: datetime


class Explained(Wire):
    """One statement's plan, or why the database gave none."""

    plan: Plan | None = None
    error: WireError | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.plan is None) == (self.error is None):
            raise ValueError("either a plan or an error")
        return self


class WireApplied(Wire):
    """`domain.migration.Applied`: one version that the database has."""

    version: str
    name: str | None = None
    checksum: str | None = None
    applied_at: datetime | None = None
    request_id: str | None = None


class AppliedFound(Wire):
    """Every version a database has applied, in its own order; none where nothing ever was. Or why it is unknown."""

    versions: list[WireApplied] = []
    error: WireError | None = None


EXPLAIN_BYTES = 8 * 1024 * 1024
"""Largest body of a report of plans."""


class ExplainReport(Wire):
    """`POST /api/agent/explains/{id}/complete`: one entry for each statement, in order. Repeatable.

    `applied` answers a question of the kind `migrations`, and nothing else.
    """

    claim_id: str
    statements: list[Explained] = []
    applied: AppliedFound | None = None


class Completed(Wire):
    request_id: str
    status: str


SCHEMA_BATCH_TABLES = 100
SCHEMA_BATCH_BYTES = 4 * 1024 * 1024
"""What one piece of a schema snapshot may hold."""

SchemaText = Annotated[str, Field(max_length=2000)]
SchemaName = Annotated[str, Field(min_length=1, max_length=255)]


class WireColumn(Wire):
    """`data_type` in the words of the database; `default_value` is an expression in its SQL."""

    name: SchemaText
    data_type: SchemaText
    nullable: bool
    default_value: SchemaText | None = None
    is_primary_key: bool = False


class WireConstraint(Wire):
    """`name` is empty where the database gave none. `referenced_*` and `on_delete` belong to foreign keys, all four."""

    name: SchemaText
    constraint_type: Literal["primary_key", "foreign_key", "unique", "check"]
    columns: list[SchemaText] = []
    referenced_table: SchemaName | None = None
    referenced_columns: list[SchemaText] | None = None
    on_delete: Literal["CASCADE", "SET_NULL", "RESTRICT", "NO_ACTION", "SET_DEFAULT"] | None = None
    referenced_schema: SchemaName | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        said = (self.referenced_table, self.referenced_columns, self.on_delete, self.referenced_schema)
        given = [part is not None for part in said]
        if any(given) != all(given) or all(given) != (self.constraint_type == "foreign_key"):
            raise ValueError("a foreign key, and nothing else, says what it refers to")
        return self


class WireIndex(Wire):
    """Where an index is on an expression, the expression's text stands for the column."""

    name: SchemaText
    columns: list[SchemaText]
    is_unique: bool
    index_type: SchemaText


class WireTable(Wire):
    """One table or view. `estimated_rows` null: the database does not know."""

    schema_name: SchemaName
    name: SchemaName
    kind: TableKind
    estimated_rows: int | None = Field(default=None, ge=0, le=2**63 - 1)
    columns: list[WireColumn]
    constraints: list[WireConstraint]
    indexes: list[WireIndex]


class SchemaBegin(Wire):
    """`POST /api/agent/schemas`: a snapshot of one target is on its way."""

    session: str = Field(min_length=8, max_length=64)
    database: str
    environment: str
    dialect: Dialect


class SchemaUpload(Wire):
    upload_id: str


class SchemaTables(Wire):
    """`POST /api/agent/schemas/{upload_id}/tables`: a piece of it; the repetition of a piece changes nothing."""

    tables: list[WireTable] = Field(max_length=SCHEMA_BATCH_TABLES)


class SchemaCommit(Wire):
    """`POST /api/agent/schemas/{upload_id}/commit`: that was all, idempotent. `tables`: how many there were.

    `unread_count` tables could not be read, which makes the snapshot partial; `unread` names some of them.
    """

    tables: int = Field(ge=0)
    unread_count: int = Field(default=0, ge=0)
    unread: list[SchemaText] = Field(default=[], max_length=50)


class SchemaFailure(Wire):
    """`POST /api/agent/schemas/failed`: it could not be collected; `upload_id` is what was begun, and is dropped.

    `error` is one line and holds no URL, password or data.
    """

    session: str = Field(min_length=8, max_length=64)
    database: str
    environment: str
    dialect: Dialect
    error: str = Field(min_length=1, max_length=500)
    upload_id: str | None = None


class ResultColumn(Wire):
    """`key` is the column's name in row objects: the name itself, or `name_2`, `name_3` … for repeated names."""

    name: str
    type: str
    key: str


class ErrorEnvelope(BaseModel):
    """Every error body: `{"error", "code", "hint"}`."""

    error: str
    code: str
    hint: str | None = None
    detail: dict[str, Any] | None = None
