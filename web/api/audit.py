"""`/api/audit`: search the record, take it along, and prove that it is whole."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.client.answers import audit as answers
from dbward.client.shapes import AuditExport, AuditFilter
from dbward.domain.model import Permission
from dbward.services import audit, auditexport
from web import guard, json
from web.endpoint import Media, endpoint

bp = Blueprint("audit", __name__, url_prefix="/api/audit")
bp.before_request(guard.require_user)

MEDIA_TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv"}


@bp.get("/events")
@endpoint("Search the record", needs=Permission.AUDIT_READ, query=AuditFilter, answers={200: answers.Events})
def events(query: AuditFilter) -> Response:
    """Newest first, at most 200 at a time. To go on, pass the `seq` of the last one as `before_seq`."""
    return json.reply(audit.search(guard.runtime(), guard.principal(), query))


@bp.get("/verify")
@endpoint("Verify the record", needs=Permission.AUDIT_READ, answers={200: answers.Verdict}, errors=(503,))
def verify() -> Response:
    """Reads all of it, which takes up to a minute for a million events; one at a time in each server."""
    return json.reply(audit.verify(guard.runtime(), guard.principal()))


@bp.get("/export")
@endpoint(
    "Export the record",
    needs=Permission.AUDIT_READ,
    query=AuditExport,
    answers={200: Media("application/x-ndjson", also=("text/csv",))},
    errors=(503,),
)
def export(query: AuditExport) -> Response:
    """Oldest first, complete up to this moment, as NDJSON or CSV. An answer that breaks off is not complete."""
    chunks = auditexport.export(guard.runtime(), guard.principal(), query)
    response = Response(chunks, mimetype=MEDIA_TYPES[query.format])
    response.headers["Content-Disposition"] = f'attachment; filename="dbward-audit.{query.format}"'
    response.headers["Cache-Control"] = "no-store"
    return response
