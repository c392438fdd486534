"""Beginning again from a backup: in an empty place, checked before it counts, with nothing that could run twice."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from dbward.backups import archive, places
from dbward.db import connect, executions, requests, snapshot
from dbward.db.engine import Tx
from dbward.db.migrations import migrate
from dbward.domain.model import SYSTEM, Event, ExecutionStatus, Status
from dbward.domain.states import OPEN
from dbward.errors import Conflict, Misconfigured
from dbward.runtime import Runtime, open_runtime
from dbward.services import audit
from dbward.services.backup import open_place
from dbward.services.completion import lose
from dbward.services.journal import record
from dbward.services.requests import cancel_row
from dbward.settings.server import ServerSettings

BATCH: Final = 200


@dataclass(frozen=True, slots=True)
class Restored:
    """What is there again: when the backup was made, its audit events, and what was ended because nobody can know
    whether it ran after that.
    """

    made_at: str
    events: int
    cancelled: int
    lost: int


def restore(settings: ServerSettings, wanted: str) -> Restored:
    """Put the backup `wanted` where `settings` say that the state is. The caller holds the lock on `state_dir`.

    `wanted` is a file, the name of a backup in the configured place, or `latest`. Everything is checked beside that
    place first: whatever is wrong, nothing has changed. Raises `Conflict` where there is a state, `Misconfigured`,
    `Missing`, `Unavailable`.
    """
    if settings.state.url.startswith("postgresql"):
        raise Misconfigured(
            "the state is in PostgreSQL: restore it with PostgreSQL's own tools", code="backup.not_sqlite"
        )
    database = connect.sqlite_path(connect.parse_url(settings.state))
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=settings.state_dir) as scratch:
        state = Path(scratch) / "state"
        state.mkdir(mode=0o700)
        about = archive.unpack(_fetch(settings, wanted, Path(scratch)), state)
        files = [path for path in state.iterdir() if path.name != archive.DATABASE]
        _refuse_over(settings.state_dir, database, files)
        snapshot.check(state / archive.DATABASE)
        restored = _settle(settings, state, about)
        database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in files:  # the database is last: without it, this can be done again
            path.replace(settings.state_dir / path.name)
        (state / archive.DATABASE).replace(database)
    return restored


def _fetch(settings: ServerSettings, wanted: str, scratch: Path) -> Path:
    if Path(wanted).exists() or (wanted != "latest" and places.made_at(wanted) is None):
        return Path(wanted)
    place = open_place(settings)
    if wanted == "latest":
        names = place.names()
        if not names:
            raise Misconfigured("there is no backup yet", code="backup.missing", hint="name the file of one")
        wanted = names[-1]
    target = scratch / wanted
    place.fetch(wanted, target)
    return target


def _refuse_over(state_dir: Path, database: Path, files: list[Path]) -> None:
    """Nothing of a state that is there is ever overwritten."""
    there = [database] if database.exists() else []
    for path in files:
        old = state_dir / path.name
        if old.exists() and old.read_bytes() != path.read_bytes():
            there.append(old)
    if there:
        raise Conflict(
            f"{', '.join(str(path) for path in there)} would be overwritten",
            code="backup.state_exists",
            hint="move what is in state_dir away first, so that it can still be looked at",
        )


def _settle(settings: ServerSettings, state: Path, about: archive.About) -> Restored:
    """Bring the copy to this version's tables, verify its record, and end what was going on when it was made."""
    path = state / archive.DATABASE
    private = replace(
        settings,
        state_dir=state,
        state=replace(settings.state, url=f"sqlite:///{path}", key_seed=None),
        results=replace(settings.results, backend="local", root_dir=state.with_name("results")),
    )
    migrate(private.state)
    rt = open_runtime(private)
    try:
        verdict = audit.examine(rt)
        if not verdict["valid"]:
            raise Misconfigured(
                f"the audit log in the backup does not hold: {verdict['reason']}",
                code="backup.unusable",
                hint="take an older backup, and keep this one for whoever looks into it",
            )
        cancelled, lost = _end_open(rt, f"the state was restored from a backup of {about.made_at}")
        facts = {"made_at": about.made_at, "made_by": about.version, "cancelled": cancelled, "lost": lost}
        rt.store.write(lambda tx: record(rt, tx, Event.STATE_RESTORED, actor=SYSTEM, metadata=facts))
        audit.write_anchor(rt)
    finally:
        rt.close()
    return Restored(about.made_at, int(verdict["total_events"]), cancelled, lost)


def _end_open(rt: Runtime, why: str) -> tuple[int, int]:
    """Whatever was open may have run since, or run now: a person must look and ask again."""
    cancelled = lost = 0
    while True:
        with rt.store.read() as conn:
            found = requests.in_status(conn, OPEN, limit=BATCH)
        if not found:
            return cancelled, lost
        for request_id in found:
            status = rt.store.write(partial(_end, rt, request_id, why))
            if status is Status.EXECUTION_LOST:
                lost += 1
            else:
                cancelled += 1


def _end(rt: Runtime, request_id: str, why: str, tx: Tx) -> Status:
    row = requests.lock(tx, request_id)
    execution = executions.find(tx.conn, row.execution_id) if row.execution_id is not None else None
    if row.status is Status.RUNNING and execution is not None and execution.status is ExecutionStatus.RUNNING:
        lose(rt, tx, execution)
        return requests.lock(tx, request_id).status
    return cancel_row(rt, tx, row, actor=SYSTEM, reason=f"{why}: whether it ran after that is not known").status
