"""What there is to run on: agents with their queues, and the registered databases."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.services import agents
from web import guard, json

bp = Blueprint("agents", __name__, url_prefix="/api")
bp.before_request(guard.require_user)


@bp.get("/agents")
def list_() -> Response:
    return json.reply(agents.list_agents(guard.runtime(), guard.principal()))


@bp.get("/databases")
def databases() -> Response:
    return json.reply(agents.databases(guard.runtime(), guard.principal()))
