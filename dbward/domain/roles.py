"""The built-in roles, and how a person's roles are found."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from dbward.domain.model import Grant, Ownership, Permission, PolicySet, Role
from dbward.errors import Invalid

WILDCARD = "*"


def parse_grant(text: str) -> Grant:
    """`permission`, `permission:own`, `permission:any`, or `*`, which means every permission and any owner."""
    if text == WILDCARD:
        return Grant(None, Ownership.ANY)
    name, colon, suffix = text.partition(":")
    try:
        return Grant(Permission(name), Ownership(suffix) if colon else Ownership.OWN)
    except ValueError:
        raise Invalid(
            f"unknown permission {text[:80]!a}",
            hint="a permission such as `request.query`, followed by nothing, `:own` or `:any`; or `*`",
        ) from None


def _role(name: str, grants: str) -> Role:
    return Role(name, tuple(parse_grant(grant) for grant in grants.split()))


BUILTIN_ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        _role(
            "admin",
            "workflow.read workflow.write policy.write role.write user.read user.write webhook.write token.create "
            "token.revoke:any token.list token.create_agent token.reissue audit.read metrics.view agent.control",
        ),
        _role(
            "requester",
            "request.query request.dml request.ddl request.view request.cancel request.resume request.preflight "
            "request.preflight_explain result.view schema.read workflow.read token.create token.revoke",
        ),
        _role("approver", "request.view result.view schema.read workflow.read token.create token.revoke"),
        _role(
            "operator",
            "request.query request.dml request.ddl request.view:any request.cancel:any request.resume:any "
            "request.break_glass_query request.break_glass_dml request.break_glass_ddl result.view:any schema.read "
            "audit.read metrics.view workflow.read token.create token.revoke",
        ),
        _role("agent-default", "agent.operate"),
    )
}
"""Cover every database and environment, and cannot be redefined. `admin` submits nothing and sees no request."""


def resolve(
    direct: Iterable[str], groups: Iterable[str], policy: PolicySet, ceiling: Collection[str] | None
) -> tuple[Role, ...]:
    """The roles somebody has: direct ones, then those of the groups, or else the default; cut to the token's ceiling.

    A name that no longer stands for a role or a group gives nothing. `ceiling` None means the token sets none; an empty
    one leaves no role.
    """
    names = dict.fromkeys(direct)
    for group in groups:
        names.update(dict.fromkeys(policy.groups.get(group, ())))
    found = tuple(role for name in names if (role := _find(name, policy)) is not None)
    if not found and policy.default_role is not None:
        default = _find(policy.default_role, policy)
        found = () if default is None else (default,)
    return found if ceiling is None else tuple(role for role in found if role.name in ceiling)


def _find(name: str, policy: PolicySet) -> Role | None:
    return BUILTIN_ROLES.get(name) or policy.roles.get(name)
