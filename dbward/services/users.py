"""People: made, listed, shown, changed, suspended, deleted, over the API. The configuration has its own in `bootstrap`.

Whoever holds `user.write` may give anybody any role, `admin` included: it is the permission to say who is who. What it
cannot do is leave the server without an administrator, or change what the configuration says about its own people.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from dbward import ids
from dbward.client.shapes import NewUser, UserChange
from dbward.db import identities
from dbward.db.engine import Tx
from dbward.db.rows import TokenRow, UserRow
from dbward.domain import rbac
from dbward.domain.model import Event, Permission, PolicySet, Principal
from dbward.domain.roles import BUILTIN_ROLES
from dbward.errors import Conflict, DbwardError, Invalid, Missing
from dbward.runtime import Runtime
from dbward.services import access, people
from dbward.services.identity import AGENT_ROLE
from dbward.services.views import View

READING = (Permission.USER_READ, Permission.USER_WRITE)
"""Either lets its holder see everybody."""

_LISTS = frozenset({"roles", "add_roles", "rm_roles", "groups", "add_groups", "rm_groups"})
"""Parts of a change that null leaves out. The others it takes away."""


def list_users(rt: Runtime, who: Principal) -> View:
    """Everybody who is not deleted, newest first. Raises `Refused`."""
    access.check(who, *READING)
    with rt.store.read() as conn:
        rows = identities.all_users(conn)
    return {"users": [_item(row) for row in rows]}


def show_user(rt: Runtime, who: Principal, user_id: str) -> View:
    """Oneself, or anybody with `user.read`. Raises `Missing`, also for one whom the caller may not see, and `Gone`."""
    if user_id != who.subject and not any(rbac.allowed(who, permission, None) for permission in READING):
        raise Missing(f"user {user_id}")
    with rt.store.read() as conn:
        row = identities.find_user(conn, user_id)
    return _item(people.present(row, user_id))


def create_user(rt: Runtime, who: Principal, body: NewUser) -> View:
    """A new person with their first token, whose ceiling is the roles they have now. Its text is returned once.

    Raises `Refused`, `Invalid` (unknown role or group, no role at all), `Conflict` (the name is taken, for good).
    """
    access.require(rt, who, (Permission.USER_WRITE,), action="user.create")
    asked = people.Asked(rt, who, body.id, "user.create")
    if body.id.lower() in people.RESERVED:
        raise Invalid(f"{body.id} is a name dbward uses itself", hint="use another id")
    policy = rt.settings.policy
    _check_roles(policy, body.roles)
    _check_groups(policy, body.groups)
    plaintext = ids.new_token()
    now = rt.now()
    row = UserRow(
        id=body.id,
        roles=_unique(body.roles),
        groups=_unique(body.groups),
        status="active",
        source="api",
        created_at=now,
        updated_at=now,
        display_name=body.display_name,
        email=body.email,
    )
    granted = [role.name for role in people.roles_of(rt, row)]
    if not granted:
        raise Invalid(
            "the user would have no role", hint="name a role, or a group that gives one", code="user.no_roles"
        )

    def work(tx: Tx) -> TokenRow | DbwardError:
        access.check_acting(tx, who)
        if identities.find_user(tx.conn, body.id) is not None:
            return asked.refuse(
                tx, Conflict(f"user {body.id} exists, or did", code="user.exists", hint="an id is never used again")
            )
        if identities.is_agent(tx.conn, body.id):
            return asked.refuse(
                tx, Conflict(f"an agent is called {body.id}", code="subject.taken", hint="use another id")
            )
        people.save(rt, tx, row, None, actor=who)
        return people.issue_initial(rt, tx, row, plaintext, actor=who, event=Event.TOKEN_CREATED)

    token = people.outcome(rt.store.write(work))
    return {
        "id": row.id,
        "token": plaintext,
        "token_prefix": token.prefix,
        "roles": granted,
        "groups": row.groups,
    }


def change_user(rt: Runtime, who: Principal, user_id: str, body: UserChange) -> View:
    """Change roles, groups, the Slack id, the name, the address: all of it or nothing.

    Raises `Refused`, `Invalid` (nothing to do, contradictions, unknown names, the last admin), `Gone`, `Missing`,
    `Conflict` (the Slack id is somebody else's, or the configuration has the say).
    """
    access.require(rt, who, (Permission.USER_WRITE,), action="user.update")
    _check_change(body)
    policy = rt.settings.policy
    asked = people.Asked(rt, who, user_id, "user.update")

    def change(tx: Tx, before: UserRow) -> View | DbwardError:
        roles = _edited(before.roles, body.roles, body.add_roles, body.rm_roles)
        groups = _edited(before.groups, body.groups, body.add_groups, body.rm_groups)
        # What is only taken away need not exist any more.
        _check_roles(policy, [*(body.roles or ()), *(body.add_roles or ())])
        _check_groups(policy, [*(body.groups or ()), *(body.add_groups or ())])
        _check_roles(policy, set(body.rm_roles or ()) - set(before.roles))
        _check_groups(policy, set(body.rm_groups or ()) - set(before.groups))
        if before.source == "config" and (roles, groups) != (before.roles, before.groups):
            return asked.refuse(tx, people.managed(user_id, "change roles and groups in [[auth.users]] there"))
        after = replace(before, roles=roles, groups=groups, updated_at=rt.now())
        given = body.model_fields_set
        if "slack_user_id" in given:
            after = replace(after, slack_user_id=body.slack_user_id or None)
        if "display_name" in given:
            after = replace(after, display_name=body.display_name or None)
        if "email" in given:
            after = replace(after, email=body.email or None)
        slack = after.slack_user_id
        if slack is not None and identities.slack_user(tx.conn, slack) not in (None, user_id):
            return asked.refuse(tx, Conflict(f"Slack id {slack} is another user's", code="user.slack_id_taken"))
        if (refusal := people.refuse_last_admin(rt, tx, before, after)) is not None:
            return asked.refuse(tx, refusal)
        people.save(rt, tx, after, before, actor=who)
        return {"id": user_id, "updated": True}

    return people.apply(asked, change)


def _check_change(body: UserChange) -> None:
    """Raises `Invalid` when there is nothing to change, or the parts contradict each other."""
    lists = [getattr(body, name) for name in _LISTS]
    if all(names is None for names in lists) and not body.model_fields_set - _LISTS:
        raise Invalid("nothing to change was given", hint=f"one of: {', '.join(UserChange.model_fields)}")
    for what in ("roles", "groups"):
        whole, added, removed = (getattr(body, f"{prefix}{what}") for prefix in ("", "add_", "rm_"))
        if whole is not None and (added is not None or removed is not None):
            raise Invalid(f"{what} replaces them all: leave out add_{what} and rm_{what}")
        if both := sorted(set(added or ()) & set(removed or ())):
            raise Invalid(f"add_{what} and rm_{what} both name {both[0]!a}")


def _check_roles(policy: PolicySet, names: Iterable[str]) -> None:
    known = BUILTIN_ROLES.keys() | policy.roles.keys()
    for name in names:
        if name == AGENT_ROLE:
            raise Invalid(f"{AGENT_ROLE} is for agents' tokens, not for people")
        if name not in known:
            raise Invalid(f"there is no role {name!a}", hint=f"one of: {', '.join(sorted(known - {AGENT_ROLE}))}")


def _check_groups(policy: PolicySet, names: Iterable[str]) -> None:
    for name in names:
        if name not in policy.groups:
            listed = ", ".join(sorted(policy.groups)) or "none is defined; groups are in [[auth.groups]]"
            raise Invalid(f"there is no group {name!a}", hint=f"one of: {listed}")


def _edited(
    now: list[str], whole: list[str] | None, added: Sequence[str] | None, removed: Sequence[str] | None
) -> list[str]:
    """In the order given, without repetitions."""
    kept = [name for name in (now if whole is None else whole) if name not in (removed or ())]
    return _unique([*kept, *(added or ())])


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _item(row: UserRow) -> View:
    return {
        "id": row.id,
        "display_name": row.display_name,
        "email": row.email,
        "roles": row.roles,
        "groups": row.groups,
        "status": row.status,
        "source": row.source,
        "slack_user_id": row.slack_user_id,
        "last_seen_at": row.last_seen_at,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }
