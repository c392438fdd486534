"""`/api/preflight` and `/api/policy-resolution`: what would happen, before anything does."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.client.shapes import NewPreflight, PolicyQuestion
from dbward.services import policies, preflight
from web import guard, json, plans

bp = Blueprint("policies", __name__, url_prefix="/api")
bp.before_request(guard.require_user)


@bp.post("/preflight")
def check() -> Response:
    rt, who = guard.runtime(), guard.principal()
    verdict = preflight.judge(rt, who, json.body(NewPreflight))
    return json.reply(preflight.finish(rt, who, verdict, plans.impact_of(rt, who, verdict)))


@bp.get("/policy-resolution")
def resolution() -> Response:
    asked = json.query(PolicyQuestion)
    found = policies.resolve(guard.runtime(), guard.principal(), asked.database, asked.environment, asked.operation)
    return json.reply(found)
