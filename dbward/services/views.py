"""How requests look to clients, and how times from them are read. Datetimes stay datetimes; `web.json` prints them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from dbward.db.rows import ExecutionRow, RequestRow
from dbward.domain.approvals import Approval, progress_json
from dbward.domain.migration import MIGRATING, read_files, read_repair
from dbward.domain.model import Operation, Status
from dbward.domain.policy import workflow_from_json
from dbward.errors import Invalid

View = dict[str, Any]


def check_time(at: datetime | None, what: str) -> datetime | None:
    """The time in UTC. Raises `Invalid` when it does not name its offset, or lies outside the calendar."""
    if at is None:
        return None
    if at.tzinfo is None:
        raise Invalid(f"{what} must name its offset from UTC", hint="for example 2026-05-01T00:00:00Z")
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise Invalid(f"{what} is out of range") from None


def listed(row: RequestRow, selectors: Sequence[str]) -> View:
    """One item of `GET /api/requests`."""
    item: View = {
        "id": row.id,
        "requester": row.requester,
        "database": row.database,
        "environment": row.environment,
        "operation": row.operation,
        "detail": _migration_line(row) if row.operation in MIGRATING else row.detail,
        "status": row.status,
        "emergency": row.emergency,
        "reason": row.reason,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "expires_at": row.expires_at,
    }
    if row.status is Status.PENDING:
        item["current_step"] = row.current_step
        item["total_steps"] = len((row.workflow or {}).get("steps", []))
        if selectors:
            item["next_approvers"] = list(selectors)
    return item


def shown(
    row: RequestRow,
    *,
    approvals: Sequence[Approval],
    queue_hint: str | None,
    execution: ExecutionRow | None,
    context: View | None,
) -> View:
    """The whole of `GET /api/requests/{id}`."""
    flow = workflow_from_json(row.workflow) if row.workflow is not None else None
    return {
        "id": row.id,
        "requester": row.requester,
        "database": row.database,
        "environment": row.environment,
        "operation": row.operation,
        "status": row.status,
        "detail": row.detail,
        "migrations": _migrations(row, execution),
        "queue_hint": queue_hint,
        "emergency": row.emergency,
        "allow_ddl": row.allow_ddl,
        "no_result_store": row.no_result_store,
        "reason": row.reason,
        "metadata": row.metadata,
        "share_with": row.share_with,
        "idempotency_key": row.idempotency_key,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "expires_at": row.expires_at,
        "approved_at": row.approved_at,
        "resolved_at": row.resolved_at,
        "cancelled_by": row.cancelled_by,
        "cancel_reason": row.cancel_reason,
        "reject_reason": _reject_reason(row, approvals),
        "approval_progress": progress_json(flow, approvals) if flow is not None else None,
        "context": context,
        "decision_trace": row.decision,
        "execution_id": execution.id if execution is not None else None,
        "claimed_by": execution.agent_id if execution is not None else None,
        "error_message": error_text(execution),
    }


def _migration_line(row: RequestRow) -> str:
    """What a migration is about in one line, where its whole text would be too much."""
    try:
        return _read_line(row)
    except Invalid:  # one row that a later version wrote must not take the list down
        return "(written by another version of dbward)"


def _read_line(row: RequestRow) -> str:
    if row.operation is Operation.MIGRATE_REPAIR:
        repair = read_repair([row.detail])
        return f"{repair.action} {repair.version}"
    files = read_files(row.detail)
    return f"{files[0].title}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")


def _migrations(row: RequestRow, execution: ExecutionRow | None) -> list[View] | None:
    """Each file of a migration, in the order in which they run, with what is thought and what became of it."""
    if row.operation not in {Operation.MIGRATE_UP, Operation.MIGRATE_DOWN}:
        return None
    judged = (row.decision or {}).get("migrations", [])
    done = execution.migrations if execution is not None else None
    views = []
    sent_files = read_files(row.detail)
    steps = done if done is not None else [{"outcome": None, "duration_ms": None}] * len(sent_files)
    for sent, seen, step in zip(sent_files, judged, steps, strict=True):
        views.append(
            {
                "version": sent.version,
                "name": sent.name,
                "checksum": sent.checksum,
                "transactional": sent.transactional,
                "reversible": sent.reversible,
                "sql": sent.sql,
                "line": sent.line,
                **seen,
                "outcome": step["outcome"],
                "duration_ms": step["duration_ms"],
            }
        )
    return views


def _reject_reason(row: RequestRow, approvals: Sequence[Approval]) -> str | None:
    if row.status is not Status.REJECTED:
        return None
    return next((a.comment for a in approvals if a.action == "reject"), None)


def error_text(execution: ExecutionRow | None) -> str | None:
    """The database's message with where it points and what it advises, as one text; None when nothing failed."""
    if execution is None or execution.error is None:
        return None
    error = execution.error
    lines = [str(error["message"])]
    if error.get("detail"):
        lines.append(f"DETAIL: {error['detail']}")
    if error.get("hint"):
        lines.append(f"HINT: {error['hint']}")
    if error.get("position"):
        lines.append(f"POSITION: character {error['position']}")
    return "\n".join(lines)


def execution_item(row: ExecutionRow, *, stored: bool) -> View:
    """One item of `GET /api/requests/{id}/executions`."""
    return {
        "id": row.id,
        "status": row.status,
        "agent_id": row.agent_id,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "rows_affected": row.rows_affected,
        "duration_ms": row.duration_ms,
        "error_message": error_text(row),
        "error": row.error,
        "migrations": row.migrations,
        "has_stored_result": stored,
    }
