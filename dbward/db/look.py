"""What a state database is, found out without changing it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from dbward.db import connect, revisions
from dbward.db.migrations import script_config
from dbward.settings.server import StateSettings


@dataclass(frozen=True, slots=True)
class Found:
    """`revision` of its tables, None when there are none, and the `newest` that this version knows. It works on them
    also when they are not `known` to it.

    `clock`: what time it is on the database's machine, None on SQLite.
    """

    revision: str | None
    known: bool
    newest: str
    clock: datetime | None


def look(settings: StateSettings) -> Found | None:
    """None when the SQLite file is not there yet. No server may have it open.

    Raises `Misconfigured` when this version does not work on what is in it, or it cannot be opened, and `Unavailable`
    when PostgreSQL cannot be reached.
    """
    url = connect.parse_url(settings)
    file = connect.sqlite_path(url) if url.get_backend_name() == "sqlite" else None
    if file is not None and not file.exists():
        return None
    scripts = ScriptDirectory.from_config(script_config(revisions.SCHEMA))
    engine = connect.reader_engine(settings)
    try:
        with engine.connect() as conn, conn.begin():
            revision, known = revisions.check(conn, scripts)
            clock = conn.execute(text("SELECT now()")).scalar_one() if file is None else None
    except DBAPIError as error:
        raise connect.explain_open(error, settings) from None
    finally:
        engine.dispose()
    return Found(revision, known, scripts.get_current_head() or "", clock)
