"""`/api/agent/*` and `/api/public-key`: what agents call. The shapes are `dbward.client.wire`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from flask import Blueprint, Response, request
from pydantic import BaseModel, Field

from dbward.client.answers import agents as answers
from dbward.client.answers.base import Nothing
from dbward.client.shapes import Body
from dbward.client.wire import (
    EXPLAIN_BYTES,
    SCHEMA_BATCH_BYTES,
    AgentReport,
    AgentWelcome,
    Claimed,
    ClaimRequest,
    Completed,
    CompleteRequest,
    ExplainClaimed,
    ExplainReport,
    PartAccepted,
    ReleaseRequest,
    Renewed,
    RenewRequest,
    SchemaBegin,
    SchemaCommit,
    SchemaFailure,
    SchemaTables,
    SchemaUpload,
    StartRequest,
)
from dbward.domain.model import Permission
from dbward.errors import TooLarge
from dbward.runtime import Runtime
from dbward.services import agents, completion, executions, explain_answers, schemas
from web import guard, json, live
from web.endpoint import Extent, View, endpoint

bp = Blueprint("agent", __name__, url_prefix="/api")
bp.before_request(guard.require_agent)

READ_BYTES = 256 * 1024


class Part(Body):
    """Query of an upload: the claim it belongs to, and where in the result stream its first byte goes."""

    claim_id: Annotated[str, Field(min_length=1, max_length=64)]
    offset: Annotated[int, Field(ge=0)]


def _agents(summary: str, replies: Mapping[int, type[BaseModel]], **rest: Any) -> Callable[[View], View]:
    return endpoint(
        summary,
        needs=Permission.AGENT_OPERATE,
        extent=Extent.AGENT,
        answers=replies,
        errors=(404, 409, 410, 503),
        **rest,
    )


@bp.get("/public-key")
@_agents("The key that execution tokens verify with", {200: answers.PublicKey})
def public_key() -> Response:
    return json.reply(agents.public_key(guard.runtime(), guard.principal()))


@bp.post("/agent/report")
@_agents("Say that the agent lives, and what it serves", {200: AgentWelcome}, body=AgentReport)
def report(body: AgentReport) -> Response:
    return json.reply(agents.report(guard.runtime(), guard.principal(), body))


@bp.post("/agent/executions/<execution_id>/claim")
@_agents("Claim a job", {200: Claimed}, body=ClaimRequest, begins=True)
def claim(execution_id: str, body: ClaimRequest) -> Response:
    return json.reply(executions.claim(guard.runtime(), guard.principal(), execution_id, body))


@bp.post("/agent/executions/<execution_id>/start")
@_agents("Spend the token: the statement is about to run", {200: Renewed}, body=StartRequest)
def start(execution_id: str, body: StartRequest) -> Response:
    return json.reply(executions.start(guard.runtime(), guard.principal(), execution_id, body))


@bp.post("/agent/executions/<execution_id>/renew")
@_agents("Renew the lease, or wait for a reason to stop", {200: Renewed}, body=RenewRequest)
def renew(execution_id: str, body: RenewRequest) -> Response:
    """Renew the lease, then wait for a reason to stop; the lease is renewed again before a long wait is answered."""
    rt = guard.runtime()
    renewed = executions.renew(rt, guard.principal(), execution_id, body)
    if body.wait_secs == 0 or renewed.cancelled or renewed.lost:
        return json.reply(renewed)

    def stop(now: Runtime) -> bool | None:
        return executions.to_stop(now, execution_id, body.claim_id) or None

    if live.wait_for(rt, f"execution:{execution_id}", check=stop, seconds=body.wait_secs):
        who = guard.recheck()
        renewed = executions.renew(guard.runtime(), who, execution_id, body)
    return json.reply(renewed)


@bp.post("/agent/executions/<execution_id>/release")
@_agents("Give a job back", {200: Nothing}, body=ReleaseRequest)
def release(execution_id: str, body: ReleaseRequest) -> Response:
    executions.release(guard.runtime(), guard.principal(), execution_id, body)
    return json.reply({})


@bp.post("/agent/executions/<execution_id>/parts")
@_agents("Upload a piece of the result", {200: PartAccepted}, query=Part, body_media="application/octet-stream")
def parts(execution_id: str, query: Part) -> Response:
    accepted = executions.store_part(
        guard.runtime(),
        guard.principal(),
        execution_id,
        claim_id=query.claim_id,
        offset=query.offset,
        data=_read_part(executions.PART_MAX_BYTES),
    )
    return json.reply(accepted)


@bp.post("/agent/executions/<execution_id>/complete")
@_agents("Say how it ended", {200: Completed}, body=CompleteRequest)
def complete(execution_id: str, body: CompleteRequest) -> Response:
    return json.reply(completion.complete(guard.runtime(), guard.principal(), execution_id, body))


@bp.post("/agent/explains/<explain_id>/claim")
@_agents("Claim a question for a plan", {200: ExplainClaimed}, body=ClaimRequest, begins=True)
def claim_explain(explain_id: str, body: ClaimRequest) -> Response:
    return json.reply(explain_answers.claim(guard.runtime(), guard.principal(), explain_id, body))


@bp.post("/agent/explains/<explain_id>/complete")
@_agents("Answer with the plans", {200: Nothing}, body=ExplainReport, body_limit=EXPLAIN_BYTES)
def complete_explain(explain_id: str, body: ExplainReport) -> Response:
    explain_answers.complete(guard.runtime(), guard.principal(), explain_id, body)
    return json.reply({})


@bp.post("/agent/schemas")
@_agents("Begin to send a schema", {200: SchemaUpload}, body=SchemaBegin)
def begin_schema(body: SchemaBegin) -> Response:
    return json.reply(schemas.begin(guard.runtime(), guard.principal(), body))


@bp.post("/agent/schemas/<upload_id>/tables")
@_agents("Send some of its tables", {200: Nothing}, body=SchemaTables, body_limit=SCHEMA_BATCH_BYTES)
def schema_tables(upload_id: str, body: SchemaTables) -> Response:
    schemas.add_tables(guard.runtime(), guard.principal(), upload_id, body)
    return json.reply({})


@bp.post("/agent/schemas/<upload_id>/commit")
@_agents("Make it the schema that counts", {200: Nothing}, body=SchemaCommit)
def commit_schema(upload_id: str, body: SchemaCommit) -> Response:
    schemas.commit(guard.runtime(), guard.principal(), upload_id, body)
    return json.reply({})


@bp.post("/agent/schemas/failed")
@_agents("Say that a schema could not be read", {200: Nothing}, body=SchemaFailure)
def schema_failed(body: SchemaFailure) -> Response:
    schemas.fail(guard.runtime(), guard.principal(), body)
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
