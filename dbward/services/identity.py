"""Who is calling, and the tokens they call with."""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network

from sqlalchemy import Connection

from dbward import ids
from dbward.client.shapes import NewToken, TokenFilter
from dbward.db import identities
from dbward.db.engine import Tx
from dbward.db.rows import TokenRow, UserRow
from dbward.domain import rbac, roles
from dbward.domain.model import ANY, Event, Permission, Principal, Role, Target
from dbward.domain.names import parse_name
from dbward.errors import Conflict, DbwardError, Invalid, Missing, RateLimited, Refused, Unauthorized, Unavailable
from dbward.runtime import Runtime
from dbward.services import people
from dbward.services.journal import record, record_refusal
from dbward.services.views import View, check_time

_AUTHORIZATION_MAX = 256

SEEN_EVERY = timedelta(minutes=5)
"""How exact `last_seen_at` is."""

AGENT_ROLE = "agent-default"
_AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def authenticate(
    rt: Runtime,
    bearer: str | None,
    *,
    peer_ip: str | None,
    client_ip: str | None,
    source: str | None,
    finishing: bool = False,
) -> Principal:
    """The principal behind a bearer token. `finishing` also accepts an agent's token that has expired, not one that was
    revoked: for the calls that bring to its end what was begun with it.

    Raises `Unauthorized` with one text for every cause, so that nothing is learned about tokens; `RateLimited` instead
    after too many of them from one address; and `Refused` when the token is good but leaves no role.
    """
    address = Principal("anonymous", "user", peer_ip=peer_ip, client_ip=client_ip, client_ip_source=source)
    if bearer is None:
        raise _unauthorized()
    if not bearer.isascii() or not 12 <= len(bearer) <= _AUTHORIZATION_MAX:
        raise _failure(rt, address, "malformed")
    now = rt.now()
    digest = ids.token_hash(bearer)
    known = rt.tokens.get(digest, now)
    if known is None:
        generation = rt.tokens.generation
        row, cause = _look_up(rt, bearer, digest, now, finishing=finishing)
        if row is None:
            raise _failure(rt, address, cause)
        known = _principal(rt, row)
        rt.tokens.put(digest, known, row.expires_at, now, generation=generation)
    return replace(known, peer_ip=peer_ip, client_ip=client_ip, client_ip_source=source)


def still_valid(rt: Runtime, token_id: str) -> bool:
    """Whether the token would be accepted now: asked again before a waiting poll is handed work."""
    with rt.store.read() as conn:
        row = identities.find_token(conn, token_id)
        return row is not None and _usable(row, rt.now()) is None and _owner_active(conn, row)


def _look_up(rt: Runtime, bearer: str, digest: str, now: datetime, *, finishing: bool) -> tuple[TokenRow | None, str]:
    with rt.store.read() as conn:
        candidates = identities.tokens_by_prefix(conn, ids.token_prefix(bearer))
        found = None
        for row in candidates:  # all of them are compared, in constant time each
            if hmac.compare_digest(row.hash, digest):
                found = row
        if found is None:
            return None, "unknown"
        cause = _usable(found, now)
        if cause is not None and not (finishing and cause == "expired" and found.subject_type == "agent"):
            return None, cause
        if not _owner_active(conn, found):
            return None, "suspended"
    return found, ""


def _owner_active(conn: Connection, row: TokenRow) -> bool:
    """Whether whose token it is may sign in. Agents are not suspended: their tokens are revoked."""
    if row.subject_type == "agent":
        return True
    user = identities.find_user(conn, row.subject_id)
    return user is not None and user.status == "active"


def _usable(row: TokenRow, now: datetime) -> str | None:
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= now else None


def _principal(rt: Runtime, row: TokenRow) -> Principal:
    if row.subject_type == "agent":
        scopes = tuple(Target(d, e) for d, e in row.scopes) if row.scopes is not None else (Target(ANY, ANY),)
        agent_roles = roles.resolve([AGENT_ROLE], (), rt.settings.policy, None)
        return Principal(row.subject_id, "agent", roles=agent_roles, token_id=row.id, scopes=scopes)
    with rt.store.read() as conn:
        user = identities.find_user(conn, row.subject_id)
    assert user is not None
    resolved = people.roles_of(rt, user)
    if not resolved:
        raise Refused(
            "no role could be found for this user", code="auth.no_roles_resolved", hint="ask an administrator"
        )
    # A token of the configuration has no ceiling: its roles are written beside it.
    ceiling = row.ceiling if row.kind != "config" else [role.name for role in resolved]
    effective = tuple(role for role in resolved if role.name in (ceiling or ()))
    if not effective:
        raise Refused("the token's ceiling leaves no role", code="auth.insufficient_scope", hint="create a new token")
    _note_seen(rt, user)
    # A group decides and reads by its name alone, which no ceiling could lower: it counts only for a token that may do
    # all its owner may.
    groups = tuple(user.groups) if len(effective) == len(resolved) else ()
    return Principal(row.subject_id, "user", roles=effective, groups=groups, token_id=row.id)


