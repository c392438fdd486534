"""`/api/migrations`: which migrations the databases have applied."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.client.answers import migrations as answers
from dbward.client.shapes import AppliedQuestion
from dbward.domain.model import Permission
from dbward.errors import Unauthorized, Unavailable
from dbward.services import explains, migrations
from web import guard, json, live
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
    try:
        found = live.wait_for(
            rt,
            f"explain:{asked}",
            check=lambda now: migrations.answer(now, asked),
            seconds=query.timeout_ms / 1000,
        )
    except (Unavailable, Unauthorized):
        explains.end(rt, asked)
        raise
    return json.reply(found if found is not None else migrations.give_up(rt, asked))
