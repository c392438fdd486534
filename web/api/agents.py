"""What there is to run on: agents with their queues, and the registered databases."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.client.answers import agents as answers
from dbward.domain.model import Permission
from dbward.services import agents
from web import guard, json
from web.endpoint import Extent, endpoint

bp = Blueprint("agents", __name__, url_prefix="/api")
bp.before_request(guard.require_user)


@bp.get("/agents")
@endpoint("List agents and queues", needs=Permission.METRICS_VIEW, answers={200: answers.Agents})
def list_() -> Response:
    return json.reply(agents.list_agents(guard.runtime(), guard.principal()))


@bp.get("/databases")
@endpoint("List databases", needs=Permission.REQUEST_VIEW, extent=Extent.SCOPED, answers={200: answers.Databases})
def databases() -> Response:
    return json.reply(agents.databases(guard.runtime(), guard.principal()))