def _note_seen(rt: Runtime, user: UserRow) -> None:
    """Not more often than `SEEN_EVERY`, and never in the way of signing in."""
    now = rt.now()
    since = now - SEEN_EVERY
    if user.last_seen_at is not None and user.last_seen_at >= since:
        return
    with suppress(Unavailable):
        rt.store.write(lambda tx: identities.seen(tx, user.id, now, unless_since=since))


def _unauthorized() -> Unauthorized:
    return Unauthorized(
        "the token is missing, unknown, expired or revoked",
        hint="send `Authorization: Bearer <token>` with a valid token",
    )


def _failure(rt: Runtime, address: Principal, cause: str) -> DbwardError:
    """What to raise for a failed sign-in, which is counted and, unless there are too many, on the record."""
    source = _network(address.client_ip)
    now = rt.now()
    if rt.tokens.worth_recording(source, now):
        rt.store.write(
            lambda tx: record(
                rt, tx, Event.AUTH_FAILURE, actor=address, denied=True, reason=cause, metadata={"failure_reason": cause}
            )
        )
    if rt.tokens.tolerated(source, now):
        return _unauthorized()
    return RateLimited(
        "too many sign-ins have failed from this address",
        code="auth.rate_limited",
        hint="stop whatever sends the bad token; a valid one is accepted all the time",
    )


def _network(address: str | None) -> str:
    """What failures are counted by. Whoever has one IPv6 address has its whole /64."""
    try:
        ip = ip_address(address or "")
    except ValueError:
        return ""
    return str(ip) if ip.version == 4 else str(ip_network((ip, 64), strict=False))


def me(who: Principal) -> View:
    """What `GET /api/me` says: the caller's roles after the token's ceiling."""
    return {
        "subject_id": who.subject,
        "subject_type": who.kind,
        "roles": [
            {
                "name": role.name,
                "permissions": permissions_of([role]),
                "databases": list(role.databases),
                "environments": list(role.environments),
            }
            for role in who.roles
        ],
        "groups": list(who.groups),
    }


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
        row = TokenRow(
            id=ids.new_id(),
            subject_type=body.subject_type,
            subject_id=body.subject_id,
            prefix=ids.token_prefix(plaintext),
            hash=ids.token_hash(plaintext),
            name=body.name,
            kind="issued",
            ceiling=_ceiling(who, body, for_agent=for_agent),
            scopes=scopes,
            expires_at=until,
            created_at=now,
            revoked_at=None,
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
        "effective_permissions": permissions_of(granted),
    }


def _roles_of(rt: Runtime, row: TokenRow) -> tuple[Role, ...]:
    """The roles the token gives now, whether or not it may still be used."""
    if row.subject_type == "agent":
        return roles.resolve([AGENT_ROLE], (), rt.settings.policy, None)
    with rt.store.read() as conn:
        user = identities.find_user(conn, row.subject_id)
    if user is None:
        return ()
    return tuple(role for role in people.roles_of(rt, user) if row.kind == "config" or role.name in (row.ceiling or ()))


def permissions_of(granted: Sequence[Role]) -> list[str]:
    """The permissions of these roles, `*` for all of them; whose things they reach is not said."""
    return sorted({str(g.permission) if g.permission else ANY for role in granted for g in role.grants})


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
        if asked not in (None, [AGENT_ROLE]):
            raise Invalid(f"an agent's ceiling is empty or `{AGENT_ROLE}`")
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
    if (refusal := rbac.refuse(who, Permission.TOKEN_LIST, target=None, owner=None)) is not None:
        raise refusal
    revoked = None if wanted.status is None else wanted.status == "revoked"
    with rt.store.read() as conn:
        rows = identities.find_tokens(
            conn, subject_id=wanted.subject_id, subject_type=wanted.subject_type, revoked=revoked
        )
    return {"tokens": [_token_view(row) for row in rows]}


def inspect_token(rt: Runtime, who: Principal, token_id: str) -> View:
    """What a token gives: one's own, or with `token.list` anybody's. Raises `Missing`, also for one that is hidden."""
    with rt.store.read() as conn:
        row = identities.find_token(conn, token_id)
    if row is None or not _visible(who, row):
        raise Missing(f"token {token_id}")
    granted = _roles_of(rt, row)
    return {
        **_token_view(row),
        "resolved_roles": [role.name for role in _roles_of(rt, replace(row, kind="config"))],
        "effective_roles": [role.name for role in granted],
        "effective_permissions": permissions_of(granted),
    }


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

    Raises `Missing`, also for a token that the caller may not even see, and `Refused`.
    """

    def work(tx: Tx) -> View | DbwardError:
        row = identities.find_token(tx.conn, token_id)
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
