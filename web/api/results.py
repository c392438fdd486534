"""Results: the live one as it arrives, stored ones, and what was executed. Content is streamed, never held whole."""

from __future__ import annotations

from typing import Annotated, assert_never

from flask import Blueprint, Response
from pydantic import Field

from dbward.client.shapes import Body, Limit
from dbward.services import results
from web import guard, json, live

bp = Blueprint("results", __name__, url_prefix="/api")
bp.before_request(guard.require_user)

STREAM_WAIT_SECS = 300

Settled = results.Ready | results.Ended


class Content(Body):
    """Query of `GET /api/requests/{id}/result/content`; without an id the latest finished execution is meant."""

    execution_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class Executions(Body):
    limit: Limit = 20


class Stored(Body):
    limit: Limit = 50


@bp.get("/requests/<request_id>/result/stream")
def stream(request_id: str) -> Response:
    """The result as soon as there is one; 204 when there is none after five minutes or the server stops."""
    rt = guard.runtime()
    first = results.stream_state(rt, guard.principal(), request_id)
    if not isinstance(first, results.Waiting):
        return _settled(first)

    def look() -> Settled | None:
        now = results.stream_state(rt, guard.principal(), request_id)
        return None if isinstance(now, results.Waiting) else now

    channel = f"request:{first.request_id}"
    found = live.wait_for(rt, channel, check=look, seconds=STREAM_WAIT_SECS)
    guard.recheck()
    return Response(status=204) if found is None else _settled(found)


@bp.get("/requests/<request_id>/result/content")
def content(request_id: str) -> Response:
    return _content(request_id, json.query(Content).execution_id)


@bp.get("/requests/<request_id>/executions")
def executions(request_id: str) -> Response:
    limit = json.query(Executions).limit
    return json.reply(results.list_executions(guard.runtime(), guard.principal(), request_id, limit))


@bp.get("/results")
def list_() -> Response:
    return json.reply(results.list_results(guard.runtime(), guard.principal(), json.query(Stored).limit))


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
