"""Whether people get in: suspended, let in again, deleted, given a first token anew. Each is one transaction."""

from __future__ import annotations

from dataclasses import replace

from dbward import ids
from dbward.db import identities
from dbward.db.engine import Tx
from dbward.db.rows import UserRow
from dbward.domain.model import SYSTEM, Event, Permission, Principal
from dbward.errors import Conflict, DbwardError, Invalid
from dbward.runtime import Runtime
from dbward.services import access, people
from dbward.services.dispatch import check_reason
from dbward.services.journal import record
from dbward.services.views import View

_ALL_KINDS = (*people.OWN_TOKENS, "bootstrap")
"""Not those of the configuration: a start would refuse a file whose token is revoked. Their owner cannot use them."""


def suspend_user(rt: Runtime, who: Principal, user_id: str, reason: str | None) -> View:
    """Shut a person out at once: tokens revoked, open requests cancelled, waiting calls ended, in one transaction.

    Repeatable. Raises `Refused`, `Missing`, `Gone`, `Invalid` (the last admin).
    """
    access.require(rt, who, (Permission.USER_WRITE,), action="user.suspend")
    asked = people.Asked(rt, who, user_id, "user.suspend")
    why = _why("suspended", who, reason)

    def change(tx: Tx, before: UserRow) -> View | DbwardError:
        by_person = before.status == "suspended" and before.suspended_by not in (None, SYSTEM.subject)
        after = before
        if not by_person:
            after = replace(before, status="suspended", suspended_by=who.subject, updated_at=rt.now())
        if (refusal := people.refuse_last_admin(rt, tx, before, after)) is not None:
            return asked.refuse(tx, refusal)
        people.save(rt, tx, after, before, actor=who, reason=why)
        ended = people.shut_out(rt, tx, user_id, kinds=_ALL_KINDS, actor=who, reason=why)
        view: View = {
            "id": user_id,
            "revoked_tokens": len(ended.tokens),
            "cancelled_requests": ended.requests,
            "source": before.source,
        }
        if before.source == "config":
            view["warning"] = (
                "the user stays in the configuration file, and the token written there works again once they are "
                "activated: replace it if it is why they are suspended"
            )
        return view

    return people.apply(asked, change)


def activate_user(rt: Runtime, who: Principal, user_id: str) -> View:
    """Let a suspended person in again. Their tokens stay revoked. Repeatable.

    Raises `Refused`, `Missing`, `Gone`, `Conflict` (no longer in the configuration).
    """
    access.require(rt, who, (Permission.USER_WRITE,), action="user.activate")
    asked = people.Asked(rt, who, user_id, "user.activate")

    def change(tx: Tx, before: UserRow) -> View | DbwardError:
        if before.source == "config" and not people.configured(rt, user_id):
            return asked.refuse(tx, people.managed(user_id, "they are not in it any more: put them back there"))
        if before.status != "active":
            after = replace(before, status="active", suspended_by=None, updated_at=rt.now())
            people.save(rt, tx, after, before, actor=who)
        view: View = {"id": user_id, "source": before.source}
        if before.source == "config":
            view["warning"] = "the token in the configuration file works again; those made with it stay revoked"
        elif before.status != "active":
            view["warning"] = "their tokens stay revoked: reissue the initial token"
        return view

    return people.apply(asked, change)


def delete_user(rt: Runtime, who: Principal, user_id: str, reason: str | None) -> View:
    """Shut a person out for good. The id stays taken, so that the record never means somebody else by it.

    Raises `Refused`, `Missing`, `Gone`, `Invalid` (the last admin), `Conflict` (the configuration has the say).
    """
    access.require(rt, who, (Permission.USER_WRITE,), action="user.delete")
    asked = people.Asked(rt, who, user_id, "user.delete")
    why = _why("deleted", who, reason)

    def change(tx: Tx, before: UserRow) -> View | DbwardError:
        if before.source == "config" and people.configured(rt, user_id):
            return asked.refuse(tx, people.managed(user_id, "take them out of [[auth.users]] there, or suspend them"))
        now = rt.now()
        after = UserRow(
            id=user_id,
            roles=[],
            groups=[],
            status="suspended",
            source=before.source,
            created_at=before.created_at,
            updated_at=now,
            last_seen_at=before.last_seen_at,
            suspended_by=who.subject,
            deleted_at=now,
        )
        if (refusal := people.refuse_last_admin(rt, tx, before, after)) is not None:
            return asked.refuse(tx, refusal)
        people.save(rt, tx, after, before, actor=who, reason=why)
        people.shut_out(rt, tx, user_id, kinds=_ALL_KINDS, actor=who, reason=why)
        return {"id": user_id, "deleted": True}

    return people.apply(asked, change)


def reissue_initial_token(rt: Runtime, who: Principal, user_id: str) -> View:
    """A new first token in place of the old, for whoever lost or never got it. Its text is returned once.

    Whoever holds it is that person: the record says who made it. Raises `Refused`, `Missing`, `Gone`, `Conflict`
    (suspended), `Invalid` (no roles).
    """
    access.require(rt, who, (Permission.TOKEN_REISSUE,), action="token.reissue")
    asked = people.Asked(rt, who, user_id, "token.reissue")
    plaintext = ids.new_token()

    def change(tx: Tx, before: UserRow) -> View | DbwardError:
        if before.status != "active":
            return asked.refuse(
                tx, Conflict(f"user {user_id} is suspended", code="user.suspended", hint="activate them first")
            )
        if not people.roles_of(rt, before):
            raise Invalid(f"user {user_id} has no role", code="user.no_roles", hint="give them one first")
        now = rt.now()
        old = identities.revoke_of_user(tx, user_id, now, ("initial",))
        for token_id in old:
            record(rt, tx, Event.TOKEN_REVOKED, actor=who, resource=("token", token_id), reason="reissued")
        token = people.issue_initial(rt, tx, before, plaintext, actor=who, event=Event.TOKEN_REISSUED_INITIAL)
        return {
            "reissued_token_id": token.id,
            "reissued_at": now,
            "revoked_old_token_id": old[-1] if old else None,
            "delivery_status": "not_configured",
            "delivery_channel": None,
            "token": plaintext,
            "manual_recovery_required": False,
        }

    return people.apply(asked, change)


def _why(done: str, who: Principal, reason: str | None) -> str:
    """What the record of each consequence says."""
    said = check_reason(reason)
    return f"{done} by {who.subject}" if said is None else f"{done} by {who.subject}: {said}"
