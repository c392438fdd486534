"""What is configured in `server.toml` and nowhere else: to change it over the API is refused, with the way to do it."""

from __future__ import annotations

from flask import Blueprint, Response

from web import guard
from web.endpoint import Extent, endpoint
from web.errors import not_allowed

bp = Blueprint("config_only", __name__, url_prefix="/api")
bp.before_request(guard.require_user)

CONFIGURED = (
    "workflows",
    "execution-policies",
    "result-policies",
    "notification-policies",
    "sql-review-policies",
    "roles",
    "webhooks",
)


@endpoint("Refused: it is changed in server.toml", answers={}, extent=Extent.CONFIGURED, errors=(405,))
def refuse(**_: str) -> Response:
    """Edit `server.toml` and reload; there is nothing that this could change."""
    return not_allowed(
        "this is configuration and not changed over the API",
        code="config_only",
        hint="edit server.toml, then reload the server",
        allowed=("GET", "HEAD"),
    )


for name in CONFIGURED:
    bp.post(f"/{name}", endpoint=f"create_{name}")(refuse)
    bp.put(f"/{name}/<entry>", endpoint=f"replace_{name}")(refuse)
    bp.delete(f"/{name}/<entry>", endpoint=f"delete_{name}")(refuse)
