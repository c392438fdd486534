"""Groups with their members, and roles with what they let do. Both are defined in the configuration file."""

from __future__ import annotations

from dbward.db import identities
from dbward.domain import roles
from dbward.domain.model import ANY, Ownership, Permission, Principal, Role
from dbward.errors import Missing
from dbward.runtime import Runtime
from dbward.services import access
from dbward.services.users import READING
from dbward.services.views import View


def list_groups(rt: Runtime, who: Principal) -> View:
    """The groups of the configuration, and those that only an identity provider speaks of. Raises `Refused`."""
    access.check(who, *READING)
    return {"groups": sorted(_members(rt))}


def show_group(rt: Runtime, who: Principal, name: str) -> View:
    """The ids of the members, suspended ones included, and the roles the group gives. Raises `Refused`, `Missing`."""
    access.check(who, *READING)
    members = _members(rt).get(name)
    if members is None:
        raise Missing(f"group {name}")
    return {"name": name, "members": sorted(members), "roles": list(rt.settings.policy.groups.get(name, ()))}


def _members(rt: Runtime) -> dict[str, list[str]]:
    with rt.store.read() as conn:
        users = identities.all_users(conn)
    members: dict[str, list[str]] = {name: [] for name in rt.settings.policy.groups}
    for user in users:
        for group in user.groups:
            members.setdefault(group, []).append(user.id)
    return members


def list_roles(rt: Runtime, who: Principal) -> View:
    """The built-in roles, then those of the configuration; and the one of whoever has none. Raises `Refused`."""
    access.check(who, Permission.WORKFLOW_READ)
    policy = rt.settings.policy
    return {
        "roles": [
            *(_role(role, builtin=True) for role in roles.BUILTIN_ROLES.values()),
            *(_role(role, builtin=False) for role in policy.roles.values()),
        ],
        "default_role": policy.default_role,
    }


def _role(role: Role, *, builtin: bool) -> View:
    return {
        "name": role.name,
        "builtin": builtin,
        "permissions": [
            {
                "perm": str(grant.permission) if grant.permission is not None else ANY,
                "ownership": Ownership.ANY if grant.permission is None else grant.ownership,
            }
            for grant in role.grants
        ],
        "databases": list(role.databases),
        "environments": list(role.environments),
    }
