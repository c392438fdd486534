"""Rows of users and tokens."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, Connection, delete, func, insert, or_, select, update

from dbward.db.engine import Tx
from dbward.db.rows import TokenRow, UserRow, read
from dbward.db.tables import tokens, users


def find_user(conn: Connection, user_id: str) -> UserRow | None:
    row = conn.execute(select(users).where(users.c.id == user_id)).mappings().first()
    return read(UserRow, row) if row is not None else None


def save_user(tx: Tx, row: UserRow) -> bool:
    """Insert or replace; True when the user is new."""
    values = {name: getattr(row, name) for name in row.__slots__}
    kept = {name: value for name, value in values.items() if name not in {"id", "created_at"}}
    hit = tx.conn.execute(update(users).where(users.c.id == row.id).values(kept))
    if hit.rowcount:
        return False
    tx.conn.execute(insert(users).values(values))
    return True


def users_from(conn: Connection, source: str) -> list[UserRow]:
    query = select(users).where(users.c.source == source).order_by(users.c.id)
    return [read(UserRow, row) for row in conn.execute(query).mappings()]


def add_token(tx: Tx, row: TokenRow) -> None:
    tx.conn.execute(insert(tokens).values({name: getattr(row, name) for name in row.__slots__}))


def tokens_by_prefix(conn: Connection, prefix: str) -> list[TokenRow]:
    rows = conn.execute(select(tokens).where(tokens.c.prefix == prefix)).mappings()
    return [read(TokenRow, row) for row in rows]


def find_token(conn: Connection, token_id: str) -> TokenRow | None:
    row = conn.execute(select(tokens).where(tokens.c.id == token_id)).mappings().first()
    return read(TokenRow, row) if row is not None else None


def token_by_hash(conn: Connection, token_hash: str) -> TokenRow | None:
    row = conn.execute(select(tokens).where(tokens.c.hash == token_hash)).mappings().first()
    return read(TokenRow, row) if row is not None else None


def all_tokens(conn: Connection) -> list[TokenRow]:
    return [read(TokenRow, row) for row in conn.execute(select(tokens).order_by(tokens.c.created_at)).mappings()]


def active_of_kind(conn: Connection, kind: str) -> list[TokenRow]:
    query = select(tokens).where(tokens.c.kind == kind, tokens.c.revoked_at.is_(None))
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
    tx.conn.execute(update(tokens).where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None)).values(revoked_at=now))


def remove_dead(tx: Tx, before: datetime) -> None:
    """Delete issued tokens that were revoked, or expired, before then.

    The others stay: a revoked token of the configuration must not come alive again when it is read the next time.
    """
    dead = or_(tokens.c.revoked_at < before, tokens.c.expires_at < before)
    tx.conn.execute(delete(tokens).where(tokens.c.kind == "issued", dead))


def revoke_issued(tx: Tx, subject_id: str, now: datetime) -> list[str]:
    """Revoke the tokens a person made for themselves; their ids."""
    theirs = (
        tokens.c.subject_type == "user",
        tokens.c.subject_id == subject_id,
        tokens.c.kind == "issued",
        tokens.c.revoked_at.is_(None),
    )
    found = list(tx.conn.execute(select(tokens.c.id).where(*theirs)).scalars())
    tx.conn.execute(update(tokens).where(*theirs).values(revoked_at=now))
    return found
