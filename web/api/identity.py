"""`/api/me`: who the token belongs to and what it may do."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.client.answers import tokens as answers
from dbward.services import identity
from web import guard, json
from web.endpoint import endpoint

bp = Blueprint("identity", __name__, url_prefix="/api")
bp.before_request(guard.require_user)


@bp.get("/me")
@endpoint("Who am I", answers={200: answers.Me})
def me() -> Response:
    return json.reply(identity.me(guard.principal()))
