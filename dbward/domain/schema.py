"""What is known of a target database's tables, as its agent last reported it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from dbward.domain.sql.statements import Name


class SchemaStatus(StrEnum):
    """`partial`: some tables could not be read; `not_synced`: no agent has reported it yet."""

    READY = "ready"
    PARTIAL = "partial"
    FAILED = "failed"
    NOT_SYNCED = "not_synced"


class TableKind(StrEnum):
    TABLE = "table"
    PARTITIONED = "partitioned"
    VIEW = "view"
    MATERIALIZED_VIEW = "materialized_view"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    data_type: str
    nullable: bool
    default: str | None = None
    is_primary_key: bool = False


@dataclass(frozen=True, slots=True)
class Index:
    name: str
    columns: tuple[str, ...]
    unique: bool = False
    method: str = "btree"


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """`on_delete`: CASCADE, SET_NULL, RESTRICT, NO_ACTION or SET_DEFAULT."""

    name: str
    columns: tuple[str, ...]
    parent: Name
    parent_columns: tuple[str, ...]
    on_delete: str = "NO_ACTION"


@dataclass(frozen=True, slots=True)
class Constraint:
    """A primary key, unique or check constraint; `kind` is `primary_key`, `unique` or `check`."""

    name: str
    kind: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """`name.schema` is always given. `estimated_rows` None: the database does not know either."""

    name: Name
    kind: TableKind = TableKind.TABLE
    estimated_rows: int | None = None
    columns: tuple[Column, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    indexes: tuple[Index, ...] = ()


@dataclass(frozen=True, slots=True)
class Schema:
    """The part of a snapshot that a decision needs: the tables that are named, and their children through foreign keys.

    `tables` holds whatever could be meant: every table of that name, in whichever schema and spelling.
    """

    status: SchemaStatus = SchemaStatus.NOT_SYNCED
    collected_at: datetime | None = None
    tables: tuple[Table, ...] = ()

    def candidates(self, name: Name) -> tuple[Table, ...]:
        """Every table that `name` may mean, letter case aside; with a schema in the text, only that schema's."""
        return tuple(
            table
            for table in self.tables
            if table.name.name.lower() == name.name.lower()
            and (name.schema is None or (table.name.schema or "").lower() == name.schema.lower())
        )

    def children(self, parents: Iterable[Name]) -> tuple[tuple[Table, ForeignKey], ...]:
        """Tables with a foreign key to any of `parents`, each with that key."""
        wanted = {(parent.schema, parent.name) for parent in parents}
        return tuple(
            (table, key)
            for table in self.tables
            for key in table.foreign_keys
            if (key.parent.schema, key.parent.name) in wanted
        )


NO_SCHEMA = Schema()
