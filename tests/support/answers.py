"""Holds what a route answers against what it declares."""

from __future__ import annotations

from typing import Any

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from dbward.client.wire import ErrorEnvelope
from web import openapi
from web.endpoint import Media, declared_by


def check(app: Flask, answer: TestResponse) -> None:
    """Fail unless the status is documented and the body is what the document says.

    What is not routed, or is a route of a test's own, answers with an error in the usual shape.
    """
    method, path = answer.request.method, answer.request.path
    try:
        endpoint, _ = app.url_map.bind("localhost").match(path, method)
    except HTTPException:
        endpoint = ""
    declared = declared_by(app.view_functions[endpoint]) if endpoint else None
    if declared is None:
        assert answer.status_code >= 400
        ErrorEnvelope.model_validate_json(answer.data)
        return
    documented = _documented(app, endpoint, method)
    assert str(answer.status_code) in documented, f"{method} {path} does not document {answer.status_code}"
    said = declared.answers.get(answer.status_code) if answer.status_code in declared.answers else ErrorEnvelope
    if said is None:
        assert answer.data == b""
        return
    media = said if isinstance(said, Media) else Media("application/json", said)
    assert answer.mimetype in {media.media_type, *media.also}
    if media.model is not None:
        media.model.model_validate_json(answer.data)


def _documented(app: Flask, endpoint: str, method: str) -> Any:
    ids = {openapi.operation_id(endpoint), openapi.operation_id(endpoint, method)}
    for path in openapi.of(app)["paths"].values():
        found = path.get(method.lower())
        if found is not None and found["operationId"] in ids:
            return found["responses"]
    raise AssertionError(f"{method} {endpoint} is not in the document")
