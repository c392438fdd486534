"""An exported audit log, verified without its server: with the file and the public keys alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dbward.domain.audit import AuditEvent, Head, Link, Verdict, verify_chain
from dbward.errors import Invalid

START: Final = "audit_export"
END: Final = "audit_export_end"
INCOMPLETE: Final = "audit_export_incomplete"

_NAMES: Final = tuple(field.name for field in fields(AuditEvent))
_EVENT: Final = frozenset({"seq", *_NAMES, "event_hash", "chain_version"})
_HEAD: Final = frozenset(field.name for field in fields(Head))
_NUMBERS: Final = frozenset({"seq", "first_seq", "event_version", "chain_version"})
_NULLABLE: Final = {f.name for f in (*fields(AuditEvent), *fields(Head)) if f.default is None} | {"hash"}


def verify_file(lines: Iterable[bytes], keyring: Mapping[str, Ed25519PublicKey]) -> tuple[Verdict, Head]:
    """Hold every line against the signed head that the file begins with, in constant memory.

    The verdict is about the record up to that head. Raises `Invalid` when it is no export in NDJSON, one of a part of
    the record only, or one that broke off.
    """
    numbered = enumerate(lines, start=1)
    number, first = next(numbered, (1, b""))
    said = _object(first, number).get(START)
    if not isinstance(said, dict) or not isinstance(said.get("head"), dict):
        raise _unreadable(number, "it does not begin as an export in NDJSON does")
    if said.get("filtered") is not False:
        raise Invalid(
            "this export holds a part of the record only",
            code="audit.export_filtered",
            hint="whether something is missing can be told of a whole one: export without filters",
        )
    head = Head(**_checked(said["head"], _HEAD, number))
    return verify_chain(_links(numbered), head, keyring), head


def _links(numbered: Iterable[tuple[int, bytes]]) -> Iterator[Link]:
    ended = False
    for number, line in numbered:
        if ended:
            raise _unreadable(number, "there is more after its end")
        row = _object(line, number)
        if END in row:
            ended = True
        elif INCOMPLETE in row:
            raise _broken_off()
        else:
            yield _link(row, number)
    if not ended:
        raise _broken_off()


def _link(row: dict[str, Any], number: int) -> Link:
    _checked(row, _EVENT, number)
    event = AuditEvent(**{name: row[name] for name in _NAMES})
    return Link(row["seq"], event, row["event_hash"], row["chain_version"])


def _checked(row: dict[str, Any], names: frozenset[str], number: int) -> dict[str, Any]:
    """The row, if it has these keys and no others, each with a value of its type."""
    if row.keys() != names:
        raise _unreadable(number, "it has not the keys it should have")
    for name, value in row.items():
        if type(value) is not (int if name in _NUMBERS else str) and not (value is None and name in _NULLABLE):
            raise _unreadable(number, f"{name} is not of its type")
    return row


def _object(line: bytes, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _unreadable(number, "it is not a JSON object")
    return found


def _unreadable(number: int, why: str) -> Invalid:
    return Invalid(f"line {number} of the export cannot be read: {why}", code="audit.export_unreadable")


def _broken_off() -> Invalid:
    return Invalid("the export broke off before its end", code="audit.export_incomplete", hint="export it again")
