"""`/api/me`: who the token belongs to and what it may do."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.services import identity
from web import guard, json

bp = Blueprint("identity", __name__, url_prefix="/api")
bp.before_request(guard.require_user)


@bp.get("/me")
def me() -> Response:
    return json.reply(identity.me(guard.principal()))
