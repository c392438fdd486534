"""`/api/tokens` and `/api/me`."""

from __future__ import annotations

from typing import Literal

from dbward.client.answers.base import Answer, Time


class Ceiling(Answer):
    roles: list[str]


class Scope(Answer):
    """One target an agent's token serves; either part may be `*`."""

    database: str
    environment: str


class Token(Answer):
    """A token without its text."""

    id: str
    subject_type: Literal["user", "agent"]
    subject_id: str
    token_prefix: str
    scope_ceiling: Ceiling | None
    scopes: list[Scope] | None
    name: str | None
    kind: str
    status: Literal["active", "revoked"]
    expires_at: Time | None
    created_at: Time
    revoked_at: Time | None


class Tokens(Answer):
    tokens: list[Token]


class NewToken(Token):
    """The one answer that holds a token's text. The permissions are sorted, `*` for all of them."""

    token: str
    prefix: str
    effective_roles: list[str]
    effective_permissions: list[str]


class Inspected(Token):
    """A token with what it gives: its owner's roles now, and what its ceiling leaves of them."""

    resolved_roles: list[str]
    effective_roles: list[str]
    effective_permissions: list[str]


class Revoked(Answer):
    id: str
    revoked_at: Time


class MyRole(Answer):
    name: str
    permissions: list[str]
    databases: list[str]
    environments: list[str]


class Me(Answer):
    """Who the token belongs to; the roles are those its ceiling leaves."""

    subject_id: str
    subject_type: Literal["user", "agent"]
    roles: list[MyRole]
    groups: list[str]
