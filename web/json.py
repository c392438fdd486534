"""JSON in and out: what a body must be before a service sees it, and how an answer is printed."""

from __future__ import annotations

import math
from typing import Any, TypeVar

from flask import Response, request
from flask.json.provider import JSONProvider
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json
from werkzeug.exceptions import UnsupportedMediaType

from dbward.errors import Invalid
from web.errors import Malformed, describe

M = TypeVar("M", bound=BaseModel)


class ApiJson(JSONProvider):
    """Times as RFC 3339 with `Z`; models, enums and dataclasses as they are."""

    def dumps(self, obj: Any, **_: Any) -> str:
        return to_json(obj).decode()

    def loads(self, s: str | bytes, **_: Any) -> Any:
        return from_json(s, allow_inf_nan=False)


def reply(value: Any, status: int = 200, *, secret: bool = False) -> Response:
    """A JSON answer made of dicts, lists, models and times. What is `secret` is kept by nothing on its way."""
    response = Response(to_json(value) + b"\n", status, mimetype="application/json")
    if secret:
        response.headers["Cache-Control"] = "no-store"
    return response


def body(model: type[M], *, optional: bool = False) -> M:
    """The body as `model`: unknown fields and wrong types are refused (422), and so is what is not JSON (400, 415).

    With `optional` an absent or empty body is the model's defaults, whatever its content type says.
    """
    if not optional:
        _require_json()
    raw = request.get_data(cache=False)
    request.stream.read(1)  # a body without a length is cut at the limit: asking for more is what raises the 413
    if optional:
        if not raw.strip():
            return model()
        _require_json()
    try:
        value = from_json(raw, allow_inf_nan=False)
    except ValueError as e:
        raise Malformed(f"the body is not JSON: {e}") from e
    if not isinstance(value, dict):
        raise Malformed("the body is not a JSON object")
    _refuse_unstorable(value, "")
    return model.model_validate_json(raw, strict=True)


def query(model: type[M]) -> M:
    """The query string as `model`; anything unknown, repeated or unreadable is a 400."""
    values: dict[str, str] = {}
    for name, value in request.args.items(multi=True):
        if name in values:
            raise Malformed(f"{name}: given more than once")
        values[name] = value
    try:
        return model.model_validate_strings(values)
    except ValidationError as e:
        raise Malformed(describe(e)) from e


def _require_json() -> None:
    if not request.is_json:
        raise UnsupportedMediaType("the body must be JSON, with the header Content-Type: application/json")


def _refuse_unstorable(value: Any, path: str) -> None:
    """NUL cannot be stored in PostgreSQL text, and an infinite number cannot be printed as JSON."""
    if isinstance(value, str):
        if "\0" in value:
            raise Invalid(f"{path or 'the body'} holds a NUL character")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise Invalid(f"{path or 'the body'} holds a number that is too large")
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_unstorable(key, path or "a key")
            _refuse_unstorable(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for item in value:
            _refuse_unstorable(item, path)
