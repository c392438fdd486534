"""`/api/migrations`: which migrations the databases have applied."""

from __future__ import annotations

from datetime import timedelta

from flask import Blueprint, Response

from dbward.client.answers import migrations as answers
from dbward.client.shapes import AppliedQuestion
from dbward.domain.model import Permission
from dbward.services import migrations
from web import guard, json, plans
from web.endpoint import Extent, endpoint

bp = Blueprint("migrations", __name__, url_prefix="/api/migrations")
bp.before_request(guard.require_user)


@bp.get("/<database>/<environment>")
@endpoint(
    "Show which migrations a database has applied",
    needs=Permission.SCHEMA_READ,
    extent=Extent.SCOPED,
    query=AppliedQuestion,
    answers={200: answers.Applied},
    errors=(409, 503),
)
def applied(database: str, environment: str, query: AppliedQuestion) -> Response:
    """An agent is asked, which reads the database's own record of them and creates nothing."""
    rt = guard.runtime()
    asked = migrations.ask(rt, guard.principal(), database, environment, query)
    patience = timedelta(milliseconds=query.timeout_ms)
    found = plans.answer_to(rt, asked, patience, answered=migrations.answer, given_up=migrations.give_up)
    return json.reply(found)
