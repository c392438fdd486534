"""`/api/schemas`: the tables of the target databases, as their agents last saw them."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.client.answers import schemas as answers
from dbward.client.shapes import SchemaFilter
from dbward.domain.model import Permission
from dbward.services import schemas
from web import guard, json
from web.endpoint import Extent, endpoint

bp = Blueprint("schemas", __name__, url_prefix="/api/schemas")
bp.before_request(guard.require_user)


@bp.get("/<database>")
@endpoint(
    "Show the tables of a database",
    needs=Permission.SCHEMA_READ,
    extent=Extent.SCOPED,
    query=SchemaFilter,
    answers={200: answers.Snapshot},
    errors=(404,),
)
def show(database: str, query: SchemaFilter) -> Response:
    """As an agent last saw them. Without an environment: production first, then staging, then development."""
    return json.reply(schemas.show(guard.runtime(), guard.principal(), database, query))
