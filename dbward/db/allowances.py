"""Rows of what each server process has counted in a minute, for the others to add up."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, delete, func, insert, select

from dbward.db.engine import Tx
from dbward.db.tables import allowances


def put(tx: Tx, process: str, minute: int, counts: Mapping[str, int]) -> None:
    """Replace what the process said of these names in this minute."""
    mine = (allowances.c.minute == minute, allowances.c.process == process, allowances.c.name.in_(counts))
    tx.conn.execute(delete(allowances).where(*mine))
    rows = [{"minute": minute, "process": process, "name": name, "count": count} for name, count in counts.items()]
    tx.conn.execute(insert(allowances), rows)


def of_others(conn: Connection, process: str, minute: int, names: Mapping[str, int]) -> dict[str, int]:
    """What all other processes counted of these names, added up; those nobody else knows are left out."""
    query = (
        select(allowances.c.name, func.sum(allowances.c.count))
        .where(allowances.c.minute == minute, allowances.c.process != process, allowances.c.name.in_(names))
        .group_by(allowances.c.name)
    )
    return {name: int(count) for name, count in conn.execute(query).all()}


def forget(tx: Tx, before: int) -> None:
    """Delete the counts of the minutes before this one."""
    tx.conn.execute(delete(allowances).where(allowances.c.minute < before))
