"""The API's description is true of the routes, valid, and readable without any other host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel

from tests.conftest import State
from web import openapi
from web.endpoint import Media, declared_by
from web.examples import example


@pytest.fixture
def state(tmp_path: Path) -> State:
    """One kind is enough here: nothing depends on the store."""
    return State("sqlite", f"sqlite:///{tmp_path / 'state.db'}")


def declarations(app):
    return [(rule, declared_by(app.view_functions[rule.endpoint])) for rule in app.url_map.iter_rules()]


def models(app) -> set[type[BaseModel]]:
    found = set()
    for _, declared in declarations(app):
        answers = [a.model if isinstance(a, Media) else a for a in declared.answers.values()]
        found |= {declared.body, declared.query, *answers} - {None}
    return found


def test_every_route_declares_itself(app):
    assert [rule.rule for rule, declared in declarations(app) if declared is None] == []


def test_every_route_is_described(app, nobody):
    paths = nobody.get("/api/openapi.json").json["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    routed = {
        (method, rule.rule.replace("<", "{").replace(">", "}"))
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert described == routed


def test_the_document_is_valid_openapi(nobody):
    answer = nobody.get("/api/openapi.json")
    assert answer.status_code == 200
    assert answer.json["openapi"].startswith("3.1")
    assert [str(error) for error in OpenAPIV31SpecValidator(answer.json).iter_errors()] == []


def test_operation_ids_are_unique(app):
    ids = [operation["operationId"] for path in openapi.of(app)["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


def test_every_example_is_what_its_type_takes(app):
    for model in models(app):
        model.model_validate_json(json.dumps(example(model)))


def test_every_body_and_answer_has_an_example(app):
    for path, methods in openapi.of(app)["paths"].items():
        for operation in methods.values():
            carriers = [operation.get("requestBody", {}), *operation["responses"].values()]
            for content in (content for carrier in carriers for content in carrier.get("content", {}).values()):
                reference = content["schema"].get("$ref", "")
                assert "example" in content or not reference or reference.endswith("/ErrorEnvelope"), path


def test_the_page_shows_every_route_and_needs_no_other_host(app, nobody):
    answer = nobody.get("/api/docs")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    page = answer.get_data(as_text=True)
    for path, methods in openapi.of(app)["paths"].items():
        assert f"<code>{path}</code>" in page
        assert all(operation["summary"] in page.replace("&#39;", "'") for operation in methods.values())
    assert "<script" not in page
    assert "src=" not in page
    assert 'href="http' not in page
