"""`/api/tokens`: make, list, revoke. A token's text is in the answer to its creation and nowhere else."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.client.shapes import NewToken
from dbward.services import identity
from web import guard, json

bp = Blueprint("tokens", __name__, url_prefix="/api/tokens")
bp.before_request(guard.require_user)


@bp.post("")
def create() -> Response:
    made = identity.create_token(guard.runtime(), guard.principal(), json.body(NewToken))
    response = json.reply(made, 201)
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get("")
def list_() -> Response:
    return json.reply(identity.list_tokens(guard.runtime(), guard.principal()))


@bp.delete("/<token_id>")
def revoke(token_id: str) -> Response:
    return json.reply(identity.revoke_token(guard.runtime(), guard.principal(), token_id))
