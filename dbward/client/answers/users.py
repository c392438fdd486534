"""`/api/users`, `/api/groups` and `/api/roles`."""

from __future__ import annotations

from typing import Literal

from dbward.client.answers.base import Answer, Count, Time

Source = Literal["bootstrap", "config", "api", "oidc"]
"""Who says what this user may: the first start, the configuration file, this API, or the identity provider."""


class User(Answer):
    """A person. `roles` are their own, without those their groups give. `last_seen_at` is exact to minutes."""

    id: str
    display_name: str | None
    email: str | None
    roles: list[str]
    groups: list[str]
    status: Literal["active", "suspended"]
    source: Source
    slack_user_id: str | None
    last_seen_at: Time | None
    created_at: Time
    updated_at: Time


class Users(Answer):
    """Newest first, without those that are deleted."""

    users: list[User]


class Created(Answer):
    """The one answer that holds the first token's text. `roles` are all the user has, which is its ceiling."""

    id: str
    token: str
    token_prefix: str
    roles: list[str]
    groups: list[str]


class Updated(Answer):
    id: str
    updated: Literal[True]


class Suspended(Answer):
    """What ended with it: how many tokens, and the requests by id."""

    id: str
    revoked_tokens: Count
    cancelled_requests: list[str]
    source: Source
    warning: str = ""


class Activated(Answer):
    id: str
    source: Source
    warning: str = ""


class Deleted(Answer):
    id: str
    deleted: Literal[True]


class Reissued(Answer):
    """The one answer that holds the new token's text. It is null only when it was delivered in another way."""

    reissued_token_id: str
    reissued_at: Time
    revoked_old_token_id: str | None
    delivery_status: Literal["not_configured", "delivered", "failed"]
    delivery_channel: Literal["slack_dm"] | None
    token: str | None
    manual_recovery_required: bool


class Groups(Answer):
    groups: list[str]


class Group(Answer):
    """The ids of its members, and the roles they have by it."""

    name: str
    members: list[str]
    roles: list[str]


class Grant(Answer):
    """`any`: also about what belongs to others. `*` is every permission."""

    perm: str
    ownership: Literal["own", "any"]


class Role(Answer):
    name: str
    builtin: bool
    permissions: list[Grant]
    databases: list[str]
    environments: list[str]


class Roles(Answer):
    """`default_role` is that of whoever has no other; null means they get in nowhere."""

    roles: list[Role]
    default_role: str | None
