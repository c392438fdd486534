"""The policies as they are configured, and what they would lead to, before anything does."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.client.answers import policies as answers
from dbward.client.answers import preflight as verdicts
from dbward.client.answers.base import Answer
from dbward.client.shapes import NewPreflight, PolicyQuestion
from dbward.domain.model import Permission
from dbward.services import policies, preflight
from dbward.services.policies import Kind
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
    answers={200: verdicts.Verdict},
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


def _serve(kind: Kind, path: str, many: type[Answer], one: type[Answer]) -> None:
    """The list of one kind of policy, and each of them by its id."""
    words = path.replace("-", " ")

    @bp.get(f"/{path}", endpoint=f"list_{kind}")
    @endpoint(f"List {words}", needs=Permission.WORKFLOW_READ, answers={200: many})
    def list_() -> Response:
        return json.reply(policies.list_policies(guard.runtime(), guard.principal(), kind))

    @bp.get(f"/{path}/<policy_id>", endpoint=f"show_{kind}")
    @endpoint(f"Show one of the {words}", needs=Permission.WORKFLOW_READ, answers={200: one}, errors=(404,))
    def show(policy_id: str) -> Response:
        return json.reply(policies.show(guard.runtime(), guard.principal(), kind, policy_id))


_serve(Kind.WORKFLOWS, "workflows", answers.Workflows, answers.Workflow)
_serve(Kind.EXECUTION, "execution-policies", answers.ExecutionPolicies, answers.ExecutionPolicy)
_serve(Kind.RESULT, "result-policies", answers.ResultPolicies, answers.ResultPolicy)
_serve(Kind.NOTIFICATION, "notification-policies", answers.NotificationPolicies, answers.NotificationPolicy)
_serve(Kind.SQL_REVIEW, "sql-review-policies", answers.SqlReviewPolicies, answers.SqlReviewPolicy)
