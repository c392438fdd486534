"""The first questions: is the permission held at all, and may the caller still act? Whose thing it is comes later."""

from __future__ import annotations

from dbward.db import identities
from dbward.db.engine import Tx
from dbward.domain import rbac
from dbward.domain.model import Permission, Principal
from dbward.errors import Refused, Unauthorized
from dbward.runtime import Runtime
from dbward.services.journal import record_refusal


def check(who: Principal, *needs: Permission) -> None:
    """Raise `Refused` unless one of `needs` is held in some role, whatever its scope."""
    if not any(rbac.allowed(who, permission, None) for permission in needs):
        raise Refused(f"this needs the permission {' or '.join(needs)}", hint="ask for a role that grants it")


def require(rt: Runtime, who: Principal, needs: tuple[Permission, ...], *, action: str) -> None:
    """As `check`, for what changes something: a refusal goes on the record, where `action` names what was asked for."""
    try:
        check(who, *needs)
    except Refused as e:
        refusal = e
        rt.store.write(lambda tx: record_refusal(rt, tx, refusal, actor=who, request=None, action=action))
        raise


def check_acting(tx: Tx, who: Principal) -> None:
    """Raise `Unauthorized` when a person was shut out after their call was let in: the first thing in its transaction.

    So nothing is made, decided or run by somebody whose suspension has been committed, and nothing that the suspension
    would have ended is begun behind its back.
    """
    if who.kind != "user":
        return
    user = identities.find_user(tx.conn, who.subject)
    token = identities.find_token(tx.conn, who.token_id) if who.token_id is not None else None
    if user is None or user.status != "active" or (token is not None and token.revoked_at is not None):
        raise Unauthorized("the token is missing, unknown, expired or revoked")
