"""People who come with a JWT of the identity provider: known from its claims, stored on first sight."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from dbward.db import audit, identities
from dbward.db.engine import Tx
from dbward.db.rows import UserRow
from dbward.domain import roles
from dbward.domain.audit import stamp
from dbward.domain.model import SYSTEM, Event, Principal, SelectorKind
from dbward.domain.names import parse_selector
from dbward.errors import Invalid, Refused
from dbward.identity import oidc
from dbward.identity.oidc import BadToken
from dbward.identity.web import ProviderDown
from dbward.runtime import Runtime
from dbward.services import people
from dbward.services.journal import record

SOURCE: Final = "oidc"
LOGIN_EVERY: Final = timedelta(hours=1)
"""How often the record says that somebody signed in."""

_SUBJECT = re.compile(r"[A-Za-z0-9_@.-]{1,128}")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """`expires_at` is until when the JWT is accepted."""

    principal: Principal
    user: UserRow
    expires_at: datetime


def sign_in(rt: Runtime, bearer: str, *, address: Principal) -> SignedIn:
    """Who holds this JWT. `address` says where the call comes from.

    Raises `BadToken` for one that proves nothing or is of somebody who may not sign in, `Refused` for a subject that
    cannot be a user's id or has no role, `ProviderDown` when the token cannot be checked now.
    """
    settings, keys, now = rt.settings.oidc, rt.provider_keys, rt.now()
    if settings is None or keys is None:
        raise BadToken("sso_not_configured")
    try:
        claims = oidc.verify(keys, bearer, issuer=settings.issuer, audience=settings.audience, now=now)
    except ProviderDown:
        raise ProviderDown("cannot be asked for its keys") from None  # why stands in the log
    user = _known(rt, str(claims["sub"]), claims)
    if user.status != "active":  # which nobody is who was deleted
        raise BadToken("suspended")
    groups = sorted({*user.groups, *_groups(claims)})
    mapped = [m.role for m in settings.role_mappings if m.value in oidc.values_of(claims, m.claim)]
    found = roles.resolve([*user.roles, *mapped], groups, rt.settings.policy, None)
    if not found:
        raise Refused(
            "no role could be found for this user", code="auth.no_roles_resolved", hint="ask an administrator"
        )
    who = replace(address, subject=user.id, roles=found, groups=tuple(groups))
    _note_login(rt, who, settings.issuer)
    return SignedIn(who, user, oidc.expires_at(claims, now))


def _groups(claims: dict[str, Any]) -> list[str]:
    """The groups of the claim that something could name; the others may be in role mappings all the same."""
    return [name for name in oidc.groups_of(claims) if _nameable(name)]


def _nameable(group: str) -> bool:
    try:
        parse_selector(f"{SelectorKind.GROUP}:{group}")
    except Invalid:
        return False
    return True


def _known(rt: Runtime, subject: str, claims: dict[str, Any]) -> UserRow:
    """The user of that id: made now if there was none, and told apart from the claims only where something is missing.

    So what an administrator has changed stays as it is, whatever the provider says.
    """
    if _SUBJECT.fullmatch(subject) is None or subject in people.RESERVED:
        raise _unusable()
    with rt.store.read() as conn:
        user = identities.find_user(conn, subject)
    if user is not None and _completed(user, claims) == user:
        return user
    return people.outcome(rt.store.write(lambda tx: _save(rt, tx, subject, claims)))


def _save(rt: Runtime, tx: Tx, subject: str, claims: dict[str, Any]) -> UserRow | Refused:
    before = identities.find_user(tx.conn, subject)
    now = rt.now()
    if before is None:
        if identities.is_agent(tx.conn, subject):
            return _unusable()  # in the log nobody could tell the two apart
        row = _completed(UserRow(subject, [], [], "active", SOURCE, now, now), claims)
    else:
        row = _completed(before, claims)
    people.save(rt, tx, row, before, actor=SYSTEM)
    return row


def _completed(user: UserRow, claims: dict[str, Any]) -> UserRow:
    """The user with name and address from the claims, where the user came from there and has none."""
    if user.source != SOURCE or user.status != "active":
        return user
    return replace(
        user,
        display_name=user.display_name or _text(claims.get("name"), 200),
        email=user.email or _text(claims.get("email"), 320),
    )


def _text(value: object, most: int) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= most and value.isprintable() else None


def _unusable() -> Refused:
    return Refused(
        "the identity provider's `sub` for you cannot be a user's id here",
        code="auth.invalid_subject",
        hint="up to 128 letters, digits, `-`, `_`, `@` and `.`, and no agent's name; ask whoever runs the provider",
    )


def _note_login(rt: Runtime, who: Principal, issuer: str) -> None:
    login = (Event.AUTH_LOGIN_SUCCESS, who.subject, stamp(rt.now() - LOGIN_EVERY))

    def work(tx: Tx) -> None:
        if not audit.happened(tx.conn, *login):
            facts = {"issuer": issuer, "roles": who.role_names, "groups": who.groups}
            record(rt, tx, Event.AUTH_LOGIN_SUCCESS, actor=who, resource=("user", who.subject), metadata=facts)

    with rt.store.read() as conn:
        again = audit.happened(conn, *login)
    if not again:
        rt.store.write(work)
