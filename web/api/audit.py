"""`/api/audit`: search the record, and prove that it is whole."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.client.shapes import AuditFilter
from dbward.domain.model import Permission
from dbward.services import audit
from web import guard, json
from web.endpoint import Media, endpoint

bp = Blueprint("audit", __name__, url_prefix="/api/audit")
bp.before_request(guard.require_user)


@bp.get("/events")
@endpoint(
    "Search the record",
    needs=Permission.AUDIT_READ,
    query=AuditFilter,
    answers={200: Media("application/json")},
)
def events(query: AuditFilter) -> Response:
    return json.reply(audit.search(guard.runtime(), guard.principal(), query))


@bp.get("/verify")
@endpoint("Verify the record", needs=Permission.AUDIT_READ, answers={200: Media("application/json")})
def verify() -> Response:
    return json.reply(audit.verify(guard.runtime(), guard.principal()))
