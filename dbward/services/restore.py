"""Beginning again from a backup: in an empty place, checked before it counts, with nothing that could run twice."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from dbward import keys
from dbward.backups import archive, places
from dbward.db import audit as audit_log
from dbward.db import connect, executions, requests, snapshot
from dbward.db.engine import Tx
from dbward.db.migrations import migrate
from dbward.domain.model import SYSTEM, Event, ExecutionStatus, Status
from dbward.domain.states import OPEN
from dbward.errors import Conflict, Misconfigured, Missing, Unavailable
from dbward.runtime import Runtime, open_runtime
from dbward.services import audit
from dbward.services.backup import open_bucket, open_place
from dbward.services.completion import lose
from dbward.services.journal import record
from dbward.services.requests import cancel_row
from dbward.settings.server import ServerSettings

BATCH: Final = 200
_BESIDE: Final = ("-wal", "-journal", "-shm")
"""What SQLite keeps beside a file. It would apply that of another database to this one."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What is there again: when the backup was made, or the last thing happened in it; its audit events, and what was
    ended because nobody can know whether it ran after that.
    """

    made_at: str
    events: int
    cancelled: int
    lost: int


def restore(settings: ServerSettings, wanted: str) -> Restored:
    """Put the backup `wanted` where `settings` say that the state is. The caller holds the lock on `state_dir`.

    `wanted` is a file, the name of a backup in the configured place, `latest`, or the URL of one in S3. A file may be
    the database alone, of a replica or a snapshot of the disk: then what it was signed with is in `state_dir` already.
    Everything is checked beside that place first: whatever is wrong, nothing has changed. Raises `Conflict` where there
    is a state, `Misconfigured`, `Missing`, `Unavailable`.
    """
    if settings.state.url.startswith("postgresql"):
        raise Misconfigured(
            "the state is in PostgreSQL: restore it with PostgreSQL's own tools", code="backup.not_sqlite"
        )
    try:
        return _restore(settings, wanted, connect.sqlite_path(connect.parse_url(settings.state)))
    except OSError as e:
        raise Unavailable(f"the backup cannot be restored: {e}", code="backup.failed") from e


def _restore(settings: ServerSettings, wanted: str, database: Path) -> Restored:
    database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=database.parent) as scratch:
        state = Path(scratch) / "state"
        state.mkdir(mode=0o700)
        about = _lay_out(settings, _fetch(settings, wanted, Path(scratch)), state)
        _refuse_over(settings.state_dir, database, archive.read_files(state))
        snapshot.check(state / archive.DATABASE)
        restored = _settle(settings, state, about)
        before = {name: data for name, data in archive.read_files(state).items() if name != audit.ANCHOR}
        for name, data in before.items():  # they are as in the backup: without a database, this can be done again
            keys.replace_file(settings.state_dir / name, data)
        (state / archive.DATABASE).replace(database)
        keys.sync_directory(database.parent)
        keys.replace_file(settings.state_dir / audit.ANCHOR, (state / audit.ANCHOR).read_bytes())
    return restored


def _lay_out(settings: ServerSettings, source: Path, state: Path) -> archive.About | None:
    """Put the database and what belongs to it into the empty directory `state`; what an archive says about itself."""
    if not source.is_file():
        raise Missing(f"there is no file {source}", code="backup.missing")
    if not archive.is_database(source):
        return archive.unpack(source, state)
    for suffix in ("", "-wal"):
        copied, copy = source.with_name(source.name + suffix), state / f"{archive.DATABASE}{suffix}"
        if copied.exists():
            shutil.copyfile(copied, copy)
            copy.chmod(0o600)
    for name, data in archive.read_files(settings.state_dir).items():
        keys.write_private(state / name, data)
    if settings.state.key_seed is not None:
        keys.create_seeded(state, settings.state.key_seed)
    if missing := keys.missing(state):
        raise Misconfigured(
            f"{', '.join(missing)} missing in {settings.state_dir}: the database was signed with it",
            code="key.missing",
            hint="copy it from a backup of state_dir first",
        )
    return None


def _fetch(settings: ServerSettings, wanted: str, scratch: Path) -> Path:
    place: places.Place
    if wanted.startswith("s3://"):
        where, _, wanted = wanted.removeprefix("s3://").rpartition("/")
        bucket, _, prefix = where.partition("/")
        if not bucket or places.made_at(wanted) is None:
            raise Misconfigured(
                "that is not the URL of a backup", code="backup.missing", hint="s3://bucket/prefix/name"
            )
        place = open_bucket(settings, bucket, prefix)
    elif Path(wanted).exists() or (wanted != "latest" and places.made_at(wanted) is None):
        return Path(wanted)
    else:
        place = open_place(settings)
    if wanted == "latest":
        names = place.names()
        if not names:
            raise Misconfigured("there is no backup yet", code="backup.missing", hint="name the file of one")
        wanted = names[-1]
    target = scratch / wanted
    place.fetch(wanted, target)
    return target


def _refuse_over(state_dir: Path, database: Path, files: Mapping[str, bytes]) -> None:
    """Nothing of a state that is there is ever overwritten."""
    there = [path for end in ("", *_BESIDE) if (path := database.with_name(database.name + end)).exists()]
    for name, data in files.items():
        old = state_dir / name
        if old.exists() and old.read_bytes() != data:
            there.append(old)
    if there:
        raise Conflict(
            f"{', '.join(str(path) for path in there)} would be overwritten",
            code="backup.state_exists",
            hint="move what is in state_dir away first, so that it can still be looked at",
        )


def _settle(settings: ServerSettings, state: Path, about: archive.About | None) -> Restored:
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
        made_at, made_by = (about.made_at, about.version) if about is not None else (_last_event(rt), None)
        cancelled, lost = _end_open(rt, f"the state was restored from a backup of {made_at}")
        facts = {"made_at": made_at, "made_by": made_by, "cancelled": cancelled, "lost": lost}
        rt.store.write(lambda tx: record(rt, tx, Event.STATE_RESTORED, actor=SYSTEM, metadata=facts))
        audit.write_anchor(rt)
    finally:
        rt.close()
    return Restored(made_at, int(verdict["total_events"]), cancelled, lost)


def _last_event(rt: Runtime) -> str:
    """When the last thing happened that is in the record."""
    with rt.store.read() as conn:
        found = audit_log.search(conn, audit_log.EVERYTHING, limit=1, offset=0)
    return found[0].event.created_at if found else rt.now().isoformat()


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
