"""Reading results: whether there is one yet, its envelope as a stream, and the lists of what is stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dbward.client.shapes import OFFSET_MAX, PAGE_MAX
from dbward.db import executions, requests
from dbward.db.engine import Connection
from dbward.db.requests import Criteria
from dbward.db.rows import ExecutionRow, RequestRow, ResultRow
from dbward.domain import policy
from dbward.domain.migration import StepOutcome
from dbward.domain.model import Event, ExecutionStatus, Permission, Principal, Status
from dbward.domain.names import parse_operation
from dbward.domain.states import STREAM_TERMINAL
from dbward.errors import Conflict, Gone, Missing, Refused
from dbward.runtime import Runtime
from dbward.services import access, sight
from dbward.services.journal import record
from dbward.services.views import View, error_text, execution_item

_FINISHED = {ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.LOST}
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Ready:
    request_id: str
    execution_id: str


@dataclass(frozen=True, slots=True)
class Waiting:
    request_id: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The request ended and there will be no result."""

    request_id: str
    envelope: View


def stream_state(rt: Runtime, who: Principal, request_id: str) -> Ready | Waiting | Ended:
    """Whether a waiting client can be answered now. Raises `Missing`, `Refused`."""
    with rt.store.read() as conn:
        row = _readable(rt, who, conn, request_id)
    if row.status in {Status.EXECUTED, Status.FAILED} and row.execution_id is not None:
        return Ready(row.id, row.execution_id)
    if row.status in STREAM_TERMINAL:
        return Ended(row.id, _envelope("", success=False, error=f"request {row.status}"))
    if row.status is Status.EXECUTION_LOST:
        text = "request execution_lost: the agent was lost while the statement ran; whether it took effect is not known"
        return Ended(row.id, _envelope(row.execution_id or "", success=False, error=text))
    return Waiting(row.id)


def open_envelope(
    rt: Runtime, who: Principal, request_id: str, execution_id: str | None, *, live: bool = False
) -> Iterator[bytes]:
    """The result envelope of one finished execution, the latest when None, as JSON text in chunks.

    Everything is checked, and that rows were read is on the record, before the first chunk. `live` also opens what must
    not be stored: for the call that waited. Raises `Missing`, `Refused`, `Conflict` (still running), `Gone` (not stored
    by policy, or its time has passed).
    """
    with rt.store.read() as conn:
        row = _readable(rt, who, conn, request_id)
        execution = _choose(conn, row, execution_id)
        stored = executions.result_of(conn, execution.id)
    head = _envelope(
        execution.id,
        success=execution.status is ExecutionStatus.COMPLETED,
        error=error_text(execution),
        rows_affected=execution.rows_affected,
        truncated=stored.truncated if stored is not None else False,
    )
    head |= {"request_id": row.id, "error": execution.error, "duration_ms": execution.duration_ms}
    if execution.migrations is not None:
        return iter([json.dumps(head | {"result_data": _migrated(execution.migrations)}).encode()])
    failed = execution.status is not ExecutionStatus.COMPLETED
    refusal = None if live else _not_stored(rt, row)
    if failed and (stored is None or refusal is not None or rt.now() >= stored.expires_at):
        return iter([json.dumps(head).encode()])  # why it failed is told as long as the request is there
    if refusal is not None:
        raise refusal
    if stored is None:
        if execution.rows_affected is None:
            raise Gone("the result's retention has passed", code="result.expired")
        return iter([json.dumps(head | {"result_data": {"rows_affected": execution.rows_affected}}).encode()])
    if rt.now() >= stored.expires_at:
        raise Gone("the result's retention has passed", code="result.expired")
    _note_read(rt, who, row, stored)
    return _with_rows(head, stored, execution, rt.results.read(stored.storage_key, sha256=stored.sha256))


def _migrated(steps: list[View]) -> View:
    """What became of each migration, which is no data and is told as long as the request is there."""
    by_outcome = {
        outcome.value: [step["version"] for step in steps if step["outcome"] == outcome]
        for outcome in (StepOutcome.APPLIED, StepOutcome.REVERTED)
    }
    return {"migrations": steps, **by_outcome}


def _note_read(rt: Runtime, who: Principal, row: RequestRow, stored: ResultRow) -> None:
    """Put on the record who was given the rows, before the first of them leaves."""
    said = {"rows": stored.row_count, "bytes": stored.content_length}
    rt.store.write(
        lambda tx: record(
            rt, tx, Event.RESULT_READ, actor=who, request=row, execution_id=stored.execution_id, metadata=said
        )
    )


def _not_stored(rt: Runtime, row: RequestRow) -> Gone | None:
    if row.no_result_store:
        return Gone("this request asked for its result not to be stored", code="result.not_stored")
    if policy.find_result_policy(rt.settings.policy.result_policies, row.target).delivery_mode == "stream":
        return Gone("results of this database are delivered live only", code="result.not_stored")
    return None


