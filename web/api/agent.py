"""`/api/agent/*` and `/api/public-key`: what agents call. The shapes are `dbward.client.wire`."""

from __future__ import annotations

from typing import Annotated

from flask import Blueprint, Response, request
from pydantic import Field

from dbward.client.shapes import Body
from dbward.client.wire import (
    EXPLAIN_BYTES,
    SCHEMA_BATCH_BYTES,
    AgentReport,
    ClaimRequest,
    CompleteRequest,
    ExplainReport,
    ReleaseRequest,
    RenewRequest,
    SchemaBegin,
    SchemaCommit,
    SchemaFailure,
    SchemaTables,
    StartRequest,
)
from dbward.errors import TooLarge
from dbward.services import agents, completion, executions, explain_answers, schemas
from web import guard, json, live

bp = Blueprint("agent", __name__, url_prefix="/api")
bp.before_request(guard.require_agent)

READ_BYTES = 256 * 1024


class Part(Body):
    """Query of an upload: the claim it belongs to, and where in the result stream its first byte goes."""

    claim_id: Annotated[str, Field(min_length=1, max_length=64)]
    offset: Annotated[int, Field(ge=0)]


@bp.get("/public-key")
def public_key() -> Response:
    return json.reply(agents.public_key(guard.runtime(), guard.principal()))


@bp.post("/agent/report")
def report() -> Response:
    return json.reply(agents.report(guard.runtime(), guard.principal(), json.body(AgentReport)))


@bp.post("/agent/executions/<execution_id>/claim")
def claim(execution_id: str) -> Response:
    guard.refuse_while_draining()
    return json.reply(executions.claim(guard.runtime(), guard.principal(), execution_id, json.body(ClaimRequest)))


@bp.post("/agent/executions/<execution_id>/start")
def start(execution_id: str) -> Response:
    return json.reply(executions.start(guard.runtime(), guard.principal(), execution_id, json.body(StartRequest)))


@bp.post("/agent/executions/<execution_id>/renew")
def renew(execution_id: str) -> Response:
    """Renew the lease, then wait for a reason to stop; the lease is renewed again before a long wait is answered."""
    rt, asked = guard.runtime(), json.body(RenewRequest)
    renewed = executions.renew(rt, guard.principal(), execution_id, asked)
    if asked.wait_secs == 0 or renewed.cancelled or renewed.lost:
        return json.reply(renewed)

    def stop() -> bool | None:
        return executions.to_stop(rt, execution_id, asked.claim_id) or None

    if live.wait_for(rt, f"execution:{execution_id}", check=stop, seconds=asked.wait_secs):
        renewed = executions.renew(rt, guard.recheck(), execution_id, asked)
    return json.reply(renewed)


@bp.post("/agent/executions/<execution_id>/release")
def release(execution_id: str) -> Response:
    executions.release(guard.runtime(), guard.principal(), execution_id, json.body(ReleaseRequest))
    return json.reply({})


@bp.post("/agent/executions/<execution_id>/parts")
def parts(execution_id: str) -> Response:
    where = json.query(Part)
    accepted = executions.store_part(
        guard.runtime(),
        guard.principal(),
        execution_id,
        claim_id=where.claim_id,
        offset=where.offset,
        data=_read_part(executions.PART_MAX_BYTES),
    )
    return json.reply(accepted)


@bp.post("/agent/executions/<execution_id>/complete")
def complete(execution_id: str) -> Response:
    return json.reply(completion.complete(guard.runtime(), guard.principal(), execution_id, json.body(CompleteRequest)))


@bp.post("/agent/explains/<explain_id>/claim")
def claim_explain(explain_id: str) -> Response:
    guard.refuse_while_draining()
    return json.reply(explain_answers.claim(guard.runtime(), guard.principal(), explain_id, json.body(ClaimRequest)))


@bp.post("/agent/explains/<explain_id>/complete")
def complete_explain(explain_id: str) -> Response:
    request.max_content_length = EXPLAIN_BYTES
    explain_answers.complete(guard.runtime(), guard.principal(), explain_id, json.body(ExplainReport))
    return json.reply({})


@bp.post("/agent/schemas")
def begin_schema() -> Response:
    return json.reply(schemas.begin(guard.runtime(), guard.principal(), json.body(SchemaBegin)))


@bp.post("/agent/schemas/<upload_id>/tables")
def schema_tables(upload_id: str) -> Response:
    request.max_content_length = SCHEMA_BATCH_BYTES
    schemas.add_tables(guard.runtime(), guard.principal(), upload_id, json.body(SchemaTables))
    return json.reply({})


@bp.post("/agent/schemas/<upload_id>/commit")
def commit_schema(upload_id: str) -> Response:
    schemas.commit(guard.runtime(), guard.principal(), upload_id, json.body(SchemaCommit))
    return json.reply({})


@bp.post("/agent/schemas/failed")
def schema_failed() -> Response:
    schemas.fail(guard.runtime(), guard.principal(), json.body(SchemaFailure))
    return json.reply({})


def _read_part(limit: int) -> bytes:
    """The body, read piece by piece and given up as soon as it is over `limit` bytes."""
    request.max_content_length = limit
    if (request.content_length or 0) > limit:
        raise TooLarge(f"a part may have at most {limit} bytes")
    data = bytearray()
    while piece := request.stream.read(READ_BYTES):
        data += piece
        if len(data) > limit:
            raise TooLarge(f"a part may have at most {limit} bytes")
    return bytes(data)
