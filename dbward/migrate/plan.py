"""What the files of a directory and the record of a database come to together, and what is to run next. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dbward.domain.migration import Applied, Sent
from dbward.errors import Invalid, Missing
from dbward.migrate.files import Migration, Script

NAMED: Final = 5
"""So many migrations are named in a message; of the rest it says how many there are."""
_NUMBER: Final = re.compile(r"[0-9]{1,32}")


class State(StrEnum):
    """`changed`: applied, and the file is another one by now; `missing`: applied, and there is no file."""

    APPLIED = "applied"
    PENDING = "pending"
    CHANGED = "changed"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Entry:
    """One version. `file` None when there is none, `applied` None when the database has not applied it.

    `late`: it is pending although a higher version is applied.
    """

    version: str
    file: Migration | None
    applied: Applied | None
    late: bool = False

    @property
    def state(self) -> State:
        if self.applied is None:
            return State.PENDING
        if self.file is None:
            return State.MISSING
        known = self.applied.checksum
        return State.CHANGED if known is not None and known != self.file.checksum else State.APPLIED

    @property
    def name(self) -> str | None:
        if self.file is not None:
            return self.file.name
        return self.applied.name if self.applied is not None else None

    @property
    def title(self) -> str:
        return self.version if self.name is None else f"{self.version}_{self.name}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """How far to go: `count` migrations, None for all, and not past the version `to`."""

    count: int | None = None
    to: str | None = None


@dataclass(frozen=True, slots=True)
class Tolerated:
    """What does not keep migrations from being run."""

    changed: bool = False
    missing: bool = False
    late: bool = True


def join(files: Sequence[Migration], applied: Sequence[Applied]) -> tuple[Entry, ...]:
    """Every version of either side, lowest first. Versions are the same when they are written the same."""
    by_file = {one.version: one for one in files}
    by_record = {one.version: one for one in applied}
    newest = max(map(_order, by_record), default=None)
    return tuple(
        Entry(
            version,
            by_file.get(version),
            by_record.get(version),
            late=newest is not None and version not in by_record and _order(version) < newest,
        )
        for version in sorted({*by_file, *by_record}, key=_order)
    )


def forward(entries: Sequence[Entry], wanted: Wanted, tolerated: Tolerated) -> tuple[Entry, ...]:
    """The pending migrations to apply, in their order; none when all that is wanted is applied.

    Raises `Invalid`: `migration.changed`, `migration.missing` and `migration.late` when the files and the database
    disagree in a way that is not tolerated, and `migration.unknown` when `to` is no file.
    """
    if not tolerated.changed:
        _refuse_changed([one for one in entries if one.state is State.CHANGED])
    if not tolerated.missing and (missing := [one for one in entries if one.state is State.MISSING]):
        raise Invalid(
            f"the database has applied what is not among the files: {_titles(missing)}",
            code="migration.missing",
            hint="fetch the files that others have added, or go on with --ignore-missing",
        )
    pending = [one for one in entries if one.state is State.PENDING]
    if wanted.to is not None:
        last = _order(find([one for one in entries if one.file is not None], wanted.to).version)
        pending = [one for one in pending if _order(one.version) <= last]
    pending = pending[: wanted.count]
    if not tolerated.late and (late := [one for one in pending if one.late]):
        raise Invalid(
            f"a higher version than theirs is applied already: {_titles(late)}",
            code="migration.late",
            hint="rename them to a version that comes last, or leave --strict out",
        )
    return tuple(pending)


def backward(entries: Sequence[Entry], wanted: Wanted, tolerated: Tolerated) -> tuple[Entry, ...]:
    """The applied migrations to revert, in that order: the highest first, down to but not including `to`.

    Raises `Invalid`: `migration.missing`, `migration.irreversible` and `migration.changed` when one of them cannot be
    reverted, or not by what was written for it, and `migration.unknown` when `to` is not applied.
    """
    applied = [one for one in reversed(entries) if one.applied is not None]
    if wanted.to is not None:
        kept = _order(find(applied, wanted.to).version)
        applied = [one for one in applied if _order(one.version) > kept]
    chosen = applied[: wanted.count]
    if missing := [one for one in chosen if one.file is None]:
        raise Invalid(
            f"there is no file that says how to revert {_titles(missing)}; nothing was reverted",
            code="migration.missing",
            hint="fetch the files that others have added",
        )
    if stuck := [one for one in chosen if one.file is not None and one.file.down is None]:
        raise Invalid(
            f"nothing follows `-- migrate:down` in {_titles(stuck)}; nothing was reverted",
            code="migration.irreversible",
            hint="go on with a new migration instead, which does what is to be done",
        )
    if not tolerated.changed:
        _refuse_changed([one for one in chosen if one.state is State.CHANGED])
    return tuple(chosen)


def find(entries: Iterable[Entry], asked: str) -> Entry:
    """The one that `asked` names: by its version, its version and name, or its file. Raises `Missing`."""
    wanted = asked.removesuffix(".sql")
    for one in entries:
        if wanted in (one.version, one.title):
            return one
    raise Missing(f"{asked!a} is no such migration", code="migration.unknown", hint="see `dbward migrate status`")


def sent(entries: Sequence[Entry], *, up: bool) -> tuple[Sent, ...]:
    """What the server is told of each file, in the same order. Each has that direction."""
    return tuple(
        _sent(one.file, one.file.up if up else one.file.down, None if one.applied is None else one.applied.checksum)
        for one in entries
        if one.file is not None
    )


def _sent(file: Migration, script: Script | None, recorded: str | None) -> Sent:
    assert script is not None
    return Sent(
        version=file.version,
        name=file.name,
        checksum=file.checksum,
        transactional=script.transactional,
        reversible=file.down is not None,
        sql=script.sql,
        line=script.line,
        recorded=recorded,
    )


def _refuse_changed(changed: Sequence[Entry]) -> None:
    if changed:
        raise Invalid(
            f"changed since they were applied: {_titles(changed)}",
            code="migration.changed",
            hint="put the files back as they were and make a new migration, or go on with --ignore-changed",
        )


def _titles(entries: Sequence[Entry]) -> str:
    more = f" and {len(entries) - NAMED} more" if len(entries) > NAMED else ""
    return ", ".join(one.title for one in entries[:NAMED]) + more


def _order(version: str) -> tuple[int, int, str]:
    """By number. What is no number was put there by another tool, and comes before everything else."""
    return (1, int(version), version) if _NUMBER.fullmatch(version) else (0, 0, version)
