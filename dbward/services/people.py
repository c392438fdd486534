"""What happens to people, put on the record in the transaction that does it. The API and the configuration share it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from dbward.db import identities, requests
from dbward.db.engine import Tx
from dbward.db.rows import TokenRow, UserRow
from dbward.domain import roles
from dbward.domain.model import SYSTEM, Event, Principal, Role
from dbward.domain.states import CANCELLABLE
from dbward.errors import Conflict, DbwardError, Gone, Invalid, Missing
from dbward.runtime import Runtime
from dbward.services import access
from dbward.services.journal import record, record_refusal
from dbward.services.requests import cancel_row
from dbward.services.views import View

ADMIN = "admin"
"""The role somebody must always have."""

RESERVED = frozenset({SYSTEM.subject, "anonymous"})
"""Who the audit log says it was when it was nobody: no person is called so."""

T = TypeVar("T")

OWN_TOKENS = ("issued", "initial")
"""The kinds a person is given or makes, as against those of the configuration and of the first start."""

_PROFILE = ("display_name", "email", "slack_user_id")


@dataclass(frozen=True, slots=True)
class ShutOut:
    """The ids of what ended with somebody's access."""

    tokens: list[str]
    requests: list[str]


def roles_of(rt: Runtime, user: UserRow) -> tuple[Role, ...]:
    """All roles the user has: direct ones, those of the groups, or else the default one."""
    return roles.resolve(user.roles, user.groups, rt.settings.policy, None)


def is_admin(rt: Runtime, user: UserRow) -> bool:
    """Whether the user can sign in as an administrator, by a role of their own or by a group."""
    return user.status == "active" and any(role.name == ADMIN for role in roles_of(rt, user))


def save(
    rt: Runtime, tx: Tx, row: UserRow, before: UserRow | None, *, actor: Principal, reason: str | None = None
) -> None:
    """Store the user as `row`, and put on the record what that changes: the user, and each group joined or left."""
    event = _event(before, row)
    if event is None:
        return
    identities.save_user(tx, row)
    facts: dict[str, Any] = {"roles": row.roles, "groups": row.groups, "source": row.source}
    if before is not None:
        facts |= {"roles_before": before.roles, "groups_before": before.groups}
        if changed := [name for name in _PROFILE if getattr(before, name) != getattr(row, name)]:
            facts["changed"] = changed  # the names alone: the log is kept longer than such facts should be
    record(rt, tx, event, actor=actor, resource=("user", row.id), reason=reason, metadata=facts)
    member = {"user": row.id}
    had = before.groups if before is not None else []
    for group in sorted(set(row.groups) - set(had)):
        record(rt, tx, Event.GROUP_MEMBER_ADDED, actor=actor, resource=("group", group), reason=reason, metadata=member)
    for group in sorted(set(had) - set(row.groups)):
        record(
            rt, tx, Event.GROUP_MEMBER_REMOVED, actor=actor, resource=("group", group), reason=reason, metadata=member
        )


def shut_out(rt: Runtime, tx: Tx, user_id: str, *, kinds: Collection[str], actor: Principal, reason: str) -> ShutOut:
    """Revoke the user's tokens of these kinds and cancel what they have going. Their waiting calls end at once."""
    revoked = identities.revoke_of_user(tx, user_id, rt.now(), kinds)
    for token_id in revoked:
        record(rt, tx, Event.TOKEN_REVOKED, actor=actor, resource=("token", token_id), reason=reason)
    cancelled = requests.of_requester(tx.conn, user_id, CANCELLABLE)
    for request_id in cancelled:
        cancel_row(rt, tx, requests.lock(tx, request_id), actor=actor, reason=f"its requester is {reason}")
    return ShutOut(revoked, cancelled)


def _event(before: UserRow | None, row: UserRow) -> Event | None:
    """What the change is called; None when there is none worth a record."""
    if before is None:
        return Event.USER_CREATED
    if before.deleted_at is None and row.deleted_at is not None:
        return Event.USER_DELETED
    if (before.status, before.suspended_by) != (row.status, row.suspended_by):
        return Event.USER_ACTIVATED if row.status == "active" else Event.USER_SUSPENDED
    compared = ("roles", "groups", *_PROFILE)
    same = all(getattr(before, name) == getattr(row, name) for name in compared)
    return None if same else Event.USER_UPDATED


@dataclass(frozen=True, slots=True)
class Asked:
    """One change of one person: by whom, whom, and what it is called in the audit log."""

    rt: Runtime
    who: Principal
    user_id: str
    action: str

    def refuse(self, tx: Tx, refusal: DbwardError) -> DbwardError:
        return record_refusal(
            self.rt, tx, refusal, actor=self.who, request=None, action=self.action, resource=("user", self.user_id)
        )


def apply(asked: Asked, change: Callable[[Tx, UserRow], View | DbwardError]) -> View:
    """Run `change` on the user as they are, in one transaction; what it returns as refused is on the record."""

    def work(tx: Tx) -> View | DbwardError:
        access.check_acting(tx, asked.who)
        return change(tx, present(identities.find_user(tx.conn, asked.user_id), asked.user_id))

    return outcome(asked.rt.store.write(work))


def outcome(found: T | DbwardError) -> T:
    """What a write has found, unless it found that it must not: that is raised."""
    if isinstance(found, DbwardError):
        raise found
    return found


def present(row: UserRow | None, user_id: str) -> UserRow:
    """Raises `Missing`, and `Gone` for one who was deleted."""
    if row is None:
        raise Missing(f"user {user_id}")
    if row.deleted_at is not None:
        raise Gone(f"user {user_id} was deleted")
    return row


def configured(rt: Runtime, user_id: str) -> bool:
    """Whether the configuration file lists the user now."""
    return any(user.id == user_id for user in rt.settings.users)


def managed(user_id: str, what: str) -> Conflict:
    """Why the API does not change what the file says; `what` is to be done instead."""
    return Conflict(f"user {user_id} comes from the configuration file", code="user.in_configuration", hint=what)


def refuse_last_admin(rt: Runtime, tx: Tx, before: UserRow, after: UserRow) -> Invalid | None:
    """Why not, when this leaves nobody who can sign in as an administrator."""
    if not is_admin(rt, before) or is_admin(rt, after):
        return None
    if any(is_admin(rt, user) for user in identities.all_users(tx.conn) if user.id != before.id):
        return None
    return Invalid(
        f"{before.id} is the last active administrator", code="user.last_admin", hint="make another one first"
    )


def issue_initial(rt: Runtime, tx: Tx, user: UserRow, plaintext: str, *, actor: Principal, event: Event) -> TokenRow:
    """The token a person begins with: its ceiling is the roles they have now, and stays that."""
    token = identities.new_token(
        plaintext,
        subject_type="user",
        subject_id=user.id,
        kind="initial",
        name="initial",
        ceiling=[role.name for role in roles_of(rt, user)],
        now=rt.now(),
    )
    identities.add_token(tx, token)
    facts = {"issued_by": actor.subject, "issued_for": user.id, "scope_ceiling": token.ceiling}
    record(rt, tx, event, actor=actor, resource=("token", token.id), metadata=facts)
    return token
