"""`/api/schemas`: the tables of the target databases, as their agents last saw them."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.client.shapes import SchemaFilter
from dbward.services import schemas
from web import guard, json

bp = Blueprint("schemas", __name__, url_prefix="/api/schemas")
bp.before_request(guard.require_user)


@bp.get("/<database>")
def show(database: str) -> Response:
    return json.reply(schemas.show(guard.runtime(), guard.principal(), database, json.query(SchemaFilter)))
