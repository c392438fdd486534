"""People who come with a JWT of the identity provider: known from its claims, stored on first sight."""

from __future__ import annotations

import re
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
from dbward.services.journal import record
from dbward.settings.server_oidc import OidcSettings

SOURCE: Final = "oidc"
LOGIN_EVERY: Final = timedelta(hours=1)
"""How often the record says that somebody signed in."""

_SUBJECT = re.compile(r"[A-Za-z0-9_@.-]{1,128}")
_RESERVED = frozenset({SYSTEM.subject, "anonymous"})


def sign_in(rt: Runtime, bearer: str, *, address: Principal) -> tuple[Principal, datetime]:
    """Who holds this JWT, and until when it is accepted. `address` says where the call comes from.

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
    subject = str(claims["sub"])
    if _SUBJECT.fullmatch(subject) is None or subject in _RESERVED:
        raise Refused(
            "the identity provider's `sub` for you cannot be a user's id here",
            code="auth.invalid_subject",
            hint="up to 128 letters, digits, `-`, `_`, `@` and `.`; ask whoever runs the provider",
        )
    user = _known(rt, subject)
    if user.status != "active":
        raise BadToken("suspended")
    groups = sorted({*user.groups, *_groups(claims)})
    mapped = [m.role for m in settings.role_mappings if m.value in oidc.values_of(claims, m.claim)]
    found = roles.resolve([*user.roles, *mapped], groups, rt.settings.policy, None)
    if not found:
        raise Refused(
            "no role could be found for this user", code="auth.no_roles_resolved", hint="ask an administrator"
        )
    who = Principal(
        subject,
        "user",
        roles=found,
        groups=tuple(groups),
        peer_ip=address.peer_ip,
        client_ip=address.client_ip,
        client_ip_source=address.client_ip_source,
    )
    _note_login(rt, who, settings)
    return who, oidc.expires_at(claims, now)


def _groups(claims: dict[str, Any]) -> list[str]:
    """The groups of the claim that something could name; the others may be in role mappings all the same."""
    return [name for name in oidc.groups_of(claims) if _nameable(name)]


def _nameable(group: str) -> bool:
    try:
        parse_selector(f"{SelectorKind.GROUP}:{group}")
    except Invalid:
        return False
    return True


def _known(rt: Runtime, subject: str) -> UserRow:
    """The user of that id, made now if there was none."""
    with rt.store.read() as conn:
        user = identities.find_user(conn, subject)
    return user or rt.store.write(lambda tx: _create(rt, tx, subject))


def _create(rt: Runtime, tx: Tx, subject: str) -> UserRow:
    if (other := identities.find_user(tx.conn, subject)) is not None:
        return other  # two calls at once
    now = rt.now()
    row = UserRow(subject, [], [], "active", SOURCE, now, now)
    identities.save_user(tx, row)
    facts = {"roles": row.roles, "groups": row.groups, "source": row.source}
    record(rt, tx, Event.USER_CREATED, actor=SYSTEM, resource=("user", row.id), metadata=facts)
    return row


def _note_login(rt: Runtime, who: Principal, settings: OidcSettings) -> None:
    login = (Event.AUTH_LOGIN_SUCCESS, who.subject, stamp(rt.now() - LOGIN_EVERY))

    def work(tx: Tx) -> None:
        if not audit.happened(tx.conn, *login):
            facts = {"issuer": settings.issuer, "roles": who.role_names, "groups": who.groups}
            record(rt, tx, Event.AUTH_LOGIN_SUCCESS, actor=who, resource=("user", who.subject), metadata=facts)

    with rt.store.read() as conn:
        again = audit.happened(conn, *login)
    if not again:
        rt.store.write(work)
