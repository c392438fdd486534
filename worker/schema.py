"""Reading the schema of a target database, a batch of tables at a time.

Each batch has a connection of its own, so nothing is held while the one before is on its way to the server, and memory
holds one batch and the list of names.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, Final, Literal

from sqlalchemy import Connection, inspect
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.exc import DBAPIError, SAWarning

from dbward.client.wire import (
    SCHEMA_BATCH_BYTES,
    SCHEMA_BATCH_TABLES,
    WireColumn,
    WireConstraint,
    WireIndex,
    WireTable,
)
from dbward.domain.model import Dialect
from dbward.domain.schema import TableKind
from dbward.errors import DbwardError
from worker.drivers.base import Driver
from worker.schema_catalog import (
    LONGEST_TEXT,
    Listed,
    Reference,
    Types,
    column_types,
    listed,
    mysql_views,
    short,
    sqlite_references,
    sqlite_rows,
)

# Of what the Inspector cannot make sense of, such as the type of an extension, nothing is taken from it.
warnings.filterwarnings("ignore", category=SAWarning, module=r"worker\.schema")

MAX_SECS: Final = 900.0
"""After this, a collection is given up."""
BATCH_BYTES: Final = SCHEMA_BATCH_BYTES // 4
"""Of JSON in one piece; a single table may be larger."""

_DELETE_RULES: Final[dict[str, Literal["CASCADE", "SET_NULL", "RESTRICT", "NO_ACTION", "SET_DEFAULT"]]] = {
    "CASCADE": "CASCADE",
    "SET NULL": "SET_NULL",
    "RESTRICT": "RESTRICT",
    "NO ACTION": "NO_ACTION",
    "SET DEFAULT": "SET_DEFAULT",
}

_SQLITE_OUT_OF_ORDER: Final = (
    *("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_INTERRUPT"),
    *("SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CANTOPEN"),
)

Found = Mapping[tuple[str | None, str], Any]


class TooSlow(DbwardError):
    """The collection took longer than `MAX_SECS`."""

    code = "schema.too_slow"


@dataclass(slots=True)
class Piece:
    """What one batch gave: tables, and the names of those that could not be read."""

    tables: list[WireTable] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def collect(driver: Driver, *, most_secs: float = MAX_SECS) -> Iterator[Piece]:
    """The whole schema, piece by piece, none larger than the server takes at once.

    `most_secs` bounds the reading; what is done with a piece meanwhile does not count. Raises Unreachable,
    CredentialsRefused, TooSlow, or SQLAlchemyError when the list itself cannot be had. A table that is dropped
    meanwhile is left out.
    """
    began = time.monotonic()
    with driver.reflect() as connection:
        everything = listed(connection, driver.dialect)
    spent = time.monotonic() - began
    spelled = _Spelling(everything, driver.dialect)
    remaining = iter(everything)
    while batch := list(islice(remaining, SCHEMA_BATCH_TABLES)):
        began = time.monotonic()
        with driver.reflect() as connection:
            piece = _read_patiently(connection, driver.dialect, batch, spelled, until=began + most_secs - spent)
        spent += time.monotonic() - began
        yield from _cut(piece)


class _Spelling:
    """How tables are really spelled: SQLite and MySQL may write a reference in another letter case."""

    def __init__(self, everything: Iterable[Listed], dialect: Dialect) -> None:
        names = {(table.schema, table.name) for table in everything}
        self._exact = frozenset(names)
        fold = dialect is not Dialect.POSTGRESQL
        self._folded = {(schema.lower(), name.lower()): (schema, name) for schema, name in names} if fold else {}

    def of(self, schema: str, name: str) -> tuple[str, str]:
        if (schema, name) in self._exact:
            return schema, name
        return self._folded.get((schema.lower(), name.lower()), (schema, name))


def _read_patiently(
    connection: Connection, dialect: Dialect, batch: Sequence[Listed], spelled: _Spelling, *, until: float
) -> Piece:
    """The batch at once, or table by table when one of them cannot be read. Raises TooSlow after `until`."""
    if time.monotonic() > until:
        raise TooSlow("collecting the schema took too long and was given up")
    # PostgreSQL alone would refuse everything after an error; elsewhere there is no transaction to save.
    guard = connection.begin_nested() if dialect is Dialect.POSTGRESQL else nullcontext()
    try:
        with guard:
            return _read(connection, dialect, batch, spelled)
    except Exception as error:  # whatever is made of one strange table, the others are read
        if _is_of_the_database(error):
            raise
        if len(batch) == 1:
            return Piece(unread=[_shown(batch[0])])
    piece = Piece()
    for table in batch:
        one = _read_patiently(connection, dialect, [table], spelled, until=until)
        piece.tables += one.tables
        piece.unread += one.unread
    return piece


def _is_of_the_database(error: Exception) -> bool:
    """Whether reading another table would end in the same."""
    if not isinstance(error, DBAPIError):
        return False
    return error.connection_invalidated or getattr(error.orig, "sqlite_errorname", "").startswith(_SQLITE_OUT_OF_ORDER)


def _read(connection: Connection, dialect: Dialect, batch: Sequence[Listed], spelled: _Spelling) -> Piece:
    piece = Piece(unread=[_shown(table) for table in batch if table.oversized])
    batch = [table for table in batch if not table.oversized]
    if dialect is Dialect.MYSQL:
        views = [table for table in batch if table.kind is TableKind.VIEW]
        batch = [table for table in batch if table.kind is not TableKind.VIEW]
        _read_views(connection, views, piece)
    types = column_types(connection, dialect, batch) if batch else {}
    for schema, group in groupby(batch, key=lambda table: table.schema):
        tables = list(group)
        found = _reflect(connection, dialect, schema, [table.name for table in tables])
        for table in tables:
            key = (found.schema, table.name)
            if key not in found.columns:
                if found.exists(table.name):
                    piece.unread.append(_shown(table))
                continue
            piece.tables.append(_wire(connection, dialect, table, found, types, spelled))
    return piece


def _read_views(connection: Connection, views: Sequence[Listed], piece: Piece) -> None:
    columns = mysql_views(connection, views) if views else {}
    for view in views:
        own = columns.get((view.schema, view.name))
        if own is None:
            piece.unread.append(_shown(view))
            continue
        piece.tables.append(
            WireTable(schema_name=view.schema, name=view.name, kind=view.kind, columns=own, constraints=[], indexes=[])
        )


@dataclass(frozen=True, slots=True)
class _Reflected:
    """What the Inspector says of some tables of one schema; `schema` as it calls it, None for the default."""

    schema: str | None
    columns: Found
    primary: Found
    unique: Found
    checks: Found
    foreign: Found
    indexes: Found
    connection: Connection

    def exists(self, name: str) -> bool:
        return inspect(self.connection).has_table(name, self.schema)


def _reflect(connection: Connection, dialect: Dialect, schema: str, names: Sequence[str]) -> _Reflected:
    inspector = inspect(connection)
    where = schema if dialect is Dialect.POSTGRESQL else None
    asked: dict[str, Any] = {"schema": where, "filter_names": names, "kind": ObjectKind.ANY}
    return _Reflected(
        schema=where,
        columns=inspector.get_multi_columns(**asked),
        primary=inspector.get_multi_pk_constraint(**asked),
        unique=inspector.get_multi_unique_constraints(**asked),
        checks=inspector.get_multi_check_constraints(**asked),
        foreign=inspector.get_multi_foreign_keys(**asked),
        indexes=inspector.get_multi_indexes(**asked),
        connection=connection,
    )


def _wire(
    connection: Connection, dialect: Dialect, table: Listed, found: _Reflected, types: Types, spelled: _Spelling
) -> WireTable:
    key = (found.schema, table.name)
    columns = found.columns[key]
    primary: Mapping[str, Any] = found.primary.get(key) or {}
    key_columns = list(primary.get("constrained_columns") or [])
    rows = table.estimated_rows
    references: Mapping[tuple[str, tuple[str, ...]], Reference] = {}
    if dialect is Dialect.SQLITE:
        references = sqlite_references(connection, table)
        if rows is None:
            rows = sqlite_rows(connection, table, [column["name"] for column in columns])
    return WireTable(
        schema_name=table.schema,
        name=table.name,
        kind=table.kind,
        estimated_rows=rows,
        columns=[
            WireColumn(
                name=column["name"],
                data_type=types.get((table.schema, table.name, column["name"])) or "",
                nullable=bool(column["nullable"]),
                default_value=short(column.get("default")),
                is_primary_key=column["name"] in key_columns,
            )
            for column in columns
        ],
        constraints=[
            *_primary(primary, key_columns),
            *(
                WireConstraint(
                    name=unique["name"] or "", constraint_type="unique", columns=list(unique["column_names"])
                )
                for unique in found.unique.get(key) or []
            ),
            *(
                WireConstraint(name=check["name"] or "", constraint_type="check")
                for check in found.checks.get(key) or []
            ),
            *(_foreign(one, table.schema, references, spelled) for one in found.foreign.get(key) or []),
        ],
        indexes=[_index(index, connection.dialect.name) for index in found.indexes.get(key) or []],
    )


def _primary(primary: Mapping[str, Any], columns: list[str]) -> list[WireConstraint]:
    if not columns:
        return []
    return [WireConstraint(name=primary.get("name") or "", constraint_type="primary_key", columns=columns)]


def _foreign(
    one: Mapping[str, Any],
    schema: str,
    references: Mapping[tuple[str, tuple[str, ...]], Reference],
    spelled: _Spelling,
) -> WireConstraint:
    columns: list[str] = list(one["constrained_columns"])
    parent = one["referred_table"]
    own = references.get((parent, tuple(columns)))
    rule = own.on_delete if own is not None else (one.get("options") or {}).get("ondelete") or "NO ACTION"
    where, name = spelled.of(one["referred_schema"] or schema, parent)
    return WireConstraint(
        name=one["name"] or "",
        constraint_type="foreign_key",
        columns=columns,
        referenced_schema=where,
        referenced_table=name,
        referenced_columns=own.parent_columns if own is not None else list(one["referred_columns"]),
        on_delete=next((value for said, value in _DELETE_RULES.items() if rule.upper().startswith(said)), "NO_ACTION"),
    )


def _index(index: Mapping[str, Any], engine: str) -> WireIndex:
    options: Mapping[str, Any] = index.get("dialect_options") or {}
    method = options.get(f"{engine}_using") or options.get(f"{engine}_prefix") or "btree"
    return WireIndex(
        name=index["name"] or "",
        columns=[short(column) or "" for column in index.get("expressions") or index["column_names"]],
        is_unique=bool(index["unique"]),
        index_type=str(method).lower(),
    )


def _cut(piece: Piece) -> Iterator[Piece]:
    """Pieces of a size that the server takes; a table that alone is larger than that is one that cannot be read."""
    part, size = Piece(unread=piece.unread), 0
    for table in piece.tables:
        length = len(table.model_dump_json())
        if length > SCHEMA_BATCH_BYTES // 2:
            part.unread.append(_shown(table))
            continue
        if part.tables and size + length > BATCH_BYTES:
            yield part
            part, size = Piece(), 0
        part.tables.append(table)
        size += length
    yield part


def _shown(table: Listed | WireTable) -> str:
    schema = table.schema if isinstance(table, Listed) else table.schema_name
    return f"{schema}.{table.name}"[:LONGEST_TEXT]
