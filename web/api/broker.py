"""`/api/broker/*`: the broker for agents, `celery inspect` and Flower. The shapes are `dbward.broker.wire`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flask import Blueprint, Response
from pydantic import BaseModel

from dbward.broker.wire import Bind, Declare, Depths, Fetch, Hello, OneQueue, Publish, Reject, Release, Settle, Unbind
from dbward.domain.model import Principal
from dbward.runtime import Runtime
from dbward.services import broker
from web import guard, json, live
from web.peer import peer_gone

bp = Blueprint("broker", __name__, url_prefix="/api/broker")
bp.before_request(guard.require_token)

Ask = TypeVar("Ask", bound=BaseModel)


def _verb(name: str, ask: type[Ask], use_case: Callable[[Runtime, Principal, Ask], BaseModel]) -> None:
    def view() -> Response:
        return json.reply(use_case(guard.runtime(), guard.principal(), json.body(ask)))

    bp.add_url_rule(f"/{name}", name, view, methods=["POST"])


_verb("hello", Hello, broker.hello)
_verb("declare", Declare, broker.declare)
_verb("bind", Bind, broker.bind)
_verb("unbind", Unbind, broker.unbind)
_verb("delete", OneQueue, broker.delete)
_verb("publish", Publish, broker.publish)
_verb("ack", Settle, broker.ack)
_verb("extend", Settle, broker.extend)
_verb("reject", Reject, broker.reject)
_verb("release", Release, broker.release)
_verb("depths", Depths, broker.depths)


@bp.post("/fetch")
def fetch() -> Response:
    """The long-poll. Nothing is handed out by a server that is about to stop, nor to a client that is gone."""
    guard.refuse_while_draining()
    ask = json.body(Fetch)
    with live.place():
        return json.reply(broker.fetch(guard.runtime(), guard.principal(), ask, gone=peer_gone))
