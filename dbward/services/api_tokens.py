"""Tokens: made, listed, looked into, revoked. The text of one is in the answer to its creation and nowhere else."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime

from dbward import ids
from dbward.client.shapes import NewToken, TokenFilter
from dbward.db import identities
from dbward.db.engine import Connection, Tx
from dbward.db.rows import TokenRow
from dbward.domain import rbac, roles
from dbward.domain.model import ANY, Event, Permission, Principal, Role, Target
from dbward.domain.names import parse_name
from dbward.errors import Conflict, DbwardError, Invalid, Missing, Refused
from dbward.runtime import Runtime
from dbward.services import access, identity, people
from dbward.services.journal import record, record_refusal
from dbward.services.views import View, check_time

_AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def create_token(rt: Runtime, who: Principal, body: NewToken) -> View:
    """Make a token for oneself, or with `token.create_agent` for an agent. The plaintext is returned once.

    Raises `Refused`, `Invalid` (type, ceiling, scopes, expiry, too many), `Missing`.
    """
    if body.subject_type not in {"user", "agent"}:
        raise Invalid("subject_type must be `user` or `agent`")
    for_agent = body.subject_type == "agent"
    if for_agent and _AGENT_NAME.fullmatch(body.subject_id) is None:  # it becomes the first part of a node's name
        raise Invalid("an agent's subject_id has letters, digits, `.`, `_` and `-`, and begins with a letter or digit")
    needed = Permission.TOKEN_CREATE_AGENT if for_agent else Permission.TOKEN_CREATE
    now = rt.now()
    expires_at = check_time(body.expires_at, "expires_at")
    if expires_at is not None and expires_at <= now:
        raise Invalid("expires_at must be in the future")
    scopes = _scopes(body) if for_agent else None
    plaintext = ids.new_token()

    def work(tx: Tx) -> TokenRow | DbwardError:
        access.check_acting(tx, who)
        refusal = rbac.refuse(who, needed, target=None, owner=None)
        if refusal is None and not for_agent and body.subject_id != who.subject:
            refusal = Refused("a token for another person can only be made by that person")
        if refusal is not None:
            return record_refusal(rt, tx, refusal, actor=who, request=None, action="token.create")
        limit = rt.settings.max_active_tokens_per_user
        if limit and identities.count_active(tx.conn, body.subject_type, body.subject_id, now) >= limit:
            raise Invalid(f"{body.subject_id} has {limit} active tokens, the most allowed", hint="revoke one first")
        if for_agent and identities.find_user(tx.conn, body.subject_id) is not None:
            raise Conflict(
                f"a person is called {body.subject_id}", code="subject.taken", hint="name the agent otherwise"
            )
        until = expires_at if for_agent else _not_after(tx, who, expires_at)
        row = identities.new_token(
            plaintext,
            subject_type=body.subject_type,
            subject_id=body.subject_id,
            kind="issued",
            name=body.name,
            ceiling=_ceiling(who, body, for_agent=for_agent),
            now=now,
            scopes=scopes,
            expires_at=until,
        )
        identities.add_token(tx, row)
        facts = {"issued_by": who.subject, "issued_for": row.subject_id, "scope_ceiling": row.ceiling, "scopes": scopes}
        record(rt, tx, Event.TOKEN_CREATED, actor=who, resource=("token", row.id), metadata=facts)
        return row

    row = rt.store.write(work)
    if isinstance(row, DbwardError):
        raise row
    granted = _roles_of(rt, row)
    return {
        **_token_view(row),
        "token": plaintext,
        "prefix": row.prefix,
        "effective_roles": [role.name for role in granted],
        "effective_permissions": identity.permissions_of(granted),
    }


def _roles_of(rt: Runtime, row: TokenRow) -> tuple[Role, ...]:
    """The roles the token gives now, whether or not it may still be used."""
    if row.subject_type == "agent":
        return roles.resolve([identity.AGENT_ROLE], (), rt.settings.policy, None)
    with rt.store.read() as conn:
        user = identities.find_user(conn, row.subject_id)
    if user is None:
        return ()
    return tuple(role for role in people.roles_of(rt, user) if row.kind == "config" or role.name in (row.ceiling or ()))


def _not_after(tx: Tx, who: Principal, expires_at: datetime | None) -> datetime | None:
    """When a token made for oneself ends: never after the one it was made with, whose end would mean nothing else."""
    maker = identities.find_token(tx.conn, who.token_id or "")
    latest = maker.expires_at if maker is not None else None
    if latest is None or expires_at is None:
        return expires_at or latest
    if expires_at > latest:
        raise Invalid(
            "expires_at is later than that of the token in use", hint="make it with a token that lives longer"
        )
    return expires_at


def _ceiling(who: Principal, body: NewToken, *, for_agent: bool) -> list[str] | None:
    asked = body.scope_ceiling.roles if body.scope_ceiling is not None else None
    if for_agent:
        if asked not in (None, [identity.AGENT_ROLE]):
            raise Invalid(f"an agent's ceiling is empty or `{identity.AGENT_ROLE}`")
        return None
    if asked is None:
        return list(who.role_names)
    if not asked or not set(asked) <= set(who.role_names):
        raise Invalid("the ceiling must name some of your own roles", hint=f"yours: {', '.join(who.role_names)}")
    return list(asked)


def _scopes(body: NewToken) -> list[list[str]] | None:
    if body.scopes is None:
        return None
    if not body.scopes:
        raise Invalid("scopes is empty: such a token could serve nothing", hint="leave it out, or name the targets")
    return [
        [name if name == ANY else parse_name(name, what) for name, what in pair]
        for pair in (((s.database, "database"), (s.environment, "environment")) for s in body.scopes)
    ]


def list_tokens(rt: Runtime, who: Principal, wanted: TokenFilter) -> View:
    """Tokens without their text, expired ones among the active. Raises `Refused`."""
    access.check(who, Permission.TOKEN_LIST)
    revoked = None if wanted.status is None else wanted.status == "revoked"
    with rt.store.read() as conn:
        rows = identities.find_tokens(
            conn, subject_id=wanted.subject_id, subject_type=wanted.subject_type, revoked=revoked
        )
    return {"tokens": [_token_view(row) for row in rows]}


def inspect_token(rt: Runtime, who: Principal, token_id: str) -> View:
    """What a token gives: one's own, or with `token.list` anybody's; the id may be shortened.

    Raises `Missing`, also for one that is hidden, and `Conflict` (`token.ambiguous`).
    """
    with rt.store.read() as conn:
        row = _find(conn, who, token_id)
    if row is None or not _visible(who, row):
        raise Missing(f"token {token_id}")
    granted = _roles_of(rt, row)
    return {
        **_token_view(row),
        "resolved_roles": [role.name for role in _roles_of(rt, replace(row, kind="config"))],
        "effective_roles": [role.name for role in granted],
        "effective_permissions": identity.permissions_of(granted),
    }


def _find(conn: Connection, who: Principal, asked: str) -> TokenRow | None:
    """The token of an id, or of its first characters when only one that the caller may look at begins so.

    Raises `Conflict` (`token.ambiguous`).
    """
    if (row := identities.find_token(conn, asked)) is not None:
        return row
    everybodys = rbac.allowed(who, Permission.TOKEN_LIST, None)
    found = identities.tokens_beginning(conn, asked, of=None if everybodys else (who.kind, who.subject))
    if len(found) > 1:
        raise Conflict(f"more than one token starts with {asked}", code="token.ambiguous", hint="give more of the id")
    return found[0] if found else None


def _visible(who: Principal, row: TokenRow) -> bool:
    return _owns(who, row) or rbac.allowed(who, Permission.TOKEN_LIST, None)


def _owns(who: Principal, row: TokenRow) -> bool:
    return (row.subject_type, row.subject_id) == (who.kind, who.subject)


def _token_view(row: TokenRow) -> View:
    return {
        "id": row.id,
        "subject_type": row.subject_type,
        "subject_id": row.subject_id,
        "token_prefix": row.prefix,
        "scope_ceiling": {"roles": row.ceiling} if row.ceiling is not None else None,
        "scopes": [{"database": d, "environment": e} for d, e in row.scopes] if row.scopes is not None else None,
        "name": row.name,
        "kind": row.kind,
        "status": "revoked" if row.revoked_at is not None else "active",
        "expires_at": row.expires_at,
        "created_at": row.created_at,
        "revoked_at": row.revoked_at,
    }


def revoke_token(rt: Runtime, who: Principal, token_id: str) -> View:
    """Revoke one's own token, or with `token.revoke:any` anybody's. Repeatable; the polls held with it end at once.

    Raises `Missing`, also for a token that the caller may not even see, `Conflict` (`token.ambiguous`), and `Refused`.
    """

    def work(tx: Tx) -> View | DbwardError:
        row = _find(tx.conn, who, token_id)
        if row is None:
            raise Missing(f"token {token_id}")
        # Anybody's means of every database: a role of some databases says nothing about other people.
        refusal = rbac.refuse(
            who, Permission.TOKEN_REVOKE, target=None if _owns(who, row) else Target(ANY, ANY), owner=_owner(who, row)
        )
        if refusal is not None:
            record_refusal(rt, tx, refusal, actor=who, request=None, action="token.revoke", resource=("token", row.id))
            return refusal if _visible(who, row) else Missing(f"token {token_id}")
        now = row.revoked_at or rt.now()
        if row.revoked_at is None:
            identities.revoke(tx, row.id, now)
            facts = {"subject_type": row.subject_type, "subject_id": row.subject_id}
            record(rt, tx, Event.TOKEN_REVOKED, actor=who, resource=("token", row.id), metadata=facts)
        return {"id": row.id, "revoked_at": now}

    outcome = rt.store.write(work)
    if isinstance(outcome, DbwardError):
        raise outcome
    return outcome


def _owner(who: Principal, row: TokenRow) -> str:
    """Whose the token is, as it is told apart from the caller: an agent is never a person of its name."""
    return who.subject if _owns(who, row) else f"{row.subject_type}:{row.subject_id}"
