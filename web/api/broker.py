"""`/api/broker/*`: the broker for agents, `celery inspect` and Flower. The shapes are `dbward.broker.wire`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flask import Blueprint, Response
from pydantic import BaseModel

from dbward.broker.wire import (
    Bind,
    Declare,
    Declared,
    DepthList,
    Depths,
    Fetch,
    Fetched,
    Hello,
    Nothing,
    OneQueue,
    Publish,
    Published,
    Reject,
    Release,
    Settle,
    Stale,
    Unbind,
    Welcome,
)
from dbward.domain.model import Permission, Principal
from dbward.runtime import Runtime
from dbward.services import broker
from web import guard, json, live
from web.endpoint import Extent, endpoint
from web.peer import peer_gone

bp = Blueprint("broker", __name__, url_prefix="/api/broker")
bp.before_request(guard.require_token)

ERRORS = (404, 409, 503)
NEEDS = (Permission.AGENT_OPERATE, Permission.METRICS_VIEW, Permission.AGENT_CONTROL)

Ask = TypeVar("Ask", bound=BaseModel)
Reply = TypeVar("Reply", bound=BaseModel)


def _verb(
    name: str, summary: str, ask: type[Ask], reply: type[Reply], use_case: Callable[[Runtime, Principal, Ask], Reply]
) -> None:
    @endpoint(summary, needs=NEEDS, extent=Extent.BROKER, body=ask, answers={200: reply}, errors=ERRORS)
    def view(body: Ask) -> Response:
        return json.reply(use_case(guard.runtime(), guard.principal(), body))

    bp.add_url_rule(f"/{name}", name, view, methods=["POST"])


_verb("hello", "Begin, and learn the times", Hello, Welcome, broker.hello)
_verb("declare", "Declare a queue", Declare, Declared, broker.declare)
_verb("bind", "Bind a queue to an exchange", Bind, Nothing, broker.bind)
_verb("unbind", "Undo a binding", Unbind, Nothing, broker.unbind)
_verb("delete", "Delete a queue", OneQueue, Nothing, broker.delete)
_verb("publish", "Publish a message", Publish, Published, broker.publish)
_verb("ack", "Acknowledge messages", Settle, Stale, broker.ack)
_verb("extend", "Renew leases", Settle, Stale, broker.extend)
_verb("reject", "Give a message back, or up", Reject, Stale, broker.reject)
_verb("release", "Give everything back and end the session", Release, Nothing, broker.release)
_verb("depths", "Count the messages of queues", Depths, DepthList, broker.depths)


@bp.post("/fetch")
@endpoint(
    "Wait for messages",
    needs=NEEDS,
    extent=Extent.BROKER,
    body=Fetch,
    answers={200: Fetched},
    errors=ERRORS,
    begins=True,
)
def fetch(body: Fetch) -> Response:
    """The long-poll. Nothing is handed out by a server that is about to stop, nor to a client that is gone."""
    rt = guard.runtime()
    with live.place(min(body.wait_ms / 1000, rt.settings.broker.max_wait.total_seconds())):
        return json.reply(broker.fetch(rt, guard.principal(), body, gone=peer_gone))
