"""SQLite values: each has a storage class of its own, whatever its column was declared as."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import TypeAlias

from worker.values import JsonValue, from_bytes

Stored: TypeAlias = "int | float | str | bytes | None"

ANY = "ANY"
"""The type of an expression of which no value was seen."""

_CLASSES: tuple[tuple[type, str], ...] = ((int, "INTEGER"), (float, "REAL"), (str, "TEXT"), (bytes, "BLOB"))


def from_stored(value: Stored) -> JsonValue:
    """Integers are exact, infinities become their names, blobs hexadecimal. SQLite has no NaN and no truth values."""
    if isinstance(value, bytes):
        return from_bytes(value)
    if isinstance(value, float) and not isfinite(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def storage_class(values: Iterable[Stored]) -> str:
    """Of the first value that is not NULL."""
    for value in values:
        for kind, name in _CLASSES:
            if isinstance(value, kind):
                return name
    return ANY


def column_types(declared: Sequence[str], width: int, rows: Sequence[Sequence[Stored]]) -> tuple[str, ...]:
    """The declared type where the column has one, else the storage class seen in `rows`."""
    known = declared if len(declared) == width else [""] * width
    return tuple(name or storage_class(row[i] for row in rows) for i, name in enumerate(known))
