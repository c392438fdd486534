"""`/api/schemas`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dbward.client.answers.base import Answer, Count, Time
from dbward.client.wire import WireColumn, WireConstraint, WireIndex
from dbward.domain.model import Dialect
from dbward.domain.schema import SchemaStatus, TableKind


class Summary(Answer):
    """`estimated_rows` is -1 where the database does not know."""

    name: str
    schema_name: str
    kind: TableKind
    estimated_rows: int
    column_count: Count
    constraint_count: Count
    index_count: Count


class Table(Answer):
    name: str
    schema_name: str
    kind: TableKind
    estimated_rows: int
    columns: list[WireColumn]
    constraints: list[WireConstraint]
    indexes: list[WireIndex]


class Cascade(Answer):
    """A table that loses rows with the one it refers to, `depth` references away."""

    table_name: str
    schema_name: str
    estimated_rows: int
    depth: Count


class KnownTable(Table):
    cascade_children: list[Cascade] = Field(default=[])
    cascade_children_truncated: bool = False


class Snapshot(Answer):
    """`tables` without `?table=`: summaries, or all of it with `summary=false`. `unread`: tables not known."""

    database: str
    environment: str
    dialect: Dialect
    status: SchemaStatus | Literal["ready"]
    collected_at: Time | None
    error: str = ""
    unread: list[str] = Field(default=[])
    table: Table | None = None
    tables: list[Summary | Table] = Field(default=[])
