"""`/api/tokens`: make, list, look into, revoke. A token's text is in the answer to its creation and nowhere else."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.client.answers import tokens as answers
from dbward.client.shapes import NewToken, TokenFilter
from dbward.domain.model import Permission
from dbward.services import api_tokens
from web import guard, json
from web.endpoint import Extent, endpoint

bp = Blueprint("tokens", __name__, url_prefix="/api/tokens")
bp.before_request(guard.require_user)


@bp.post("")
@endpoint(
    "Make a token for oneself, or for an agent",
    needs=(Permission.TOKEN_CREATE, Permission.TOKEN_CREATE_AGENT),
    body=NewToken,
    answers={201: answers.NewToken},
    errors=(404, 409),
)
def create(body: NewToken) -> Response:
    """The token's text is in this answer and never again."""
    return json.reply(api_tokens.create_token(guard.runtime(), guard.principal(), body), 201, secret=True)


@bp.get("")
@endpoint("List tokens", needs=Permission.TOKEN_LIST, query=TokenFilter, answers={200: answers.Tokens})
def list_(query: TokenFilter) -> Response:
    return json.reply(api_tokens.list_tokens(guard.runtime(), guard.principal(), query))


@bp.get("/<token_id>/inspect")
@endpoint(
    "Show what a token gives",
    needs=Permission.TOKEN_LIST,
    extent=Extent.SELF,
    answers={200: answers.Inspected},
    errors=(409,),
)
def inspect(token_id: str) -> Response:
    """One's own without any permission."""
    return json.reply(api_tokens.inspect_token(guard.runtime(), guard.principal(), token_id))


@bp.delete("/<token_id>")
@endpoint(
    "Revoke a token",
    needs=Permission.TOKEN_REVOKE,
    extent=Extent.OWN,
    answers={200: answers.Revoked},
    errors=(404, 409),
)
def revoke(token_id: str) -> Response:
    """Repeatable: the second call answers with the time of the first."""
    return json.reply(api_tokens.revoke_token(guard.runtime(), guard.principal(), token_id))
