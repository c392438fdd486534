"""How migrations look on a terminal: what there is, what a request would run, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dbward.cli.asking import excerpt
from dbward.cli.tables import clean, counted, table
from dbward.cli.times import shown

if TYPE_CHECKING:
    from dbward.domain.migration import Sent
    from dbward.migrate.plan import Entry


def states(entries: Sequence[Entry]) -> list[str]:
    """A line for each version of the files and the database."""
    rows = [
        (
            one.version,
            one.name,
            one.state + (", late" if one.late else ""),
            shown(one.applied.applied_at.isoformat()) if one.applied and one.applied.applied_at else None,
            one.applied.request_id[:8] if one.applied and one.applied.request_id else None,
        )
        for one in entries
    ]
    return table(("VERSION", "NAME", "STATE", "APPLIED AT", "REQUEST"), rows, limits=(0, 60, 0, 0, 0))


def entry_json(one: Entry) -> dict[str, Any]:
    """One version for programs: of a file, of the database's record, or of both."""
    file, applied = one.file, one.applied
    return {
        "version": one.version,
        "name": one.name,
        "state": one.state,
        "late": one.late,
        "file": file.file if file is not None else None,
        "checksum": file.checksum if file is not None else None,
        "reversible": file.down is not None if file is not None else None,
        "applied_checksum": applied.checksum if applied is not None else None,
        "applied_at": applied.applied_at if applied is not None else None,
        "request_id": applied.request_id if applied is not None else None,
    }


def preview(files: Sequence[Sent], *, whole: bool) -> list[str]:
    """The files with their SQL as they would run; of a very long one some lines, and how many, unless it is `whole`."""
    return [text for one in files for text in _file(one, whole=whole)]


def _file(one: Sent, *, whole: bool) -> Iterator[str]:
    yield f"  {clean(one.title)}{_remarks(one.transactional, one.reversible)}"
    for line in (one.sql if whole else excerpt(one.sql)).splitlines():
        yield f"    {clean(line, keep=chr(9))}".rstrip()


def _remarks(transactional: bool, reversible: bool) -> str:  # noqa: FBT001 - the two facts, by the names of their flags
    said = [] if transactional else ["outside a transaction"]
    said += [] if reversible else ["cannot be undone"]
    return f" ({', '.join(said)})" if said else ""


def outcomes(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each migration of an execution."""
    rows = [
        (step["version"], step["name"], step["outcome"].replace("_", " "), took(step["duration_ms"])) for step in steps
    ]
    return table(("VERSION", "NAME", "OUTCOME", "TIME"), rows, limits=(0, 60, 0, 0))


def took(ms: int | None) -> str | None:
    """`12 ms`, `12.3 s`."""
    if ms is None:
        return None
    return f"{ms} ms" if ms < 10_000 else f"{ms / 1000:.1f} s"


def is_one(request: Mapping[str, Any]) -> bool:
    """Whether a request, as the server shows it, is about migrations."""
    return str(request["operation"]).startswith("migrate_")


def about(request: Mapping[str, Any]) -> str:
    """What a request to migrate is for, in place of its detail."""
    files = request.get("migrations")
    if files is None:
        what = json.loads(request["detail"])
        name = f"_{clean(what['name'])}" if what.get("name") else ""
        verb = "record as applied" if what["action"] == "mark_applied" else "remove from what is recorded as applied"
        return f"{verb}: {what['version']}{name}"
    verb = "revert" if request["operation"] == "migrate_down" else "apply"
    return f"{verb} {counted(len(files), 'migration')}" + (", in this order" if len(files) > 1 else "")


def titles(request: Mapping[str, Any]) -> str:
    """The same with the names of the files, for a question."""
    names = [f"  {clean(one['version'])}_{clean(one['name'])}" for one in request.get("migrations") or []]
    return "\n".join([f"  {clean(about(request))}", *names])


def reviewed(request: Mapping[str, Any]) -> str:
    """The same with each file: what is thought of it, and its SQL with the line numbers of the file."""
    return "\n".join([about(request), *(line for one in request.get("migrations") or [] for line in _reviewed(one))])


def _reviewed(one: Mapping[str, Any]) -> Iterator[str]:
    title = clean(f"{one['version']}_{one['name']}")
    yield f"{title}{_remarks(one['transactional'], one['reversible'])}{_outcome(one)}"
    yield f"  risk {one['risk']}, {counted(one['statements'], 'statement')}, sha256 {one['checksum']}"
    for finding in one["findings"]:
        yield f"  [{finding['action'].upper()}] line {finding['line']}: {finding['message']} ({finding['rule']})"
    lines = one["sql"].split("\n")
    digits = len(str(one["line"] + len(lines)))
    for number, line in enumerate(lines, one["line"]):
        yield f"  {number:>{digits}} | {line}".rstrip()


def _outcome(one: Mapping[str, Any]) -> str:
    if one["outcome"] is None:
        return ""
    time = took(one["duration_ms"])
    return f": {one['outcome'].replace('_', ' ')}" + (f" in {time}" if time else "")
