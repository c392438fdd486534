"""Rows of agents: what each said of itself last, and when it was last heard of."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, insert, or_, select, update

from dbward.db.engine import Tx
from dbward.db.rows import AgentRow, read
from dbward.db.tables import agents, dialects
from dbward.domain.model import Dialect, Target


def find(conn: Connection, agent_id: str) -> AgentRow | None:
    row = conn.execute(select(agents).where(agents.c.id == agent_id)).mappings().first()
    return read(AgentRow, row) if row is not None else None


def named_like(conn: Connection, name: str) -> dict[str, AgentRow]:
    """Agents called `name`, or `name` with a hyphen and something after it, by their name."""
    query = select(agents).where(or_(agents.c.id == name, agents.c.id.startswith(f"{name}-", autoescape=True)))
    return {row["id"]: read(AgentRow, row) for row in conn.execute(query).mappings()}


def of_session(conn: Connection, session: str) -> AgentRow | None:
    row = conn.execute(select(agents).where(agents.c.session == session)).mappings().first()
    return read(AgentRow, row) if row is not None else None


def save(tx: Tx, row: AgentRow) -> None:
    values = {name: getattr(row, name) for name in row.__slots__}
    hit = tx.conn.execute(update(agents).where(agents.c.id == row.id).values(values))
    if hit.rowcount == 0:
        tx.conn.execute(insert(agents).values(values))


def seen(tx: Tx, session: str, now: datetime) -> None:
    tx.conn.execute(update(agents).where(agents.c.session == session).values(last_seen_at=now))


def all_agents(conn: Connection) -> list[AgentRow]:
    return [read(AgentRow, row) for row in conn.execute(select(agents).order_by(agents.c.id)).mappings()]


def forget(tx: Tx, unseen_since: datetime) -> None:
    """Delete agents that have not been heard of since then: replicas come and go."""
    tx.conn.execute(delete(agents).where(agents.c.last_seen_at < unseen_since))


def dialect_of(conn: Connection, target: Target) -> Dialect | None:
    """What the last agent that served the target said it is."""
    query = select(dialects.c.dialect).where(
        dialects.c.database == target.database, dialects.c.environment == target.environment
    )
    found = conn.execute(query).scalar()
    return Dialect(found) if found is not None else None


def set_dialect(tx: Tx, target: Target, dialect: Dialect, now: datetime) -> None:
    key = (dialects.c.database == target.database, dialects.c.environment == target.environment)
    hit = tx.conn.execute(update(dialects).where(*key).values(dialect=dialect, updated_at=now))
    if hit.rowcount == 0:
        tx.conn.execute(
            insert(dialects).values(
                database=target.database, environment=target.environment, dialect=dialect, updated_at=now
            )
        )
