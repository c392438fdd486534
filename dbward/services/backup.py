"""Copies of the SQLite state: on request and on schedule, made by the server itself, the only one that may open it."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from dbward import VERSION, signalling
from dbward.backups import archive, places
from dbward.db import connect, snapshot
from dbward.domain.model import SYSTEM, Event
from dbward.errors import Conflict, DbwardError, Unavailable
from dbward.runtime import Current, Runtime
from dbward.services.journal import record
from dbward.settings.server import ServerSettings

log = logging.getLogger("dbward.server")

RETRY_AFTER: Final = timedelta(minutes=15)
"""How long after a backup of the schedule failed it is tried again."""


@dataclass(frozen=True, slots=True)
class Made:
    """One backup: where it is, its size in bytes, the names of the older ones that were removed for it, and why not all
    of those were.
    """

    place: str
    size: int
    removed: tuple[str, ...]
    not_removed: str | None

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": True,
            "place": self.place,
            "bytes": self.size,
            "removed": list(self.removed),
            "not_removed": self.not_removed,
        }


def open_place(settings: ServerSettings) -> places.Place:
    """Where this server's backups go. Raises `Misconfigured`."""
    backup = settings.backup
    if backup.bucket is None:
        return places.Folder(backup.folder)
    return open_bucket(settings, backup.bucket, backup.prefix)


def open_bucket(settings: ServerSettings, bucket: str, prefix: str) -> places.Bucket:
    """A place in S3, with the connection of `[result_storage]`. Raises `Misconfigured`."""
    return places.Bucket(replace(settings.results.s3, bucket=bucket, prefix=prefix))


def make(rt: Runtime) -> Made:
    """Back up the state as of now and remove what is more than `keep`; a failure is on the record too.

    Older ones that cannot be removed are no failure, since a bucket may well forbid that: the new one is there.

    One at a time, in the process that owns the state. Raises `Conflict` on PostgreSQL, `Unavailable`.
    """
    if rt.store.dialect != "sqlite":
        raise Conflict(
            "the state is in PostgreSQL, which is not backed up by dbward",
            code="backup.not_sqlite",
            hint="use pg_dump, or the snapshots of whoever runs it for you; and keep a copy of the keys in state_dir",
        )
    try:
        made = _make(rt)
    except DbwardError as e:
        rt.metrics.backups.labels("failed").inc()
        _put_on_record(rt, failed=True, reason=e.message)
        raise
    rt.metrics.backups.labels("made").inc()
    rt.metrics.last_backup.set(rt.now().timestamp())
    log.info("the state was backed up to %s (%d bytes)", made.place, made.size)
    facts = {"place": made.place, "bytes": made.size, "removed": len(made.removed)}
    if made.not_removed is not None:
        rt.metrics.backups.labels("not_removed").inc()
        facts["not_removed"] = made.not_removed
    _put_on_record(rt, metadata=facts)
    return made


def _make(rt: Runtime) -> Made:
    settings, moment = rt.settings, rt.now()
    place = open_place(settings)
    name = places.name_at(moment)
    with _drafts(settings) as folder:
        database, draft = folder / f".{name}.db", folder / f".{name}"
        files = archive.read_files(settings.state_dir)
        path = connect.sqlite_path(connect.parse_url(settings.state))
        snapshot.copy(path, database, exclusive=settings.state.exclusive)
        archive.pack(draft, archive.About(moment.isoformat(), VERSION), files, database)
        database.unlink()
        size = draft.stat().st_size
        where = place.put(draft, name)
    return Made(where, size, *_remove_old(place, settings.backup.keep))


def _remove_old(place: places.Place, keep: int) -> tuple[tuple[str, ...], str | None]:
    """The names of those that are gone now, and what stopped it."""
    removed: list[str] = []
    try:
        for each in place.names()[:-keep]:
            place.remove(each)
            removed.append(each)
    except Unavailable as e:
        return tuple(removed), e.message
    return tuple(removed), None


@contextmanager
def _drafts(settings: ServerSettings) -> Iterator[Path]:
    """A directory for what is not finished; nothing of it is left, also not of a process that was killed."""
    folder = settings.backup.folder
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(folder)
        try:
            yield folder
        finally:
            _sweep(folder)
    except (OSError, sqlite3.Error) as e:
        raise Unavailable(f"the backup could not be made: {e}", code="backup.failed") from e


def _sweep(folder: Path) -> None:
    for draft in folder.glob(".dbward-*"):
        draft.unlink(missing_ok=True)


def _put_on_record(rt: Runtime, **facts: Any) -> None:
    try:
        rt.store.write(lambda tx: record(rt, tx, Event.BACKUP_CREATED, actor=SYSTEM, **facts))
    except Unavailable:
        log.warning("the backup could not be put on the record")


class Backups:
    """The thread that makes them: when asked for one on this machine, and when one is due."""

    def __init__(self, current: Current) -> None:
        self._current = current
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._last: datetime | None = None
        self._failed_at: datetime | None = None
        self._thread = threading.Thread(target=self._loop, name="dbward-backup", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Look whether somebody asks, and when the next one is due by the settings of now."""
        self._wake.set()

    def stop(self) -> None:
        """One that is being made is not waited for: what there is of it is removed by the next one."""
        self._stopped.set()
        self._wake.set()

    def _loop(self) -> None:
        self._last = self._newest()
        while not self._stopped.is_set():
            try:
                self._turn()
            except Exception:
                self._failed_at = self._current.get().now()
                self._current.get().metrics.background_panics.inc()
                log.exception("a backup failed")
            self._wake.wait(self._pause())
            self._wake.clear()

    def _turn(self) -> None:
        rt = self._current.get()
        asking = signalling.asking("backup", rt.settings.state_dir)
        if not asking and self._pause() != 0:
            return
        said: dict[str, Any]
        try:
            said = make(rt).as_json()
            self._last, self._failed_at = rt.now(), None
        except DbwardError as e:
            self._failed_at = rt.now()
            log.error("%s", e.message)  # noqa: TRY400 - what caused it has been said
            said = {"ok": False, "code": e.code, "message": e.message, "hint": e.hint}
        for pipe in asking:
            signalling.answer(pipe, said)

    def _pause(self) -> float | None:
        """Seconds until the next one of the schedule is due; None without a schedule."""
        rt = self._current.get()
        every = rt.settings.backup.every
        if every is None or rt.store.dialect != "sqlite":
            return None
        due = rt.now() if self._last is None else self._last + every
        if self._failed_at is not None:
            due = max(due, self._failed_at + RETRY_AFTER)
        return max(0.0, (due - rt.now()).total_seconds())

    def _newest(self) -> datetime | None:
        """When the last one was made, also by an earlier process."""
        rt = self._current.get()
        try:
            names = open_place(rt.settings).names()
        except DbwardError as e:
            log.warning("%s", e.message)
            return None
        return places.made_at(names[-1]) if names else None
