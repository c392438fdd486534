"""`/api/requests`: submit, look, decide, resume. Parsing and waiting only; every decision is a service's."""

from __future__ import annotations

from typing import Annotated

from flask import Blueprint, Response
from pydantic import Field

from dbward.client.answers import requests as answers
from dbward.client.shapes import Approve, Body, NewRequest, Reject, RequestFilter, WithReason
from dbward.domain.model import Permission
from dbward.domain.states import LONG_POLL_TERMINAL
from dbward.runtime import Runtime
from dbward.services import dispatch, requests, review
from web import guard, json, live
from web.endpoint import Extent, endpoint

bp = Blueprint("requests", __name__, url_prefix="/api/requests")
bp.before_request(guard.require_user)

WAIT_MAX_SECS = 120


class Wait(Body):
    """Query of `GET /api/requests/{id}`; more than the cap is lowered to it.

    `seen` is the status the caller knows: when it is another one already, there is nothing to wait for.
    """

    wait: Annotated[int, Field(ge=0)] = 0
    seen: str | None = None


@bp.post("")
@endpoint(
    "Submit SQL",
    needs=requests.SUBMITTING,
    extent=Extent.SCOPED,
    body=NewRequest,
    answers={201: answers.Created, 200: answers.Created},
    errors=(409,),
    begins=True,
)
def create(body: NewRequest) -> Response:
    """201 for a new request, 200 for the one that the same idempotency key made before."""
    made, created = requests.create(guard.runtime(), guard.principal(), body)
    return json.reply(made, 201 if created else 200)


@bp.get("")
@endpoint(
    "List requests",
    needs=Permission.REQUEST_VIEW,
    extent=Extent.VISIBLE,
    query=RequestFilter,
    answers={200: answers.Page},
)
def list_(query: RequestFilter) -> Response:
    """Newest first; those the caller may see, and `total` counts only them."""
    return json.reply(requests.list_requests(guard.runtime(), guard.principal(), query))


@bp.get("/<request_id>")
@endpoint(
    "Show a request, or wait for it to change",
    needs=Permission.REQUEST_VIEW,
    extent=Extent.VISIBLE,
    query=Wait,
    answers={200: answers.Shown},
    errors=(404, 409, 503),
)
def show(request_id: str, query: Wait) -> Response:
    """The request; with `wait`, held until its status changes. What is shown last is authorised again."""
    rt = guard.runtime()
    seconds = min(query.wait, WAIT_MAX_SECS)
    known, was = requests.status(rt, guard.principal(), request_id)
    if seconds == 0 or was in LONG_POLL_TERMINAL or query.seen not in (None, was):
        return json.reply(requests.show(rt, guard.principal(), known))

    def changed(now: Runtime) -> bool | None:
        return True if requests.status(now, guard.principal(), known)[1] != was else None

    live.wait_for(rt, f"request:{known}", check=changed, seconds=seconds)
    who = guard.recheck()
    return json.reply(requests.show(guard.runtime(), who, known))


@bp.post("/<request_id>/approve")
@endpoint(
    "Approve the current step",
    extent=Extent.APPROVER,
    body=Approve,
    answers={200: answers.Approved},
    errors=(404, 409, 410),
)
def approve(request_id: str, body: Approve) -> Response:
    """Nothing runs by itself after the last approval: the requester resumes it."""
    return json.reply(review.approve(guard.runtime(), guard.principal(), request_id, body.comment, body.selector))


@bp.post("/<request_id>/reject")
@endpoint(
    "Reject a request",
    extent=Extent.APPROVER,
    body=Reject,
    answers={200: answers.Moved},
    errors=(404, 409, 410),
)
def reject(request_id: str, body: Reject) -> Response:
    """One rejection ends it."""
    return json.reply(review.reject(guard.runtime(), guard.principal(), request_id, body.comment))


@bp.post("/<request_id>/cancel")
@endpoint(
    "Cancel a request",
    needs=Permission.REQUEST_CANCEL,
    extent=Extent.OWN,
    body=WithReason,
    body_optional=True,
    answers={200: answers.Moved},
    errors=(404, 409),
)
def cancel(request_id: str, body: WithReason) -> Response:
    """Somebody else's needs a reason. A running statement is stopped by its agent."""
    return json.reply(requests.cancel(guard.runtime(), guard.principal(), request_id, body.reason))


@bp.post("/<request_id>/resume")
@endpoint(
    "Run an approved request",
    needs=Permission.REQUEST_RESUME,
    extent=Extent.OWN,
    body=WithReason,
    body_optional=True,
    answers={200: answers.Resumed},
    errors=(404, 409, 410),
)
def resume(request_id: str, body: WithReason) -> Response:
    """Somebody else's needs a reason. As often as the execution policy allows."""
    return json.reply(dispatch.resume(guard.runtime(), guard.principal(), request_id, body.reason))
