"""What is configured in `server.toml` and nowhere else: to change it over the API is refused, with the way to do it."""

from __future__ import annotations

from flask import Blueprint, Response

from web import guard
from web.endpoint import Extent, endpoint
from web.errors import not_allowed

bp = Blueprint("config_only", __name__, url_prefix="/api")
bp.before_request(guard.require_user)

CONFIGURED = {
    "workflows": "policy_id",
    "execution-policies": "policy_id",
    "result-policies": "policy_id",
    "notification-policies": "policy_id",
    "sql-review-policies": "policy_id",
    "roles": "name",
    "webhooks": "webhook_id",
}
"""Each kind, and what its id is called in the path of one entry: the same as where it is read."""


@endpoint("Refused: it is changed in server.toml", answers={}, extent=Extent.CONFIGURED, errors=(405,))
def refuse(**_: str) -> Response:
    """Edit `server.toml` and reload; there is nothing that this could change."""
    return not_allowed(
        "this is configuration and not changed over the API",
        code="config_only",
        hint="edit server.toml, then reload the server",
        allowed=("GET", "HEAD"),
    )


for name, entry in CONFIGURED.items():
    bp.post(f"/{name}", endpoint=f"create_{name}")(refuse)
    bp.put(f"/{name}/<{entry}>", endpoint=f"replace_{name}")(refuse)
    bp.delete(f"/{name}/<{entry}>", endpoint=f"delete_{name}")(refuse)
