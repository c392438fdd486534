"""`/api/audit`: search the record, and prove that it is whole."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.client.shapes import AuditFilter
from dbward.services import audit
from web import guard, json

bp = Blueprint("audit", __name__, url_prefix="/api/audit")
bp.before_request(guard.require_user)


@bp.get("/events")
def events() -> Response:
    return json.reply(audit.search(guard.runtime(), guard.principal(), json.query(AuditFilter)))


@bp.get("/verify")
def verify() -> Response:
    return json.reply(audit.verify(guard.runtime(), guard.principal()))
