"""What a route says about itself, once: who may call it, what it takes and what it answers.

The same declaration checks the permission, reads the query and the body, and is what `/api/openapi.json` and the table
in `docs/reference/authorization.md` are made from, so none of them can say something else than what happens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from typing import Any

from flask import Response, request
from pydantic import BaseModel

from dbward.domain.model import Permission
from dbward.services import access
from web import guard, json


class Extent(StrEnum):
    """What is asked beyond holding the permission somewhere; the service that knows the thing decides it."""

    HELD = "held in any role"
    SCOPED = "held for the database and environment"
    OWN = "own, or `:any`"
    VISIBLE = "own, waiting for one's decision, decided by oneself, or `:any`"
    SHARED = "own, shared with or decided by oneself, or `:any`"
    APPROVER = "named by the current step of the workflow"
    CONFIGURED = "405 for everybody: it is configuration"
    SELF = "about oneself, or with the permission"
    AGENT = "its own work, within its token's scopes"
    BROKER = "what the broker's own table lets this kind of token do"


@dataclass(frozen=True, slots=True)
class Media:
    """An answer that is not one JSON document of a model: its media type, and the model of each line or document.

    `also`: the other media types it may be asked for in.
    """

    media_type: str
    model: type[BaseModel] | None = None
    also: tuple[str, ...] = ()


Answer = type[BaseModel] | Media | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`needs`: one of them must be held by the caller; none for whoever the guard lets in.

    `answers`: what each successful status carries, None for nothing. `errors`: the statuses this route adds to those
    that every route of its audience may answer with. `begins`: it takes on something new, as a server that is about to
    stop does not.
    """

    summary: str
    answers: Mapping[int, Answer]
    needs: tuple[Permission, ...] = ()
    extent: Extent = Extent.HELD
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    body_optional: bool = False
    body_media: str = "application/json"
    body_limit: int | None = None
    errors: tuple[int, ...] = ()
    begins: bool = False


View = Callable[..., Response]


def endpoint(
    summary: str,
    *,
    answers: Mapping[int, Answer],
    needs: Permission | tuple[Permission, ...] = (),
    **rest: Any,
) -> Callable[[View], View]:
    """Declare a view, which is then called with its path parameters and, where declared, `query` and `body`.

    Nothing of the call is read before the permission is known to be held.
    """
    declared = Endpoint(summary, answers, needs if isinstance(needs, tuple) else (needs,), **rest)

    def declare(view: View) -> View:
        @wraps(view)
        def call(**path: Any) -> Response:
            if declared.needs and declared.extent is not Extent.SELF:
                _check_permission(declared)
            if declared.begins:
                guard.refuse_while_draining()
            if declared.query is not None:
                path["query"] = json.query(declared.query)
            if declared.body_limit is not None:
                request.max_content_length = declared.body_limit
            if declared.body is not None:
                path["body"] = json.body(declared.body, optional=declared.body_optional)
            return view(**path)

        call.declared = declared  # type: ignore[attr-defined]  # read by `declared_by`
        return call

    return declare


def declared_by(view: Callable[..., Any]) -> Endpoint | None:
    """What the view declares; None when it declares nothing, which the suite does not let pass."""
    found = getattr(view, "declared", None)
    return found if isinstance(found, Endpoint) else None


def _check_permission(declared: Endpoint) -> None:
    """A refusal goes on the record, unless the call only looks, or only moves messages."""
    who = guard.principal()
    if request.method in {"GET", "HEAD"} or declared.extent is Extent.BROKER:
        access.check(who, *declared.needs)
    else:
        access.require(guard.runtime(), who, declared.needs, action=request.endpoint or "")
