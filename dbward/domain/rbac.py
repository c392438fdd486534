"""Who may do what. Two layers: some role must grant the permission and cover the target; then whose thing it is.

Deny by default: no role, no grant, or a scope that does not cover the target means no.
"""

from __future__ import annotations

from collections.abc import Iterable

from dbward.domain.model import (
    ANY,
    Operation,
    Ownership,
    Permission,
    Principal,
    Role,
    Selector,
    SelectorKind,
    Target,
)
from dbward.errors import Refused


def ownership(principal: Principal, permission: Permission, target: Target | None) -> Ownership | None:
    """How far `permission` reaches for `principal`: None, its own things, or anybody's (one role saying so is enough).

    `target` None asks whether it is held anywhere at all; `Target("*", "*")` whether it is held everywhere.
    `agent.operate` belongs to agents, and agents have nothing else and no target outside their token's scopes.
    """
    if (principal.kind == "agent") != (permission is Permission.AGENT_OPERATE):
        return None
    if principal.kind == "agent" and target is not None and not _in_scopes(principal.scopes, target):
        return None
    found = {reach(role, permission) for role in principal.roles if target is None or covers(role, target)}
    return Ownership.ANY if Ownership.ANY in found else Ownership.OWN if Ownership.OWN in found else None


def reach(role: Role, permission: Permission) -> Ownership | None:
    """How far one role alone carries `permission`, inside its scope."""
    granted = [
        Ownership.ANY if grant.permission is None else grant.ownership
        for grant in role.grants
        if grant.permission in (None, permission)
    ]
    return Ownership.ANY if Ownership.ANY in granted else Ownership.OWN if granted else None


def allowed(principal: Principal, permission: Permission, target: Target | None) -> bool:
    """Layer one alone: the permission is held, whoever owns the thing."""
    return ownership(principal, permission, target) is not None


def refuse(principal: Principal, permission: Permission, *, target: Target | None, owner: str | None) -> Refused | None:
    """Why not, or None when it is allowed. `owner` is the subject id whose thing it is; None when it is nobody's."""
    reach = ownership(principal, permission, target)
    if reach is None:
        where = "" if target is None else f" on {target}"
        return Refused(f"this needs the permission {permission}{where}", hint="ask for a role that grants it")
    if owner is not None and reach is not Ownership.ANY and owner != principal.subject:
        return Refused(
            f"this belongs to somebody else and needs {permission}:any", hint="ask for a role that grants it"
        )
    return None


def covers(role: Role, target: Target) -> bool:
    """Whether the scope of `role` includes `target`."""
    return _one_of(role.databases, target.database) and _one_of(role.environments, target.environment)


def matches(principal: Principal, selector: Selector, *, requester: str) -> bool:
    """Whether `selector` points at this person. Agents and the server itself are never meant."""
    if principal.kind != "user":
        return False
    match selector.kind:
        case SelectorKind.ROLE:
            return selector.value in principal.role_names
        case SelectorKind.GROUP:
            return selector.value in principal.groups
        case SelectorKind.USER:
            return selector.value == principal.subject
        case SelectorKind.REQUESTER:
            return principal.subject == requester


def permission_for(
    operation: Operation, *, emergency: bool, allow_ddl: bool, is_ddl: bool = False, contains_ddl: bool = False
) -> tuple[Permission, ...]:
    """Every permission that submitting needs. `is_ddl`: all statements are DDL; `contains_ddl`: at least one is.

    In an emergency nobody approves, so DDL needs its own permission there, whether it was asked for by name or not.
    """
    needed: list[Permission] = []
    if emergency:
        read = operation is Operation.EXECUTE_SELECT
        needed.append(Permission.REQUEST_BREAK_GLASS_QUERY if read else Permission.REQUEST_BREAK_GLASS_DML)
    elif operation is Operation.EXECUTE_SELECT:
        needed.append(Permission.REQUEST_QUERY)
    elif is_ddl:
        needed.append(Permission.REQUEST_DDL)
    else:
        needed.append(Permission.REQUEST_DML)
    if contains_ddl and not is_ddl and not emergency:
        needed.append(Permission.REQUEST_DDL)
    if allow_ddl or (emergency and (is_ddl or contains_ddl)):
        needed.append(Permission.REQUEST_BREAK_GLASS_DDL)
    return tuple(needed)


def _one_of(names: Iterable[str], name: str) -> bool:
    return any(known in (ANY, name) for known in names)


def _in_scopes(scopes: Iterable[Target], target: Target) -> bool:
    return any(
        scope.database in (ANY, target.database) and scope.environment in (ANY, target.environment) for scope in scopes
    )
