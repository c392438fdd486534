"""The OpenAPI 3.1 document of the whole API, made from what the routes declare."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import cleandoc
from typing import Any, TypeVar

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from werkzeug.routing import Rule

from dbward import VERSION
from dbward.client.wire import ErrorEnvelope
from web import guard
from web.endpoint import Answer, Endpoint, Media, declared_by
from web.examples import example

Json = dict[str, Any]
T = TypeVar("T")
Names = Mapping[Any, str]
"""What each model is called in the document."""

_REF = "#/components/schemas/{model}"
_QUALIFIED = re.compile(r"(?:\w+?__)+?(?P<module>\w+?)__(?P<name>[A-Z]\w*)")
_PATH_PARAMETER = re.compile(r"<(?:[^:<>]+:)?(?P<name>\w+)>")

_STATUS = {
    200: "Done",
    201: "Made",
    204: "Nothing to tell",
    400: "The query or the body cannot be read, or something in it is refused",
    401: "No valid token",
    403: "The token does not allow this",
    404: "There is no such thing, as far as the caller may see",
    405: "The configuration decides this, not the API",
    409: "It is not in the state for this, or the text names several",
    410: "It was there, and is not any more",
    413: "The body is too large",
    415: "The body is not of the right media type",
    422: "The JSON is not what this path takes",
    429: "Too many calls; `Retry-After` says when to come back",
    501: "Not available in this version",
    503: "Not now; `Retry-After` says when to come back",
}
_REFUSED = (400, 401, 403, 429)
_ALWAYS = {"public": (), "user": (*_REFUSED, 503), "any": (*_REFUSED, 503), "agent": _REFUSED}
"""Who signs in through an identity provider may hear that it cannot be reached."""
_WITH_BODY = (413, 415, 422)

TAGS = {
    "requests": "Submit SQL, look, decide, run.",
    "results": "What came out of it.",
    "policies": "What would happen, and by which rules.",
    "webhooks": "Whom the server tells, and of what.",
    "config_only": "What is changed in `server.toml` only.",
    "identity": "Who is who.",
    "users": "People, by whoever manages them.",
    "directory": "Groups and roles.",
    "tokens": "What programs and people sign in with.",
    "audit": "The tamper-evident record.",
    "schemas": "The tables of the databases.",
    "agents": "What there is to run on.",
    "metrics": "For Prometheus.",
    "health": "For load balancers and orchestrators.",
    "docs": "This description.",
    "agent": "What agents call; for their tokens only.",
    "broker": "The queue between the server, its agents and `celery inspect`.",
}


def document(app: Flask) -> Json:
    """The whole document as JSON. Every route that declares itself is in it, in the order of the paths."""
    routes = list(_routes(app))
    names, schemas = _schemas(_models(declared for _, _, declared in routes))
    paths: dict[str, Json] = {}
    for rule, method, declared in routes:
        operation = _operation(app, rule, method, declared, names)
        paths.setdefault(_PATH_PARAMETER.sub(r"{\g<name>}", rule.rule), {})[method.lower()] = operation
    used = {operation["tags"][0] for path in paths.values() for operation in path.values()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dbward",
            "version": VERSION,
            "summary": "Approval, policy and a tamper-evident record in front of production databases",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items() if name in used]
        + [{"name": name} for name in sorted(used - TAGS.keys())],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token of dbward (`dbw_…`), or a JWT of the identity provider.",
                }
            },
        },
    }


def _routes(app: Flask) -> Iterator[tuple[Rule, str, Endpoint]]:
    for rule in app.url_map.iter_rules():
        declared = declared_by(app.view_functions[rule.endpoint])
        if declared is not None:
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield rule, method, declared


def _models(endpoints: Iterable[Endpoint]) -> list[tuple[type[BaseModel], JsonSchemaMode]]:
    found: dict[type[BaseModel], JsonSchemaMode] = {ErrorEnvelope: "validation"}
    for declared in endpoints:
        answers = [answer.model if isinstance(answer, Media) else answer for answer in declared.answers.values()]
        for model in (declared.query, declared.body, *answers):
            if model is not None:
                found[model] = "validation"
    return list(found.items())


def _schemas(models: list[tuple[type[BaseModel], JsonSchemaMode]]) -> tuple[Names, Json]:
    """The name of each model, and the schemas by name. Models of one name are told apart by their modules."""
    refs, everything = models_json_schema(models, ref_template=_REF)
    definitions: Json = everything.get("$defs", {})
    short = {long: _short(long) for long in definitions}
    assert len(set(short.values())) == len(short), "two models of one name in modules of one name"

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: _reference(item, short) if key == "$ref" else renamed(item) for key, item in value.items()}
        return [renamed(item) for item in value] if isinstance(value, list) else value

    names = {model: short[ref["$ref"].rpartition("/")[2]] for (model, _), ref in refs.items()}
    return names, {short[long]: renamed(schema) for long, schema in sorted(definitions.items())}


def _short(long: str) -> str:
    qualified = _QUALIFIED.fullmatch(long)
    return long if qualified is None else qualified["module"].capitalize() + qualified["name"]


def _reference(ref: str, short: Mapping[str, str]) -> str:
    head, _, name = ref.rpartition("/")
    return f"{head}/{short[name]}"


def _operation(app: Flask, rule: Rule, method: str, declared: Endpoint, names: Names) -> Json:
    audience = guard.audience(rule.rule)
    view = app.view_functions[rule.endpoint]
    several = len((rule.methods or set()) - {"HEAD", "OPTIONS"}) > 1
    operation: Json = {
        "operationId": operation_id(rule.endpoint, method if several else None),
        "tags": [rule.endpoint.partition(".")[0]],
        "summary": declared.summary,
        "description": "\n\n".join(filter(None, [cleandoc(view.__doc__ or ""), _who(declared, audience)])),
    }
    if audience == "public":
        operation["security"] = []
    if parameters := [*_path_parameters(rule), *_query_parameters(declared)]:
        operation["parameters"] = parameters
    statuses = [*_ALWAYS[audience], *declared.errors]
    if declared.begins:
        statuses.append(503)
    if declared.body is not None or declared.body_media != "application/json":
        operation["requestBody"] = _body(declared, names)
        statuses += _WITH_BODY
    if any(parameter["in"] == "path" for parameter in parameters):
        statuses.append(404)
    operation["responses"] = {
        str(status): _answer(status, answer, names) for status, answer in declared.answers.items()
    }
    for status in sorted(set(statuses) - declared.answers.keys()):
        operation["responses"][str(status)] = {
            "description": _STATUS[status],
            "content": {"application/json": {"schema": {"$ref": _REF.format(model="ErrorEnvelope")}}},
        }
    return operation


def operation_id(endpoint: str, method: str | None = None) -> str:
    """What generated clients call it; `method` where one view serves several."""
    return endpoint.replace(".", "_").rstrip("_") + (f"_{method.lower()}" if method is not None else "")


def _who(declared: Endpoint, audience: str) -> str:
    """Who may, in a sentence."""
    if audience == "public":
        return "Needs no token."
    if not declared.needs:
        whose = {"agent": "an agent's token", "any": "any token"}.get(audience, "a person's token")
        return f"Needs {whose}: {declared.extent}." if declared.extent != "held in any role" else f"Needs {whose}."
    listed = " or ".join(f"`{permission}`" for permission in declared.needs)
    return f"Needs {listed}: {declared.extent}."


def _path_parameters(rule: Rule) -> Iterator[Json]:
    for name in _PATH_PARAMETER.findall(rule.rule):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
            "example": example(name),
        }


def _query_parameters(declared: Endpoint) -> Iterator[Json]:
    if declared.query is None:
        return
    schema = declared.query.model_json_schema()
    for name, property_schema in schema.get("properties", {}).items():
        yield {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": _without_null(property_schema, schema.get("$defs", {})),
        }


def _without_null(schema: Json, definitions: Json) -> Json:
    """A query has no null: what is not given is not there. References are resolved: they lead into the model."""
    kept = {key: value for key, value in schema.items() if key not in {"title", "default"} or value is not None}
    if "$ref" in kept:
        return _without_null(definitions[kept["$ref"].rpartition("/")[2]], definitions)
    choices = [_without_null(one, definitions) for one in kept.pop("anyOf", ()) if one.get("type") != "null"]
    if len(choices) == 1:
        kept |= choices[0]
    elif choices:
        kept["anyOf"] = choices
    kept.pop("title", None)
    return kept


def _body(declared: Endpoint, names: Names) -> Json:
    if declared.body is None:
        return {"required": True, "content": {declared.body_media: {"schema": {"type": "string", "format": "binary"}}}}
    return {
        "required": not declared.body_optional,
        "content": {
            declared.body_media: {
                "schema": {"$ref": _REF.format(model=names[declared.body])},
                "example": example(declared.body),
            }
        },
    }


def _answer(status: int, answer: Answer, names: Names) -> Json:
    said: Json = {"description": _STATUS[status]}
    if answer is None:
        return said
    media = answer if isinstance(answer, Media) else Media("application/json", answer)
    if media.model is None:
        schema: Json = {} if media.media_type == "application/json" else {"type": "string"}
        said["content"] = {name: {"schema": schema} for name in (media.media_type, *media.also)}
    else:
        content = {"schema": {"$ref": _REF.format(model=names[media.model])}, "example": example(media.model)}
        said["content"] = {media.media_type: content}
    return said


def of(app: Flask) -> Json:
    """The document of a running application."""
    return once(app, "dbward.openapi", lambda: document(app))


def once(app: Flask, key: str, make: Callable[[], T]) -> T:
    """What `make` returns, made at the first need and kept: it depends on nothing but the routes."""
    if key not in app.extensions:
        app.extensions[key] = make()
    made: T = app.extensions[key]
    return made


def grouped(api: Json) -> list[Json]:
    """The operations by their tag, `(method, path, operation)` each: for a page."""
    groups = {tag["name"]: {**tag, "operations": []} for tag in api["tags"]}
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            groups[operation["tags"][0]]["operations"].append((method.upper(), path, operation))
    return list(groups.values())


def type_name(schema: Json) -> str:
    """A schema in a few words: `string`, `Step[]`, `integer or null`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(type_name(one) for one in choices)
    if words := schema.get("enum"):
        return " | ".join(json.dumps(word) for word in words)
    if "const" in schema:
        return json.dumps(schema["const"])
    if schema.get("type") == "array":
        return f"{type_name(schema.get('items', {}))}[]"
    return str(schema.get("format") or schema.get("type") or "any")
