"""Results: the live one as it arrives, stored ones, and what was executed. Content is streamed, never held whole."""

from __future__ import annotations

from typing import Annotated, assert_never

from flask import Blueprint, Response
from pydantic import Field

from dbward.client.answers import results as answers
from dbward.client.shapes import OFFSET_MAX, Body, Limit
from dbward.domain.model import Permission
from dbward.runtime import Runtime
from dbward.services import results
from web import guard, json, live
from web.endpoint import Extent, Media, endpoint

bp = Blueprint("results", __name__, url_prefix="/api")
bp.before_request(guard.require_user)

STREAM_WAIT_SECS = 300

ENVELOPE = Media("application/json", answers.Envelope)

Settled = results.Ready | results.Ended


class Content(Body):
    """Query of `GET /api/requests/{id}/result/content`; without an id the latest finished execution is meant."""

    execution_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class Executions(Body):
    limit: Limit = 20


class Stored(Body):
    """Query of `GET /api/results`; `user` is whose request it was."""

    limit: Limit = 50
    offset: Annotated[int, Field(ge=0, le=OFFSET_MAX)] = 0
    user: str | None = None
    database: str | None = None
    environment: str | None = None
    operation: str | None = None


@bp.get("/requests/<request_id>/result/stream")
@endpoint(
    "Wait for the result",
    needs=Permission.RESULT_VIEW,
    extent=Extent.SHARED,
    answers={200: ENVELOPE, 204: None},
    errors=(404, 409, 410, 503),
)
def stream(request_id: str) -> Response:
    """The result as soon as there is one; 204 when there is none after five minutes or the server stops."""
    rt = guard.runtime()
    first = results.stream_state(rt, guard.principal(), request_id)
    if not isinstance(first, results.Waiting):
        return _settled(first)

    def look(now: Runtime) -> Settled | None:
        state = results.stream_state(now, guard.principal(), request_id)
        return None if isinstance(state, results.Waiting) else state

    channel = f"request:{first.request_id}"
    found = live.wait_for(rt, channel, check=look, seconds=STREAM_WAIT_SECS)
    guard.recheck()
    return Response(status=204) if found is None else _settled(found)


@bp.get("/requests/<request_id>/result/content")
@endpoint(
    "Read a stored result",
    needs=Permission.RESULT_VIEW,
    extent=Extent.SHARED,
    query=Content,
    answers={200: ENVELOPE},
    errors=(404, 409, 410),
)
def content(request_id: str, query: Content) -> Response:
    """Streamed; the rows are checked against their digest as they go."""
    return _content(request_id, query.execution_id)


@bp.get("/requests/<request_id>/executions")
@endpoint(
    "List the executions of a request",
    needs=Permission.REQUEST_VIEW,
    extent=Extent.VISIBLE,
    query=Executions,
    answers={200: answers.Executions},
    errors=(404, 409),
)
def executions(request_id: str, query: Executions) -> Response:
    """Newest first."""
    return json.reply(results.list_executions(guard.runtime(), guard.principal(), request_id, query.limit))


@bp.get("/results")
@endpoint(
    "List stored results",
    needs=Permission.RESULT_VIEW,
    extent=Extent.SHARED,
    query=Stored,
    answers={200: answers.StoredPage},
)
def list_(query: Stored) -> Response:
    """Newest first; those the caller may open."""
    return json.reply(results.list_results(guard.runtime(), guard.principal(), **query.model_dump()))


def _settled(state: Settled) -> Response:
    match state:
        case results.Ready():
            # Also what must not be stored: whoever asks here is the one it is delivered to.
            return _content(state.request_id, state.execution_id, live_too=True)
        case results.Ended():
            return json.reply(state.envelope)
        case _:
            assert_never(state)


def _content(request_id: str, execution_id: str | None, *, live_too: bool = False) -> Response:
    chunks = results.open_envelope(guard.runtime(), guard.principal(), request_id, execution_id, live=live_too)
    return Response(chunks, mimetype="application/json")
