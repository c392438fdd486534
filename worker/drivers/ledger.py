"""A database's record of its migrations: the table that dbmate keeps, which has versions only, and ours beside it.

Both are named in full and every value is written in hex, so that nothing a migration sets changes what is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from dbward.domain.migration import Applied
from dbward.domain.model import Dialect

VERSIONS: Final = "schema_migrations"
DETAILS: Final = "dbward_migrations"


class MigrationLock(Protocol):
    """The right to migrate one database, on a connection of its own, until it is closed or its process ends."""

    def held(self) -> bool:
        """Whether it is still ours; the connection that holds it can be lost."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Spelling:
    """What each engine calls things. `{hex}` is a text in hex."""

    versions: str
    details: str
    text: str
    now: str


_SPELLINGS: Final[Mapping[Dialect, _Spelling]] = {
    Dialect.POSTGRESQL: _Spelling(
        versions="(version varchar PRIMARY KEY)",
        details="(version varchar PRIMARY KEY, name text, checksum text, applied_at timestamptz NOT NULL,"
        " request_id text)",
        text="pg_catalog.convert_from(pg_catalog.decode('{hex}', 'hex'), 'UTF8')",
        now="pg_catalog.clock_timestamp()",
    ),
    Dialect.MYSQL: _Spelling(
        versions="(version varchar(128) PRIMARY KEY)",
        details="(version varchar(128) PRIMARY KEY, name varchar(255) CHARACTER SET utf8mb4, checksum char(64),"
        " applied_at datetime(6) NOT NULL COMMENT 'UTC', request_id varchar(64))",
        text="CONVERT(X'{hex}' USING utf8mb4)",
        now="UTC_TIMESTAMP(6)",
    ),
    Dialect.SQLITE: _Spelling(
        versions="(version varchar(128) PRIMARY KEY)",
        details="(version varchar(128) PRIMARY KEY, name text, checksum text, applied_at text NOT NULL,"
        " request_id text)",
        text="CAST(X'{hex}' AS TEXT)",
        now="strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
    ),
}
"""The first table is dbmate's to the letter, as of 2.36."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The record as it was read. `place` is what stands before a table's name, quoted and with its dot."""

    dialect: Dialect
    place: str
    tables: frozenset[str]
    applied: tuple[Applied, ...]

    def has(self, version: str) -> bool:
        return any(one.version == version for one in self.applied)

    def missing(self) -> tuple[str, ...]:
        """The statements that make the tables which are not there."""
        spelled = _SPELLINGS[self.dialect]
        columns = {VERSIONS: spelled.versions, DETAILS: spelled.details}
        return tuple(
            f"CREATE TABLE IF NOT EXISTS {self.place}{table} {text}"
            for table, text in columns.items()
            if table not in self.tables
        )

    def adding(self, version: str, *, name: str | None, checksum: str | None, request_id: str) -> tuple[str, ...]:
        """The statements that record a version. What another tool took back may have left its details behind."""
        values = ", ".join(map(self._text, (version, name, checksum)))
        now = _SPELLINGS[self.dialect].now
        columns = "version, name, checksum, applied_at, request_id"
        return (
            f"INSERT INTO {self.place}{VERSIONS} (version) VALUES ({self._text(version)})",  # noqa: S608  in hex
            self._removing(DETAILS, version),
            f"INSERT INTO {self.place}{DETAILS} ({columns}) VALUES ({values}, {now}, {self._text(request_id)})",  # noqa: S608  same
        )

    def removing(self, version: str) -> tuple[str, ...]:
        """The statements that take a version out of the tables that are there."""
        return tuple(self._removing(table, version) for table in (VERSIONS, DETAILS) if table in self.tables)

    def _removing(self, table: str, version: str) -> str:
        return f"DELETE FROM {self.place}{table} WHERE version = {self._text(version)}"  # noqa: S608  in hex

    def _text(self, value: str | None) -> str:
        return "NULL" if value is None else _SPELLINGS[self.dialect].text.format(hex=value.encode().hex())


def reading(place: str, tables: Iterable[str]) -> dict[str, str]:
    """What reads each of the tables that are there, all of it."""
    columns = {VERSIONS: "version", DETAILS: "version, name, checksum, applied_at, request_id"}
    return {table: f"SELECT {columns[table]} FROM {place}{table}" for table in tables if table in columns}  # noqa: S608


def ledger(dialect: Dialect, place: str, rows: Mapping[str, Sequence[Sequence[Any]]]) -> Ledger:
    """From the rows of the tables that are there. Details of a version that is not applied any more are left out."""
    details = {str(row[0]): row for row in rows.get(DETAILS, ())}
    versions = sorted({str(row[0]) for row in rows.get(VERSIONS, ())}, key=_order)
    return Ledger(dialect, place, frozenset(rows), tuple(_applied(version, details) for version in versions))


def _applied(version: str, details: Mapping[str, Sequence[Any]]) -> Applied:
    if version not in details:
        return Applied(version)
    _, name, checksum, applied_at, request_id = details[version]
    return Applied(version, _text(name), _text(checksum), _time(applied_at), _text(request_id))


def _text(stored: Any) -> str | None:
    """SQLite takes anything into any column."""
    return stored if isinstance(stored, str) else None


def _order(version: str) -> tuple[int, str]:
    number = len(version) <= 128 and version.isascii() and version.isdigit()
    return (int(version) if number else -1, version)


def _time(stored: Any) -> datetime | None:
    """MySQL's has no zone and SQLite's is text; somebody may have written anything there."""
    if isinstance(stored, str):
        try:
            stored = datetime.fromisoformat(stored)
        except ValueError:
            return None
    if not isinstance(stored, datetime):
        return None
    try:
        return stored.replace(tzinfo=UTC) if stored.tzinfo is None else stored.astimezone(UTC)
    except OverflowError:
        return None
