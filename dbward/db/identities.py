"""Rows of users and tokens. Whoever remembers them is told of every change: see `CHANGED`."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Connection, delete, func, insert, or_, select, update

from dbward import ids
from dbward.db.engine import Tx
from dbward.db.rows import TokenRow, UserRow, read
from dbward.db.shortids import begins
from dbward.db.tables import agents, tokens, users

CHANGED: Final = "identities"
"""The wake-up channel that says: a user or a token is not what it was."""


def find_user(conn: Connection, user_id: str) -> UserRow | None:
    row = conn.execute(select(users).where(users.c.id == user_id)).mappings().first()
    return read(UserRow, row) if row is not None else None


def save_user(tx: Tx, row: UserRow) -> bool:
    """Insert or replace; True when the user is new. Calls of theirs that wait are authenticated again."""
    values = {name: getattr(row, name) for name in row.__slots__}
    kept = {name: value for name, value in values.items() if name not in {"id", "created_at"}}
    tx.wake(CHANGED, f"user:{row.id}")
    hit = tx.conn.execute(update(users).where(users.c.id == row.id).values(kept))
    if hit.rowcount:
        return False
    tx.conn.execute(insert(users).values(values))
    return True


def users_from(conn: Connection, source: str) -> list[UserRow]:
    query = select(users).where(users.c.source == source).order_by(users.c.id)
    return [read(UserRow, row) for row in conn.execute(query).mappings()]


def all_users(conn: Connection) -> list[UserRow]:
    """Everybody who is not deleted, newest first."""
    query = select(users).where(users.c.deleted_at.is_(None)).order_by(users.c.created_at.desc(), users.c.id)
    return [read(UserRow, row) for row in conn.execute(query).mappings()]


def slack_user(conn: Connection, slack_user_id: str) -> str | None:
    """The id of the user this Slack id belongs to."""
    return conn.execute(select(users.c.id).where(users.c.slack_user_id == slack_user_id)).scalar()


def seen(tx: Tx, user_id: str, now: datetime, *, unless_since: datetime) -> None:
    """Note that the user is here, unless that was noted after `unless_since`."""
    due = or_(users.c.last_seen_at.is_(None), users.c.last_seen_at < unless_since)
    tx.conn.execute(update(users).where(users.c.id == user_id, due).values(last_seen_at=now))


def is_agent(conn: Connection, subject_id: str) -> bool:
    """Whether an agent goes by this name: it has a token, even a dead one, or has reported itself."""
    has_token = select(tokens.c.id).where(tokens.c.subject_type == "agent", tokens.c.subject_id == subject_id)
    reported = select(agents.c.id).where(agents.c.subject_id == subject_id)
    return conn.execute(select(or_(has_token.exists(), reported.exists()))).scalar_one()


def new_token(
    plaintext: str,
    *,
    subject_type: str,
    subject_id: str,
    kind: str,
    name: str | None,
    ceiling: list[str] | None,
    now: datetime,
    scopes: list[list[str]] | None = None,
    expires_at: datetime | None = None,
) -> TokenRow:
    """The row of a token made now; `add_token` stores it."""
    return TokenRow(
        id=ids.new_id(),
        subject_type=subject_type,
        subject_id=subject_id,
        prefix=ids.token_prefix(plaintext),
        hash=ids.token_hash(plaintext),
        name=name,
        kind=kind,
        ceiling=ceiling,
        scopes=scopes,
        expires_at=expires_at,
        created_at=now,
        revoked_at=None,
    )


def add_token(tx: Tx, row: TokenRow) -> None:
    tx.conn.execute(insert(tokens).values({name: getattr(row, name) for name in row.__slots__}))


def tokens_by_prefix(conn: Connection, prefix: str) -> list[TokenRow]:
    rows = conn.execute(select(tokens).where(tokens.c.prefix == prefix)).mappings()
    return [read(TokenRow, row) for row in rows]


def find_token(conn: Connection, token_id: str) -> TokenRow | None:
    row = conn.execute(select(tokens).where(tokens.c.id == token_id)).mappings().first()
    return read(TokenRow, row) if row is not None else None


def tokens_beginning(conn: Connection, text: str, *, of: tuple[str, str] | None) -> list[TokenRow]:
    """At most two tokens whose id begins with `text`; `of`, a type and an id, narrows to those of one subject."""
    query = select(tokens).where(begins(tokens.c.id, text)).limit(2)
    if of is not None:
        query = query.where(tokens.c.subject_type == of[0], tokens.c.subject_id == of[1])
    return [read(TokenRow, row) for row in conn.execute(query).mappings()]


def token_by_hash(conn: Connection, token_hash: str) -> TokenRow | None:
    row = conn.execute(select(tokens).where(tokens.c.hash == token_hash)).mappings().first()
    return read(TokenRow, row) if row is not None else None


def find_tokens(
    conn: Connection, *, subject_id: str | None, subject_type: str | None, revoked: bool | None
) -> list[TokenRow]:
    """Tokens, oldest first; None does not narrow."""
    query = select(tokens).order_by(tokens.c.created_at, tokens.c.id)
    if subject_id is not None:
        query = query.where(tokens.c.subject_id == subject_id)
    if subject_type is not None:
        query = query.where(tokens.c.subject_type == subject_type)
    if revoked is not None:
        query = query.where(tokens.c.revoked_at.is_not(None) if revoked else tokens.c.revoked_at.is_(None))
    return [read(TokenRow, row) for row in conn.execute(query).mappings()]


def of_kind(conn: Connection, kind: str) -> list[TokenRow]:
    """Revoked ones included."""
    query = select(tokens).where(tokens.c.kind == kind).order_by(tokens.c.created_at, tokens.c.id)
    return [read(TokenRow, row) for row in conn.execute(query).mappings()]


def count_active(conn: Connection, subject_type: str, subject_id: str, now: datetime) -> int:
    """Tokens of the subject that would be accepted at `now`."""
    query = select(func.count()).where(
        tokens.c.subject_type == subject_type, tokens.c.subject_id == subject_id, *_usable(now)
    )
    return conn.execute(query).scalar_one()


def _usable(now: datetime) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return tokens.c.revoked_at.is_(None), or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > now)


def revoke(tx: Tx, token_id: str, now: datetime) -> None:
    """Polls held with it end at once."""
    tx.conn.execute(update(tokens).where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None)).values(revoked_at=now))
    tx.wake(CHANGED, f"token:{token_id}")


def revoke_of_user(tx: Tx, user_id: str, now: datetime, kinds: Collection[str]) -> list[str]:
    """Revoke a person's tokens of these kinds; their ids. Polls held with any token of theirs end."""
    theirs = (tokens.c.subject_type == "user", tokens.c.subject_id == user_id, tokens.c.revoked_at.is_(None))
    found = tx.conn.execute(select(tokens.c.id, tokens.c.kind).where(*theirs).order_by(tokens.c.created_at)).all()
    tx.wake(CHANGED, *(f"token:{token_id}" for token_id, _ in found))
    revoked = [token_id for token_id, kind in found if kind in kinds]
    tx.conn.execute(update(tokens).where(tokens.c.id.in_(revoked)).values(revoked_at=now))
    return revoked


def remove_dead(tx: Tx, before: datetime) -> None:
    """Delete issued tokens that were revoked, or expired, before then.

    The others stay: a revoked token of the configuration must not come alive again when it is read the next time.
    """
    dead = or_(tokens.c.revoked_at < before, tokens.c.expires_at < before)
    tx.conn.execute(delete(tokens).where(tokens.c.kind.in_(("issued", "initial")), dead))
