"""`/api/users`: people, by whoever holds `user.write`. A token is in the answer that makes it and nowhere else."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.client.answers import users as answers
from dbward.client.shapes import NewUser, UserChange, WithReason
from dbward.domain.model import Permission
from dbward.services import user_access, users
from web import guard, json
from web.endpoint import Extent, endpoint

bp = Blueprint("users", __name__, url_prefix="/api/users")
bp.before_request(guard.require_user)


@bp.get("")
@endpoint("List users", needs=users.READING, answers={200: answers.Users})
def list_() -> Response:
    return json.reply(users.list_users(guard.runtime(), guard.principal()))


@bp.post("")
@endpoint(
    "Make a user and their first token",
    needs=Permission.USER_WRITE,
    body=NewUser,
    answers={201: answers.Created},
    errors=(409,),
)
def create(body: NewUser) -> Response:
    """Any role may be given, `admin` included. The token's text is in this answer and never again."""
    return json.reply(users.create_user(guard.runtime(), guard.principal(), body), 201, secret=True)


@bp.get("/<user_id>")
@endpoint("Show a user", needs=users.READING, extent=Extent.SELF, answers={200: answers.User}, errors=(410,))
def show(user_id: str) -> Response:
    """Oneself without any permission."""
    return json.reply(users.show_user(guard.runtime(), guard.principal(), user_id))


@bp.patch("/<user_id>")
@endpoint(
    "Change a user",
    needs=Permission.USER_WRITE,
    body=UserChange,
    answers={200: answers.Updated},
    errors=(409, 410),
)
def change(user_id: str, body: UserChange) -> Response:
    """All of it or nothing. The last administrator stays one."""
    return json.reply(users.change_user(guard.runtime(), guard.principal(), user_id, body))


@bp.post("/<user_id>/suspend")
@endpoint(
    "Suspend a user",
    needs=Permission.USER_WRITE,
    body=WithReason,
    body_optional=True,
    answers={200: answers.Suspended},
    errors=(409, 410),
)
def suspend(user_id: str, body: WithReason) -> Response:
    """At once and everywhere: tokens revoked, open requests cancelled, waiting calls ended."""
    return json.reply(user_access.suspend_user(guard.runtime(), guard.principal(), user_id, body.reason))


@bp.post("/<user_id>/activate")
@endpoint(
    "Let a suspended user in again",
    needs=Permission.USER_WRITE,
    answers={200: answers.Activated},
    errors=(409, 410),
)
def activate(user_id: str) -> Response:
    """Their tokens stay revoked."""
    return json.reply(user_access.activate_user(guard.runtime(), guard.principal(), user_id))


@bp.delete("/<user_id>")
@endpoint(
    "Delete a user",
    needs=Permission.USER_WRITE,
    body=WithReason,
    body_optional=True,
    answers={200: answers.Deleted},
    errors=(409, 410),
)
def delete(user_id: str, body: WithReason) -> Response:
    """What they did stays on the record, and their id is never given to anybody else."""
    return json.reply(user_access.delete_user(guard.runtime(), guard.principal(), user_id, body.reason))


@bp.post("/<user_id>/reissue-initial-token")
@endpoint(
    "Make a user's first token anew",
    needs=Permission.TOKEN_REISSUE,
    answers={200: answers.Reissued},
    errors=(409, 410),
)
def reissue(user_id: str) -> Response:
    """The old one is revoked. The token's text is in this answer and never again."""
    return json.reply(user_access.reissue_initial_token(guard.runtime(), guard.principal(), user_id), secret=True)
