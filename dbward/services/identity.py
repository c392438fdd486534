"""Who is calling, and the tokens they call with."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network

from dbward import ids
from dbward.db import identities
from dbward.db.engine import Connection
from dbward.db.rows import TokenRow, UserRow
from dbward.domain import roles
from dbward.domain.model import ANY, Event, Principal, Role, Target
from dbward.errors import DbwardError, RateLimited, Refused, Unauthorized, Unavailable
from dbward.identity import oidc
from dbward.runtime import Runtime
from dbward.services import people, sso
from dbward.services.journal import record
from dbward.services.views import View

_AUTHORIZATION_MAX = 256

SEEN_EVERY = timedelta(minutes=5)
"""How exact `last_seen_at` is."""

AGENT_ROLE = "agent-default"


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
        rt.metrics.auth_failures.labels("missing").inc()
        raise _unauthorized()
    from_provider = oidc.is_jwt(bearer)
    longest = oidc.MAX_LENGTH if from_provider else _AUTHORIZATION_MAX
    if not bearer.isascii() or not 12 <= len(bearer) <= longest:
        raise _failure(rt, address, "malformed", bearer)
    now = rt.now()
    digest = ids.token_hash(bearer)
    known = rt.tokens.get(digest, now, under=rt.settings)
    if known is None:
        generation = rt.tokens.generation
        expires_at: datetime | None
        if from_provider:
            known, expires_at = _sign_in(rt, bearer, address)
        else:
            row, cause = _look_up(rt, bearer, digest, now, finishing=finishing)
            if row is None:
                raise _failure(rt, address, cause, bearer)
            known, expires_at = _principal(rt, row), row.expires_at
        rt.tokens.put(digest, known, expires_at, now, generation=generation, under=rt.settings)
    return replace(known, peer_ip=peer_ip, client_ip=client_ip, client_ip_source=source)


def _sign_in(rt: Runtime, bearer: str, address: Principal) -> tuple[Principal, datetime]:
    """`sso.sign_in`, with what it refuses put on the record."""
    try:
        found = sso.sign_in(rt, bearer, address=address)
    except oidc.BadToken as e:
        raise _failure(rt, address, e.cause, bearer) from None
    except Refused as e:
        _record_failure(rt, address, e.code)
        raise
    _note_seen(rt, found.user)
    return found.principal, found.expires_at


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


def _unauthorized(bearer: str = "") -> Unauthorized:
    """The hint goes by what the token looks like, never by what is wrong with it."""
    hint = "send `Authorization: Bearer <token>` with a valid token"
    if oidc.is_jwt(bearer):
        hint = (
            "sign in again with `dbward login`: it must be a token of the server's identity provider, for this server"
        )
    elif bearer and not bearer.startswith(ids.TOKEN_PREFIX):
        hint = (
            "this is neither a dbward token (`dbw_…`) nor a JWT; an opaque access token does not say who holds it, "
            "so send the provider's ID token"
        )
    return Unauthorized("the token is missing, unknown, expired or revoked", hint=hint)


def _failure(rt: Runtime, address: Principal, cause: str, bearer: str) -> DbwardError:
    """What to raise for a failed sign-in, which is counted and, unless there are too many, on the record."""
    _record_failure(rt, address, cause)
    most = rt.settings.limits.failed_sign_ins_per_minute
    taken = rt.allowances.take(f"sign_ins:{_network(address.client_ip)}", most, rt.now())
    if taken.ok:
        return _unauthorized(bearer)
    rt.metrics.limited("sign_ins")
    return RateLimited(
        "too many sign-ins have failed from this address",
        code="auth.rate_limited",
        hint="stop whatever sends the bad token; a valid one is accepted all the time",
        retry_after=taken.reset_secs,
    )


def _record_failure(rt: Runtime, address: Principal, cause: str) -> None:
    rt.metrics.auth_failures.labels(cause).inc()
    if rt.tokens.worth_recording(_network(address.client_ip), rt.now()):
        rt.store.write(
            lambda tx: record(
                rt, tx, Event.AUTH_FAILURE, actor=address, denied=True, reason=cause, metadata={"failure_reason": cause}
            )
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


def permissions_of(granted: Sequence[Role]) -> list[str]:
    """The permissions of these roles, `*` for all of them; whose things they reach is not said."""
    return sorted({str(g.permission) if g.permission else ANY for role in granted for g in role.grants})