def _choose(conn: Connection, request: RequestRow, execution_id: str | None) -> ExecutionRow:
    if execution_id is None:
        latest = executions.latest_finished(conn, request.id, _FINISHED)
        if latest is None:
            raise Missing("no execution of this request has finished", hint="wait with `result/stream`")
        return latest
    found = executions.beginning(conn, request.id, execution_id)
    if len(found) > 1:
        raise Conflict(
            f"more than one execution starts with {execution_id}",
            code="execution.ambiguous",
            hint="give more of the id",
        )
    chosen = found[0] if found else None
    if chosen is None or chosen.status is ExecutionStatus.WITHDRAWN:
        raise Missing(f"execution {execution_id} of this request")
    if chosen.status not in _FINISHED:
        raise Conflict("this execution has not finished")
    return chosen


def _envelope(
    execution_id: str,
    *,
    success: bool,
    error: str | None,
    rows_affected: int | None = None,
    truncated: bool = False,
) -> View:
    return {
        "_dbward_result": True,
        "execution_id": execution_id,
        "success": success,
        "rows_affected": rows_affected,
        "truncated": truncated,
        "error_message": error,
        "result_data": None,
    }


def _with_rows(head: View, stored: ResultRow, execution: ExecutionRow, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The envelope with its rows as objects, made line by line from the stored header and arrays."""
    del head["result_data"]
    lines = _lines(chunks)
    columns: list[dict[str, Any]] = json.loads(next(lines, b"{}")).get("columns", [])
    names = [json.dumps(column["key"]) + ":" for column in columns]
    facts: View = {
        "columns": columns,
        "truncated": stored.truncated,
        "truncation_reason": stored.truncation_reason,
        "row_count": stored.row_count,
    }
    if execution.rows_affected is not None:
        facts["rows_affected"] = execution.rows_affected
    opening = json.dumps(head)[:-1] + ', "result_data": ' + json.dumps(facts)[:-1] + ', "rows": ['
    pending, size = [opening.encode()], len(opening)
    comma = b"\n"
    for line in lines:
        values = json.loads(line)
        pairs = ",".join(name + json.dumps(value) for name, value in zip(names, values, strict=True))
        item = comma + b"{" + pairs.encode() + b"}"
        comma = b",\n"
        pending.append(item)
        size += len(item)
        if size >= _CHUNK:
            yield b"".join(pending)
            pending, size = [], 0
    yield b"".join([*pending, b"]}}"])


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest: list[bytes] = []  # of a line that goes on: joined once, however many chunks it spans
    for chunk in chunks:
        *ends, last = chunk.split(b"\n")
        for end in ends:
            yield b"".join([*rest, end])
            rest = []
        rest.append(last)
    if line := b"".join(rest):
        yield line


def list_executions(rt: Runtime, who: Principal, request_id: str, limit: int) -> View:
    """Every execution of a request, newest first. Raises `Missing`, `Refused`."""
    access.check(who, Permission.REQUEST_VIEW)
    with rt.store.read() as conn:
        row = sight.find(conn, who, request_id)
        rows = executions.of_request(conn, row.id, limit=min(limit, PAGE_MAX))
        stored = executions.stored_among(conn, [e.id for e in rows])
    return {"executions": [execution_item(e, stored=e.id in stored) for e in rows]}


def list_results(
    rt: Runtime,
    who: Principal,
    limit: int,
    *,
    offset: int = 0,
    user: str | None = None,
    database: str | None = None,
    environment: str | None = None,
    operation: str | None = None,
) -> View:
    """One page of the stored results this person may read, newest first; `user` is whose request it was.

    Raises `Refused`, `Invalid` (unknown operation).
    """
    access.check(who, Permission.RESULT_VIEW)
    criteria = Criteria(
        user=user,
        database=database,
        environment=environment,
        operation=parse_operation(operation) if operation is not None else None,
    )
    limit = min(limit, PAGE_MAX)
    with rt.store.read() as conn:
        found, total = executions.results_page(
            conn,
            [sight.read_by(rt, who), sight.kept(rt)],
            criteria,
            rt.now(),
            limit=limit,
            offset=min(offset, OFFSET_MAX),
        )
    return {
        "total": total,
        "limit": limit,
        "offset": offset,
        "results": [
            {
                "request_id": request.id,
                "execution_id": stored.execution_id,
                "database": request.database,
                "environment": request.environment,
                "operation": request.operation,
                "requester": request.requester,
                "stored_at": stored.stored_at,
                "expires_at": stored.expires_at,
                "content_length": stored.content_length,
                "row_count": stored.row_count,
                "truncated": stored.truncated,
            }
            for stored, request in found
        ],
    }


def _readable(rt: Runtime, who: Principal, conn: Connection, asked: str) -> RequestRow:
    """A request whose result this person may read: asked before what there is to read, and whether it is kept.

    Raises `Missing`, `Conflict` (several), and `Refused` for a request that they may look at without its result.
    """
    access.check(who, Permission.RESULT_VIEW)
    may_read = sight.read_by(rt, who)
    row = sight.find(conn, who, asked, may_read)
    if not requests.those_seen(conn, [row.id], may_read):
        raise Refused("this result is not shared with you", hint="ask the requester, or its approvers")
    return row
