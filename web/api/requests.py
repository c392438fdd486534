"""`/api/requests`: submit, look, decide, resume. Parsing and waiting only; every decision is a service's."""

from __future__ import annotations

from typing import Annotated

from flask import Blueprint, Response
from pydantic import Field

from dbward.client.shapes import Approve, Body, NewRequest, Reject, RequestFilter, WithReason
from dbward.domain.states import LONG_POLL_TERMINAL
from dbward.services import dispatch, requests, review
from web import guard, json, live

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
def create() -> Response:
    guard.refuse_while_draining()
    made, created = requests.create(guard.runtime(), guard.principal(), json.body(NewRequest))
    return json.reply(made, 201 if created else 200)


@bp.get("")
def list_() -> Response:
    return json.reply(requests.list_requests(guard.runtime(), guard.principal(), json.query(RequestFilter)))


@bp.get("/<request_id>")
def show(request_id: str) -> Response:
    """The request; with `wait`, held until its status changes. What is shown last is authorised again."""
    rt, asked = guard.runtime(), json.query(Wait)
    seconds = min(asked.wait, WAIT_MAX_SECS)
    first = requests.show(rt, guard.principal(), request_id)
    if seconds == 0 or first["status"] in LONG_POLL_TERMINAL or asked.seen not in (None, first["status"]):
        return json.reply(first)

    def changed() -> bool | None:
        again = requests.show(rt, guard.principal(), first["id"])
        return True if again["status"] != first["status"] else None

    live.wait_for(rt, f"request:{first['id']}", check=changed, seconds=seconds)
    return json.reply(requests.show(rt, guard.recheck(), first["id"]))


@bp.post("/<request_id>/approve")
def approve(request_id: str) -> Response:
    said = json.body(Approve)
    return json.reply(review.approve(guard.runtime(), guard.principal(), request_id, said.comment, said.selector))


@bp.post("/<request_id>/reject")
def reject(request_id: str) -> Response:
    said = json.body(Reject)
    return json.reply(review.reject(guard.runtime(), guard.principal(), request_id, said.comment))


@bp.post("/<request_id>/cancel")
def cancel(request_id: str) -> Response:
    said = json.body(WithReason, optional=True)
    return json.reply(requests.cancel(guard.runtime(), guard.principal(), request_id, said.reason))


@bp.post("/<request_id>/resume")
def resume(request_id: str) -> Response:
    said = json.body(WithReason, optional=True)
    return json.reply(dispatch.resume(guard.runtime(), guard.principal(), request_id, said.reason))
