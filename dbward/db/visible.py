"""Which rows of requests and results a person may know of, as conditions that every query of them shares.

One condition decides a list, its total, a short id and a single look-up, so none of them can say more than another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, false, func, or_, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from dbward.db.tables import approvals, request_selectors, requests
from dbward.domain.model import ANY, Status

Condition = ColumnElement[bool]
"""About a row of `requests`."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What one role or policy covers: names, or `*`."""

    databases: tuple[str, ...]
    environments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Visibility:
    """How far one permission reaches for a person: everybody's things inside `everybodys`, and inside `own` those that
    they have to do with, as `subject` or through one of `selectors`.
    """

    everybodys: tuple[Scope, ...]
    own: tuple[Scope, ...]
    subject: str
    selectors: tuple[str, ...]


@lru_cache(maxsize=1024)  # built anew for each call, it would take longer than the query
def viewable(sees: Visibility) -> Condition:
    """Requests a person may look at: their own, those waiting for their decision, and those they decided."""
    theirs = or_(requests.c.requester == sees.subject, awaiting(sees.selectors), decided_by(sees.subject))
    return or_(inside(sees.everybodys), and_(inside(sees.own), theirs))


def owned(sees: Visibility) -> Condition:
    """Requests a person may change by a permission that goes by who submitted them."""
    return or_(inside(sees.everybodys), and_(inside(sees.own), requests.c.requester == sees.subject))


def readable(sees: Visibility, opened: Iterable[tuple[Scope, bool]]) -> Condition:
    """Requests whose results a person may read: their own, those they decided, and those shared with them.

    `opened`: for the result policies, the most specific first, whether each names this person. The first that covers
    the target counts.
    """
    theirs = or_(
        requests.c.requester == sees.subject,
        decided_by(sees.subject),
        _shared_with(sees.selectors),
        _first_covering(opened),
    )
    return or_(inside(sees.everybodys), and_(inside(sees.own), theirs))


def kept(live_only: Iterable[tuple[Scope, bool]]) -> Condition:
    """Requests whose results are there to be opened later; `live_only` says of each result policy whether none are."""
    return and_(~requests.c.no_result_store, ~_first_covering(live_only))


def _first_covering(policies: Iterable[tuple[Scope, bool]]) -> Condition:
    """What the first policy that covers the target says; no when none does."""
    says = [(_covered(scope), true() if yes else false()) for scope, yes in policies]
    return case(*says, else_=false()) if says else false()


def either(*conditions: Condition) -> Condition:
    """What passes one of them."""
    return or_(false(), *conditions)


def inside(scopes: Iterable[Scope]) -> Condition:
    """Whether one of the scopes covers the request's target; nothing is inside no scope."""
    return or_(false(), *map(_covered, scopes))


def _covered(scope: Scope) -> Condition:
    return and_(
        true() if ANY in scope.databases else requests.c.database.in_(scope.databases),
        true() if ANY in scope.environments else requests.c.environment.in_(scope.environments),
    )


def awaiting(selectors: Collection[str]) -> Condition:
    """Whether the request is pending and its current step names one of the selectors."""
    named = exists().where(
        request_selectors.c.request_id == requests.c.id, request_selectors.c.selector.in_(tuple(selectors))
    )
    return and_(requests.c.status == Status.PENDING, named)


def decided_by(subject: str) -> Condition:
    """Whether this person approved or rejected the request."""
    return exists().where(approvals.c.request_id == requests.c.id, approvals.c.actor == subject)


class _Elements(FunctionElement[Any]):
    """The texts of a JSON array as rows; each kind of store has its own name for it."""

    name = "elements"
    inherit_cache = True


@compiles(_Elements, "sqlite")
def _on_sqlite(element: _Elements, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **kw)})"


@compiles(_Elements, "postgresql")
def _on_postgresql(element: _Elements, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_array_elements_text({compiler.process(element.clauses, **kw)})"


def _shared_with(selectors: Sequence[str]) -> Condition:
    each = _Elements(requests.c.share_with).table_valued("value")
    return func.coalesce(exists().where(each.c.value.in_(selectors)), false())
