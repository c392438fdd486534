"""The audit log as a file: everything, or what matches, oldest first, made page by page while it is sent."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Final

from pydantic_core import to_json

from dbward.client.shapes import AuditExport, AuditMatch
from dbward.db import audit
from dbward.db.audit import EVERYTHING
from dbward.domain.audit import AuditEvent, Link
from dbward.domain.auditfile import END, INCOMPLETE, START
from dbward.domain.model import Event, Permission, Principal
from dbward.runtime import Runtime
from dbward.services import access
from dbward.services.audit import criteria, walk
from dbward.services.journal import record

CSV_COLUMNS: Final = ("seq", *(field.name for field in fields(AuditEvent)), "event_hash", "chain_version")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")

Pages = Iterator[list[Link]]


def export(rt: Runtime, who: Principal, wanted: AuditExport) -> Iterator[bytes]:
    """The file in chunks, complete up to the head of this moment, which is the note that it was exported.

    Everything is checked before the first chunk. When it cannot be finished, its last line says so and the iteration
    raises, which ends the connection without the mark of a complete answer. Raises `Refused`, `Invalid`.
    """
    access.check(who, Permission.AUDIT_READ)
    matching = criteria(wanted)
    said = wanted.model_dump(mode="json", include=set(AuditMatch.model_fields), exclude_none=True)
    metadata = {"format": wanted.format, "filters": said}
    rt.store.write(lambda tx: record(rt, tx, Event.AUDIT_EXPORTED, actor=who, metadata=metadata))
    with rt.store.read() as conn:
        head = audit.head(conn)
    assert head is not None  # it has just been written
    pages = walk(rt, matching, head)
    if wanted.format == "csv":
        return _csv(pages)
    return _ndjson(pages, {"version": 1, "filtered": matching != EVERYTHING, "head": asdict(head)})


def _ndjson(pages: Pages, facts: dict[str, object]) -> Iterator[bytes]:
    """One event a line, exactly as it is stored, between the signed head to hold them against and a mark of the end."""
    yield _line({START: facts})
    done = 0
    try:
        for links in pages:
            yield b"".join(_line(_stored(link)) for link in links)
            done += len(links)
    except Exception:
        yield _line({INCOMPLETE: {"events": done}})
        raise
    yield _line({END: {"events": done}})


def _csv(pages: Pages) -> Iterator[bytes]:
    """RFC 4180 with a header. A cell that a spreadsheet would take for a formula gets an apostrophe before it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    try:
        for links in pages:
            writer.writerows([_cell(value) for value in _stored(link).values()] for link in links)
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    except Exception:
        yield f"{INCOMPLETE}\r\n".encode()
        raise


def _stored(link: Link) -> dict[str, object]:
    return {
        "seq": link.seq,
        **{name: getattr(link.event, name) for name in AuditEvent.__slots__},
        "event_hash": link.event_hash,
        "chain_version": link.chain_version,
    }


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _line(value: object) -> bytes:
    return to_json(value) + b"\n"
