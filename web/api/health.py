"""Liveness and readiness, open to everybody: they name no version of anything but dbward and no reason in detail."""

from __future__ import annotations

from flask import Blueprint, Response

from dbward import VERSION
from dbward.client.answers import agents as answers
from dbward.services import health
from web import guard, json
from web.endpoint import endpoint

MIN_AGENT_VERSION = "0.1.0"
"""The oldest release whose agent speaks a protocol this server still knows."""

bp = Blueprint("health", __name__)
bp.before_request(guard.public)


@bp.get("/health")
@endpoint("Whether the server runs", answers={200: answers.Alive})
def alive() -> Response:
    """The process answers; says nothing about its database."""
    return json.reply({"status": "ok", "version": VERSION, "min_agent_version": MIN_AGENT_VERSION})


@bp.get("/ready")
@endpoint("Whether it can serve", answers={200: answers.Ready, 503: answers.Ready})
def ready() -> Response:
    """200 when requests can be served: state and results are there, and the server is not stopping."""
    rt = guard.runtime()
    if rt.hub.closing:
        return json.reply({"status": "draining"}, 503)
    fine, checks = health.ready(rt)
    return json.reply(checks, 200 if fine else 503)
