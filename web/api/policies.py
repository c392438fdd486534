"""`/api/preflight` and `/api/policy-resolution`: what would happen, before anything does."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.client.answers import preflight as answers
from dbward.client.shapes import NewPreflight, PolicyQuestion
from dbward.domain.model import Permission
from dbward.services import policies, preflight
from web import guard, json, plans
from web.endpoint import Extent, endpoint

bp = Blueprint("policies", __name__, url_prefix="/api")
bp.before_request(guard.require_user)


@bp.post("/preflight")
@endpoint(
    "Ask what would happen to SQL",
    needs=Permission.REQUEST_PREFLIGHT,
    extent=Extent.SCOPED,
    body=NewPreflight,
    answers={200: answers.Verdict},
    errors=(503,),
)
def check(body: NewPreflight) -> Response:
    """Nothing runs but, with `include_explain`, the database's EXPLAIN; the record keeps that it was asked."""
    rt, who = guard.runtime(), guard.principal()
    verdict = preflight.judge(rt, who, body)
    return json.reply(preflight.finish(rt, who, verdict, plans.impact_of(rt, who, verdict)))


@bp.get("/policy-resolution")
@endpoint(
    "Say which policies apply",
    needs=Permission.REQUEST_VIEW,
    extent=Extent.SCOPED,
    query=PolicyQuestion,
    answers={200: answers.Resolution},
)
def resolution(query: PolicyQuestion) -> Response:
    """Of one operation in full, or of all of them in a line each."""
    found = policies.resolve(guard.runtime(), guard.principal(), query.database, query.environment, query.operation)
    return json.reply(found)
