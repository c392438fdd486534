"""Which code may run on which tables.

Each migration says whether it is `additive`: then servers of the revision before it go on working on its tables. The
database remembers the oldest revision whose code works on it, its floor, so that a server can tell whether it works on
tables that are newer than itself.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, delete, insert, inspect, select, text

from dbward.db.tables import metadata, server_meta
from dbward.errors import Misconfigured

if TYPE_CHECKING:  # a server that has started does without
    from alembic.script import Script, ScriptDirectory

log = logging.getLogger(__name__)

SCHEMA: Final = Path(__file__).with_name("schema")
FLOOR: Final = "schema_floor"
_REVISION: Final = text("SELECT version_num FROM alembic_version")


def check(conn: Connection, scripts: ScriptDirectory) -> tuple[str | None, bool]:
    """The revision of the database, None when it is empty, and whether `scripts` know it.

    Raises Misconfigured when the code that belongs to `scripts` does not work on its tables (`state_newer`), and when
    they are not dbward's (`state_foreign`).
    """
    from alembic.migration import MigrationContext

    revisions = MigrationContext.configure(conn).get_current_heads()
    known = {script.revision for script in scripts.walk_revisions()}
    if unknown := [revision for revision in revisions if revision not in known]:
        _work_on_newer(conn, unknown[0], known)
        return unknown[0], False
    if revisions:
        return revisions[0], True
    if strangers := sorted(set(inspect(conn).get_table_names()) & set(metadata.tables)):
        raise Misconfigured(
            f"the state database has a table {strangers[0]} that dbward did not make",
            code="state_foreign",
            hint="give dbward a database of its own",
        )
    return None, True


def recheck(conn: Connection) -> None:
    """Look whether this code still works on the tables. Raises Misconfigured (`state_newer`) when it does not."""
    revision = str(conn.execute(_REVISION).scalar_one())
    known = {path.name.partition("_")[0] for path in SCHEMA.glob("versions/[0-9]*.py")}
    if revision not in known:
        _work_on_newer(conn, revision, known)


def _work_on_newer(conn: Connection, revision: str, known: Collection[str]) -> None:
    floor = conn.execute(select(server_meta.c.value).where(server_meta.c.key == FLOOR)).scalar_one_or_none()
    if floor not in known:
        raise Misconfigured(
            f"the state database is at revision {revision}, written by a newer version of dbward than this one",
            code="state_newer",
            hint="run that newer version, or put back a copy made before its upgrade",
        )
    log.warning("the state is at revision %s, of a newer version of dbward; this one works on it as well", revision)


def breaks(scripts: ScriptDirectory, since: str) -> bool:
    """Whether servers of revision `since` would not survive the way to the last one."""
    return not all(is_additive(script) for script in scripts.iterate_revisions("head", since))


def note_floor(conn: Connection, scripts: ScriptDirectory) -> None:
    """Write down the oldest revision whose code works on the tables as the last migration leaves them."""
    conn.execute(delete(server_meta).where(server_meta.c.key == FLOOR))
    conn.execute(insert(server_meta).values(key=FLOOR, value=_floor(scripts.walk_revisions())))


def is_additive(script: Script) -> bool:
    """A migration that does not say so is not."""
    return getattr(script.module, "additive", False) is True


def _floor(newest_first: Iterable[Script]) -> str:
    for script in newest_first:
        floor = script.revision
        if not is_additive(script):
            break
    return floor
