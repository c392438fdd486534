"""The description of the API: for programs as OpenAPI, for people as a page. Public: it says what every copy does."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, render_template
from pydantic_core import to_json

from web import guard, openapi
from web.endpoint import Media, endpoint

bp = Blueprint("docs", __name__, url_prefix="/api", template_folder="templates")
bp.before_request(guard.public)

PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@bp.get("/openapi.json")
@endpoint("This API in OpenAPI 3.1", answers={200: Media("application/json")})
def described() -> Response:
    text = openapi.once(current_app, "dbward.openapi.text", lambda: to_json(openapi.of(current_app)) + b"\n")
    return Response(text, mimetype="application/json")


@bp.get("/docs")
@endpoint("This API as a page to read", answers={200: Media("text/html")})
def page() -> Response:
    """Made here, with nothing from any other host and no script."""
    response = Response(openapi.once(current_app, "dbward.openapi.page", _page), mimetype="text/html")
    response.headers["Content-Security-Policy"] = PAGE_POLICY
    return response


def _page() -> str:
    found = openapi.of(current_app)
    return render_template("api.html.jinja", api=found, groups=openapi.grouped(found))
