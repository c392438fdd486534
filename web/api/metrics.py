"""`/metrics` for Prometheus, with a token that holds `metrics.view`."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.domain import rbac
from dbward.domain.model import Permission
from dbward.metrics import CONTENT_TYPE
from web import guard
from web.endpoint import Media, endpoint

bp = Blueprint("metrics", __name__)
bp.before_request(guard.require_user)


@bp.get("/metrics")
@endpoint("Metrics for Prometheus", needs=Permission.METRICS_VIEW, answers={200: Media("text/plain")})
def metrics() -> Response:
    refusal = rbac.refuse(guard.principal(), Permission.METRICS_VIEW, target=None, owner=None)
    if refusal is not None:
        raise refusal
    return Response(guard.runtime().metrics.exposition(), content_type=CONTENT_TYPE)
