"""The part of `server.toml` that says who people are: roles, groups, users."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from dbward.domain.model import ANY, Grant, PolicySet, Role, Selector, SelectorKind
from dbward.domain.names import parse_selector
from dbward.domain.roles import BUILTIN_ROLES, parse_grant
from dbward.settings.load import Table
from dbward.settings.secret import Secret
from dbward.settings.server_oidc import OidcSettings, read_oidc
from dbward.settings.server_policy import accept, table_name

_TOKEN = re.compile(r"dbw_[0-9a-f]{32}")
_RESERVED_USERS = frozenset({"system", "anonymous"})
AGENT_ROLE = "agent-default"


@dataclass(frozen=True, slots=True)
class ConfiguredUser:
    """A person of `[[auth.users]]`. `token` comes from the environment or a secret store."""

    id: str
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    token: Secret | None = None


@dataclass(frozen=True, slots=True)
class Access:
    policy: PolicySet
    users: tuple[ConfiguredUser, ...]
    max_active_tokens_per_user: int
    oidc: OidcSettings | None = None


def read_access(root: Table, policy: PolicySet, warnings: list[str]) -> Access:
    """`[auth]`, and whether the roles and groups that `policy` names exist."""
    auth = root.table("auth")
    auth.choice("mode", "token", ("token",))
    auth.retired("role_bindings", "is not used any more: give roles in [[auth.users]] or [[auth.groups]]")
    roles = _read_roles(auth)
    known = set(roles) | set(BUILTIN_ROLES)
    groups = _read_groups(auth, known)
    oidc = read_oidc(
        auth.table("oidc"), lambda table, role: _check_person_role(table, "role", (role,), known), warnings
    )
    users = _read_users(auth, known, set(groups))
    default_role = auth.maybe("default_role")
    if default_role is not None and default_role not in known:
        auth.wrong("default_role", f"there is no role {default_role!a}")
    _check_selectors(root, policy, known, None if oidc is not None else set(groups))
    return Access(
        policy=replace(policy, roles=roles, groups=groups, default_role=default_role),
        users=users,
        max_active_tokens_per_user=auth.table("token_policy").integer("max_active_tokens_per_user", 5),
        oidc=oidc,
    )


def _read_roles(auth: Table) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    for table in auth.tables("roles"):
        name = table_name(table, "name", table.required("name"), wildcard=False, what="role")
        if name in BUILTIN_ROLES:
            table.wrong("name", f"{name!a} is built in and cannot be redefined")
        if name in roles:
            table.wrong("name", f"role {name!a} is defined twice")
        grants = [_read_grant(table, text) for text in table.texts("permissions")]
        if not grants:
            table.wrong("permissions", "is required and must not be empty")
        roles[name] = Role(
            name=name,
            grants=tuple(grant for grant in grants if grant is not None),
            databases=_scope(table, "databases"),
            environments=_scope(table, "environments"),
        )
    return roles


def _read_grant(table: Table, text: str) -> Grant | None:
    return accept(table, "permissions", lambda: parse_grant(text))


def _scope(table: Table, key: str) -> tuple[str, ...]:
    return tuple(table_name(table, key, name, what=key[:-1]) for name in table.texts(key)) or (ANY,)


def _read_groups(auth: Table, roles: set[str]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {}
    for table in auth.tables("groups"):
        name = table_name(table, "name", table.required("name"), wildcard=False, what="group")
        if name in groups:
            table.wrong("name", f"group {name!a} is defined twice")
        table.retired("members", "is not used any more: list the group in [[auth.users]] groups")
        given = table.texts("roles")
        if not given:
            table.wrong("roles", "is required and must not be empty")
        _check_known(table, "roles", given, roles, "role")
        groups[name] = given
    return groups


def _read_users(auth: Table, roles: set[str], groups: set[str]) -> tuple[ConfiguredUser, ...]:
    users: dict[str, ConfiguredUser] = {}
    tokens: set[Secret] = set()
    for table in auth.tables("users"):
        name = table.required("id")
        if name:
            accept(table, "id", lambda name=name: parse_selector(f"user:{name}"))  # type: ignore[misc]  # mypy infers no default
        if name in _RESERVED_USERS:
            table.wrong("id", f"{name!a} is used by dbward itself")
        if name in users:
            table.wrong("id", f"user {name!a} is listed twice")
        given_roles, given_groups = table.texts("roles"), table.texts("groups")
        _check_person_role(table, "roles", given_roles, roles)
        _check_known(table, "groups", given_groups, groups, "group")
        users[name] = ConfiguredUser(name, given_roles, given_groups, _read_token(table, tokens))
    return tuple(users.values())


def _read_token(table: Table, seen: set[Secret]) -> Secret | None:
    token = table.secret("token")
    if table.text("token", "absent") == "":
        table.wrong("token", "is empty")
    if token is None:
        return None
    if not _TOKEN.fullmatch(token.reveal()):
        table.wrong("token", "does not look like a dbward token: `dbw_` and 32 lower-case hex digits")
    elif token in seen:
        table.wrong("token", "is also another user's")
    seen.add(token)
    return token


def _check_person_role(table: Table, key: str, given: tuple[str, ...], roles: set[str]) -> None:
    _check_known(table, key, given, roles, "role")
    if AGENT_ROLE in given:
        table.wrong(key, f"{AGENT_ROLE!a} is for agents' tokens, not for people")


def _check_selectors(root: Table, policy: PolicySet, roles: set[str], groups: set[str] | None) -> None:
    """Every role and group that workflows and result policies name; `groups` None when others may exist."""
    for number, flow in enumerate(policy.workflows):
        for step_number, step in enumerate(flow.steps):
            for approver in step.approvers:
                where = f"workflows[{number}].steps[{step_number}].approvers"
                _check_selector(root, where, approver.selector, roles, groups)
    for number, rule in enumerate(policy.result_policies):
        for selector in rule.access:
            _check_selector(root, f"result_policies[{number}].access", selector, roles, groups)


def _check_selector(root: Table, where: str, selector: Selector, roles: set[str], groups: set[str] | None) -> None:
    if selector.kind is SelectorKind.ROLE:
        _check_known(root, where, (selector.value,), roles, "role")
    elif selector.kind is SelectorKind.GROUP and groups is not None:
        _check_known(root, where, (selector.value,), groups, "group")


def _check_known(table: Table, key: str, names: tuple[str, ...], known: set[str], what: str) -> None:
    for name in names:
        if name not in known:
            listed = ", ".join(sorted(known)) or f"no {what} is defined"
            table.wrong(key, f"there is no {what} {name!a} ({listed})")
