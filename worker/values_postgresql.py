"""PostgreSQL values, from the text the server prints to JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from worker.values import FromBytes, JsonValue, from_float, from_integer, from_json, from_text

MAX_DIMENSIONS = 6
"""The server's own limit."""


def _from_bool(raw: bytes) -> JsonValue:
    return raw == b"t"


_PLAIN: dict[int, FromBytes] = {
    16: _from_bool,
    21: from_integer,
    23: from_integer,
    20: from_integer,
    700: from_float,
    701: from_float,
    114: from_json,
    3802: from_json,
}
"""By type OID. Every other type is the text the server prints: numeric and money keep their digits, bytea is `\\x…`."""

Rows = Sequence[Sequence[bytes | None]]

_HAND_ASSIGNED = 10_000
"""OIDs below are the same in every server of every version; types above may be dropped and made anew."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What `pg_type` says: the OID of a true array's element, of a domain's base type, or 0."""

    element: int
    base: int
    delimiter: str


class PgTypes:
    """Names and readers of column types, asked of the server once for the built-in ones.

    Shared by the sessions of a driver, from several threads: entries are only ever added, and are equal if added twice.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[int, int], str] = {}
        self._kinds: dict[int, _Kind] = {}

    def resolve(
        self, columns: Sequence[tuple[int, int]], ask: Callable[[str], Rows]
    ) -> tuple[tuple[str, FromBytes], ...]:
        """The name and the reader of each (OID, modifier); `ask` runs a query when something is not known yet."""
        names = dict(self._names)
        unnamed = {pair for pair in columns if pair not in names}
        if unnamed:
            names.update(_ask_names(unnamed, ask))
            self._names.update({pair: name for pair, name in names.items() if pair[0] < _HAND_ASSIGNED})
        kinds = dict(self._kinds)
        wanted = {oid for oid, _ in columns if oid not in _PLAIN}
        while missing := wanted - kinds.keys():
            found = _ask_kinds(missing, ask)
            kinds.update({oid: found.get(oid, _Kind(0, 0, ",")) for oid in missing})
            related = {related for oid in missing for related in (kinds[oid].element, kinds[oid].base)}
            wanted |= related - _PLAIN.keys() - {0}
        self._kinds.update({oid: kind for oid, kind in kinds.items() if oid < _HAND_ASSIGNED})
        return tuple((names.get((oid, mod), str(oid)), _reader(oid, kinds)) for oid, mod in columns)


def _ask_names(pairs: Iterable[tuple[int, int]], ask: Callable[[str], Rows]) -> dict[tuple[int, int], str]:
    wanted = ", ".join(f"({oid}::pg_catalog.oid, {mod})" for oid, mod in sorted(pairs))
    rows = ask(
        "SELECT oid, mod, pg_catalog.format_type(oid, CASE WHEN mod >= 0 THEN mod END)"  # noqa: S608  integers only
        f" FROM (VALUES {wanted}) AS wanted(oid, mod)"
    )
    return {(int(oid or 0), int(mod or 0)): from_text(name or b"") for oid, mod, name in rows}


def _ask_kinds(oids: Iterable[int], ask: Callable[[str], Rows]) -> dict[int, _Kind]:
    wanted = ", ".join(str(oid) for oid in sorted(oids))
    rows = ask(
        "SELECT t.oid, CASE WHEN t.typinput = 'pg_catalog.array_in'::pg_catalog.regproc THEN t.typelem ELSE 0 END,"  # noqa: S608  integers only
        " t.typbasetype, coalesce(e.typdelim, ',') FROM pg_catalog.pg_type t"
        f" LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem WHERE t.oid IN ({wanted})"
    )
    return {
        int(oid or 0): _Kind(int(element or 0), int(base or 0), (delimiter or b",").decode())
        for oid, element, base, delimiter in rows
    }


def _reader(oid: int, kinds: dict[int, _Kind]) -> FromBytes:
    if oid in _PLAIN:
        return _PLAIN[oid]
    kind = kinds.get(oid)
    if kind is None:
        return from_text
    if kind.base:
        return _reader(kind.base, kinds)
    if kind.element:
        return _array_reader(_reader(kind.element, kinds), kind.delimiter)
    return from_text


def _array_reader(element: FromBytes, delimiter: str) -> FromBytes:
    def read(raw: bytes) -> JsonValue:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return from_text(raw)
        try:
            return parse_array(text, element, delimiter)
        except ValueError:
            return text

    return read


def parse_array(text: str, element: FromBytes, delimiter: str = ",") -> JsonValue:
    """Nested lists from an array literal. Raises ValueError for own lower bounds and for what is no array literal."""
    if not text.startswith("{"):
        raise ValueError("not an array with the default bounds")
    top: list[JsonValue] = []
    open_lists: list[list[JsonValue]] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char == "{":
            inner: list[JsonValue] = top if not open_lists else []
            if open_lists:
                open_lists[-1].append(inner)
            open_lists.append(inner)
            if len(open_lists) > MAX_DIMENSIONS:
                raise ValueError("too many dimensions")
            at += 1
        elif char == "}":
            open_lists.pop()
            at += 1
            if not open_lists:
                break
        elif char == delimiter:
            at += 1
        elif char == '"':
            item, at = _quoted(text, at + 1)
            open_lists[-1].append(element(item.encode()))
        else:
            item, at = _bare(text, at, delimiter)
            open_lists[-1].append(None if item == "NULL" else element(item.encode()))
    if open_lists or at != len(text):
        raise ValueError("not an array literal")
    return top


def _quoted(text: str, at: int) -> tuple[str, int]:
    parts: list[str] = []
    start = at
    while True:
        if at >= len(text):
            raise ValueError("unterminated quote")
        if text[at] == "\\":
            parts.append(text[start:at])
            start = at + 1
            at += 2
        elif text[at] == '"':
            parts.append(text[start:at])
            return "".join(parts), at + 1
        else:
            at += 1


def _bare(text: str, at: int, delimiter: str) -> tuple[str, int]:
    start = at
    while at < len(text) and text[at] not in ("}", delimiter):
        at += 1
    return text[start:at], at
