"""An example of each body and answer, made from its type: always valid, and never forgotten with a new field."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AwareDatetime, BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_json

AT = "2026-05-01T09:30:00Z"
_ID = "6a2f41a3-c54c-4d3a-9e1b-0d5c7f1e8a42"
_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

_ERROR = {"code": "sql.failed", "message": 'relation "orders" does not exist', "sqlstate": "42P01"}

# What a field of this name holds, wherever the type of the field lets it.
NAMED: Mapping[str, Any] = {
    "actor_id": "alice",
    "approvers": ["role:approver"],
    "claim_id": _ID,
    "comment": "looks right",
    "content_length": 4096,
    "database": "app",
    "database_name": "app",
    "detail": "SELECT count(*) FROM orders",
    "display_name": "Alice Doe",
    "CompleteRequest.outcome": "completed",
    "Explained.error": _ERROR,
    "email": "alice@example.com",
    "environment": "production",
    "error_message": None,
    "execution_id": _ID,
    "event_hash": _HASH,
    "event_type": "request.created",
    "events": ["request.*"],
    "id": _ID,
    "limit": 50,
    "message": "the statement has no WHERE",
    "name": "orders",
    "next_approvers": ["role:approver"],
    "permissions": ["request.query", "request.view"],
    "prefix": "6a2f41a3",
    "prev_hash": _HASH,
    "instance": "db-1",
    "mid": "6a2f41a3",
    "nonce": "6a2f41a3c54c4d3a9e1b0d5c7f1e8a42",
    "session": "6a2f41a3c54c4d3a",
    "tag": "6a2f41a3",
    "queue": "job.app.production",
    "reason": "ticket OPS-42",
    "request_id": _ID,
    "requester": "alice",
    "retention_days": 30,
    "role": "approver",
    "roles": ["requester"],
    "rows": [],
    "schema_name": "public",
    "selector": "role:approver",
    "sql": "SELECT count(*) FROM orders",
    "subject_id": "alice",
    "token": "dbw_6a2f41a3c54c4d3a9e1b0d5c7f1e8a42",
    "token_id": _ID,
    "token_prefix": "6a2f41a3",
    "upload_id": _ID,
    "url": "https://hooks.example.com/dbward",
    "user": "bob",
    "user_id": "alice",
    "version": "0.1.0",
    "webhook_id": "ops",
    "webhooks": ["ops"],
}
_PLAIN: Mapping[Any, Any] = {
    str: "text",
    int: 1,
    float: 1.0,
    bool: True,
    AwareDatetime: AT,
    datetime: AT,
    NoneType: None,
    Any: None,
}


def example(of: type[BaseModel] | str) -> Any:
    """A JSON value: of a model, or of a path parameter by its name."""
    return NAMED.get(of, "app") if isinstance(of, str) else _of_model(of)


def _of_model(model: type[BaseModel]) -> dict[str, Any]:
    found = {}
    for name, field in model.model_fields.items():
        special = NAMED.get(f"{model.__name__}.{name}", NAMED.get(name))
        if field.is_required() or special is not None:
            kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
            found[field.alias or name] = _first_valid(name, kind, special, _of_type(field.annotation))
    return found


def _first_valid(name: str, kind: Any, *candidates: Any) -> Any:
    checked: TypeAdapter[Any] = TypeAdapter(kind)
    for value in candidates:
        try:
            checked.validate_json(to_json(value))
        except ValidationError:
            continue
        return value
    raise AssertionError(f"no example for {name}: add one to NAMED")


def _of_type(kind: Any) -> Any:
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _of_type(arguments[0])
    if origin is Literal:
        return arguments[0]
    if origin in (Union, UnionType):
        return _of_type(arguments[0])
    if origin is list:
        return [_of_type(arguments[0])]
    if origin is dict or kind is dict:
        return {}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(iter(kind)).value
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _of_model(kind)
    raise AssertionError(f"no example for {kind}")
