"""Results and executions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from dbward.client.answers.base import Answer, Count, Time
from dbward.client.answers.migrations import MigrationStep
from dbward.client.wire import ResultColumn, WireError
from dbward.domain.model import ExecutionStatus, Operation


class Rows(Answer):
    """`rows` hold a value for each column's key; a result that only counts has no columns."""

    columns: list[ResultColumn] = Field(default=[])
    truncated: bool = False
    truncation_reason: str | None = None
    row_count: Count = 0
    rows_affected: int | None = None
    rows: list[dict[str, Any]] = Field(default=[])


class Migrated(Answer):
    """What became of each migration, in order; `applied` and `reverted` are the versions of which that is so."""

    migrations: list[MigrationStep]
    applied: list[str]
    reverted: list[str]


class Envelope(Answer):
    """One execution's result. On a failure `error` is what the database said, and `result_data` null.

    Of migrations it then says as well what was applied before, which stays.
    """

    dbward_result: Literal[True] = Field(alias="_dbward_result")
    execution_id: str
    success: bool
    rows_affected: int | None
    truncated: bool
    error_message: str | None
    result_data: Rows | Migrated | None
    request_id: str = ""
    error: WireError | None = None
    duration_ms: int | None = None


class Execution(Answer):
    """`migrations` null unless it is an execution of some that an agent has told the end of."""

    id: str
    status: ExecutionStatus
    agent_id: str | None
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    rows_affected: int | None
    duration_ms: int | None
    error_message: str | None
    error: WireError | None
    migrations: list[MigrationStep] | None
    has_stored_result: bool


class Executions(Answer):
    executions: list[Execution]


class Stored(Answer):
    request_id: str
    execution_id: str
    database: str
    environment: str
    operation: Operation
    requester: str
    stored_at: Time
    expires_at: Time
    content_length: Count
    row_count: Count
    truncated: bool


class StoredPage(Answer):
    results: list[Stored]
    total: Count
    limit: Count
    offset: Count
