"""`/api/webhooks` and `/api/webhook-deliveries`: whom the server tells, and of what."""

from __future__ import annotations

from typing import NoReturn

from flask import Blueprint, Response

from dbward.client.answers import webhooks as answers
from dbward.client.shapes import DeliveryFilter
from dbward.domain.model import Permission
from dbward.services import webhooks
from web import guard, json
from web.endpoint import endpoint

bp = Blueprint("webhooks", __name__, url_prefix="/api")
bp.before_request(guard.require_user)


@bp.get("/webhooks")
@endpoint("List webhooks", needs=Permission.WORKFLOW_READ, answers={200: answers.Webhooks})
def list_() -> Response:
    return json.reply(webhooks.list_webhooks(guard.runtime(), guard.principal()))


@bp.get("/webhooks/<webhook_id>")
@endpoint("Show a webhook", needs=Permission.WORKFLOW_READ, answers={200: answers.Webhook}, errors=(404,))
def show(webhook_id: str) -> Response:
    return json.reply(webhooks.show(guard.runtime(), guard.principal(), webhook_id))


@bp.post("/webhooks/<webhook_id>/test")
@endpoint("Call a webhook to try it out", needs=Permission.WEBHOOK_WRITE, answers={}, errors=(404, 409))
def test(webhook_id: str) -> NoReturn:
    """Not in this version, which calls no webhooks."""
    webhooks.try_out(guard.runtime(), guard.principal(), webhook_id)


@bp.get("/webhook-deliveries")
@endpoint(
    "List what webhooks are to be told of",
    needs=Permission.METRICS_VIEW,
    query=DeliveryFilter,
    answers={200: answers.Deliveries},
)
def deliveries(query: DeliveryFilter) -> Response:
    return json.reply(webhooks.list_deliveries(guard.runtime(), guard.principal(), query))
