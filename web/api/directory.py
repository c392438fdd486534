"""`/api/groups` and `/api/roles`: what the configuration file says about them, and who is in which group."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.client.answers import users as answers
from dbward.domain.model import Permission
from dbward.services import directory, users
from web import guard, json
from web.endpoint import endpoint

bp = Blueprint("directory", __name__, url_prefix="/api")
bp.before_request(guard.require_user)


@bp.get("/groups")
@endpoint("List groups", needs=users.READING, answers={200: answers.Groups})
def list_groups() -> Response:
    return json.reply(directory.list_groups(guard.runtime(), guard.principal()))


@bp.get("/groups/<name>")
@endpoint("Show a group's members", needs=users.READING, answers={200: answers.Group})
def show_group(name: str) -> Response:
    return json.reply(directory.show_group(guard.runtime(), guard.principal(), name))


@bp.get("/roles")
@endpoint("List roles and what they let do", needs=Permission.WORKFLOW_READ, answers={200: answers.Roles})
def list_roles() -> Response:
    """The built-in ones first."""
    return json.reply(directory.list_roles(guard.runtime(), guard.principal()))
