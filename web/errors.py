"""From an exception to the one error body: `{"error", "code", "hint"}`, and `"detail"` where a program needs facts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from flask import Flask, Response, current_app
from gunicorn.http.errors import NoMoreData, ParseException
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from dbward.errors import (
    Conflict,
    DbwardError,
    Gone,
    Invalid,
    Missing,
    RateLimited,
    Refused,
    TooLarge,
    Unauthorized,
    Unavailable,
)

log = logging.getLogger("dbward.web")

RETRY_AFTER_SECS = 2
"""What a 429 or 503 asks for that cannot know better; clients add their own jitter."""

# One row per branch of the error tree: HTTP status, and the word clients know the kind by.
KINDS: dict[type[DbwardError], tuple[int, str]] = {
    Invalid: (400, "validation: "),
    TooLarge: (413, "payload too large: "),
    Unauthorized: (401, ""),
    Refused: (403, ""),
    Missing: (404, "not found: "),
    Conflict: (409, "conflict: "),
    Gone: (410, "gone: "),
    RateLimited: (429, "rate limited: "),
    Unavailable: (503, ""),
}

# What Flask and werkzeug refuse by themselves, before any of our code runs.
HTTP_CODES = {
    400: "request.malformed",
    404: "route.not_found",
    405: "route.method_not_allowed",
    413: "payload.too_large",
    415: "request.media_type",
}

INTERNAL = "the server failed to answer; its log says why"


class Malformed(Invalid):
    """A body that is not JSON at all, or a query that is not what the path takes."""

    code = "request.malformed"


def register(app: Flask) -> None:
    """Answer every exception of `app` in the one shape."""
    app.register_error_handler(DbwardError, _expected)
    app.register_error_handler(ValidationError, _wrong_shape)
    app.register_error_handler(HTTPException, _refused_by_framework)
    for broken in (ParseException, NoMoreData, ConnectionError, BlockingIOError):
        app.register_error_handler(broken, _broken_body)
    app.register_error_handler(Exception, _unexpected)


def envelope(
    status: int,
    error: str,
    code: str,
    hint: str | None = None,
    detail: dict[str, Any] | None = None,
    *,
    retry_after: int | None = None,
) -> Response:
    """The error response itself. A 401 names the scheme, a 429 and a 503 say when to come back."""
    body: dict[str, Any] = {"error": error, "code": code, "hint": hint}
    if detail is not None:
        body["detail"] = detail
    response = Response(current_app.json.dumps(body) + "\n", status, mimetype="application/json")
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if status in {429, 503}:
        response.headers["Retry-After"] = str(retry_after or RETRY_AFTER_SECS)
    return response


def not_allowed(error: str, *, code: str, hint: str, allowed: Sequence[str]) -> Response:
    """405 for a path that exists to say why it does not take this method, but only those of `allowed`."""
    response = envelope(405, error, code, hint)
    response.headers["Allow"] = ", ".join(allowed)
    return response


def _expected(e: DbwardError) -> Response:
    kind = next((KINDS[cls] for cls in type(e).__mro__ if cls in KINDS), None)
    if kind is None:
        return _unexpected(e)
    status, prefix = kind
    if e.code == Refused.code:
        # Clients match on the bare word; why it was refused is the hint.
        reason = e.message if e.hint is None else f"{e.message}; {e.hint}"
        return envelope(status, "forbidden", e.code, reason, e.detail)
    hint = e.message if e.hint is None and status == 400 else e.hint
    retry_after = e.retry_after if isinstance(e, RateLimited) else None
    return envelope(status, prefix + e.message, e.code, hint, e.detail, retry_after=retry_after)


def _wrong_shape(e: ValidationError) -> Response:
    """422: the JSON was read, but it is not what this path takes. Values are not repeated: they may be secret."""
    message = describe(e)
    return envelope(422, f"validation: {message}", Invalid.code, message)


def _refused_by_framework(e: HTTPException) -> Response:
    if e.code is None or e.code >= 500:
        return _unexpected(e)
    prefix = {400: "validation: ", 404: "not found: ", 413: "payload too large: "}.get(e.code, "")
    text = {
        404: "no such path",
        405: "this path does not take that method",
        413: "the body is over the limit of this path",
    }.get(e.code, e.description or e.name)
    response = envelope(e.code, prefix + text, HTTP_CODES.get(e.code, f"http.{e.code}"))
    for name, value in e.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


def _broken_body(e: Exception) -> Response:
    """The upload ended, stalled or went wrong in the middle; most often nobody is left to read this."""
    log.info("broken upload: %s", type(e).__name__)
    return envelope(400, "validation: the body is incomplete or wrongly framed", Malformed.code)


def _unexpected(e: Exception) -> Response:
    log.error("request failed", exc_info=e)
    return envelope(500, INTERNAL, DbwardError.code)


def describe(e: ValidationError) -> str:
    """Every mistake in one line, `field.path: what is wrong`, at most ten of them."""
    errors = e.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{where(one['loc'])}{one['msg'].lower()}" for one in errors[:10]]
    if len(errors) > len(lines):
        lines.append(f"and {len(errors) - len(lines)} more")
    return "; ".join(lines)


def where(location: Sequence[int | str]) -> str:
    """`("databases", 0, "name")` as `databases.0.name: `, and nothing for the whole body."""
    return ".".join(str(part) for part in location) + ": " if location else ""
