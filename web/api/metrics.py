"""`/metrics` for Prometheus, with a token that holds `metrics.view`."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward.domain.model import Permission
from dbward.services import monitoring
from web import guard
from web.endpoint import Media, endpoint

bp = Blueprint("metrics", __name__)
bp.before_request(guard.require_user)


@bp.get("/metrics")
@endpoint("Metrics for Prometheus", needs=Permission.METRICS_VIEW, answers={200: Media("text/plain")})
def metrics() -> Response:
    """Counters are this process's own, gauges of shared state are the same on every replica."""
    return Response(monitoring.exposition(guard.runtime()), content_type=monitoring.CONTENT_TYPE)
