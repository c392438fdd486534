"""Rows of schema snapshots: what the agents found in the target databases.

A snapshot arrives in pieces, as an upload that nobody reads; `publish` makes it the one that counts, all at once.
Tables are found however their names are spelled: by what is lower case of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from dbward.db.engine import Tx
from dbward.db.rows import SnapshotRow, TableRow, UploadRow, read
from dbward.db.tables import schema_edges, schema_snapshots, schema_tables, schema_uploads
from dbward.domain.model import Target
from dbward.domain.schema import NO_SCHEMA, Column, Constraint, ForeignKey, Index, Schema, SchemaStatus, Table
from dbward.domain.sql.statements import Name

NEIGHBOURHOOD_MAX: Final = 1000
"""Tables that one decision looks at, the nearest first."""
_CHUNK: Final = 500
"""Values in one IN list."""

_SUMMARY: Final = (
    schema_tables.c.schema_name,
    schema_tables.c.name,
    schema_tables.c.kind,
    schema_tables.c.estimated_rows,
    schema_tables.c.column_count,
    schema_tables.c.constraint_count,
    schema_tables.c.index_count,
)


def folded_path(schema: str, name: str) -> str:
    """How a table is found by schema and name, letter case aside."""
    return f"{schema}.{name}".lower()


# --- uploads ----------------------------------------------------------------------------------------------------------


def begin(tx: Tx, row: UploadRow) -> None:
    """Open an upload, and drop what the same process left unfinished for the same target."""
    theirs = _unfinished() & (schema_uploads.c.session == row.session) & _on(schema_uploads.c, row.target)
    tx.conn.execute(delete(schema_uploads).where(theirs))
    tx.conn.execute(insert(schema_uploads).values({name: getattr(row, name) for name in row.__slots__}))


def find_upload(conn: Connection, upload_id: str) -> UploadRow | None:
    row = conn.execute(select(schema_uploads).where(schema_uploads.c.id == upload_id)).mappings().first()
    return read(UploadRow, row) if row is not None else None


def drop_upload(tx: Tx, upload_id: str) -> None:
    """Forget an upload with its tables, unless it is the one that counts."""
    tx.conn.execute(delete(schema_uploads).where(schema_uploads.c.id == upload_id, _unfinished()))


def drop_idle(tx: Tx, before: datetime) -> None:
    """Forget every unfinished upload of which nothing was heard since then."""
    tx.conn.execute(delete(schema_uploads).where(schema_uploads.c.last_at < before, _unfinished()))


def put_tables(tx: Tx, upload_id: str, rows: Sequence[TableRow], now: datetime) -> None:
    """Add tables to an upload; those it has already are replaced, so that a piece may be sent twice."""
    paths = {folded_path(row.schema_name, row.name) for row in rows}
    same = {(row.schema_name, row.name) for row in rows}
    for chunk in _chunks(paths):
        where = (schema_tables.c.upload_id == upload_id, schema_tables.c.folded_path.in_(chunk))
        for schema, name in tx.conn.execute(select(schema_tables.c.schema_name, schema_tables.c.name).where(*where)):
            if (schema, name) in same:
                one = (schema_tables.c.schema_name == schema, schema_tables.c.name == name)
                tx.conn.execute(delete(schema_tables).where(schema_tables.c.upload_id == upload_id, *one))
    if rows:
        tx.conn.execute(insert(schema_tables), [_values(upload_id, row) for row in rows])
    if edges := [edge for row in rows for edge in _edges(upload_id, row)]:
        tx.conn.execute(insert(schema_edges), edges)
    tx.conn.execute(update(schema_uploads).where(schema_uploads.c.id == upload_id).values(last_at=now))


def count_tables(conn: Connection, upload_id: str) -> int:
    query = select(func.count()).select_from(schema_tables).where(schema_tables.c.upload_id == upload_id)
    return int(conn.execute(query).scalar_one())


def digests(conn: Connection, upload_id: str) -> list[tuple[str, str, str]]:
    """Schema, name and digest of each table, in an order that does not depend on the database."""
    query = select(schema_tables.c.schema_name, schema_tables.c.name, schema_tables.c.digest)
    found = conn.execute(query.where(schema_tables.c.upload_id == upload_id))
    return sorted((schema, name, digest) for schema, name, digest in found)


# --- the snapshot that counts -----------------------------------------------------------------------------------------


def publish(tx: Tx, row: SnapshotRow) -> None:
    """Make this the word on its target; an upload that it no longer points at is dropped with its tables."""
    before = find(tx.conn, row.target)
    values = {name: getattr(row, name) for name in row.__slots__}
    if before is None:
        tx.conn.execute(insert(schema_snapshots).values(values))
        return
    tx.conn.execute(update(schema_snapshots).where(_on(schema_snapshots.c, row.target)).values(values))
    if before.upload_id is not None and before.upload_id != row.upload_id:
        tx.conn.execute(delete(schema_uploads).where(schema_uploads.c.id == before.upload_id))


def find(conn: Connection, target: Target) -> SnapshotRow | None:
    row = conn.execute(select(schema_snapshots).where(_on(schema_snapshots.c, target))).mappings().first()
    return read(SnapshotRow, row) if row is not None else None


def of_database(conn: Connection, database: str) -> list[SnapshotRow]:
    query = select(schema_snapshots).where(schema_snapshots.c.database == database)
    return [read(SnapshotRow, row) for row in conn.execute(query.order_by(schema_snapshots.c.environment)).mappings()]


def summaries(conn: Connection, upload_id: str) -> list[dict[str, Any]]:
    """Every table without its content, by schema and name."""
    query = select(*_SUMMARY).where(schema_tables.c.upload_id == upload_id)
    ordered = query.order_by(schema_tables.c.schema_name, schema_tables.c.name)
    return [dict(row) for row in conn.execute(ordered).mappings()]


def all_tables(conn: Connection, upload_id: str) -> list[TableRow]:
    query = select(schema_tables).where(schema_tables.c.upload_id == upload_id)
    ordered = query.order_by(schema_tables.c.schema_name, schema_tables.c.name)
    return [read(TableRow, row) for row in conn.execute(ordered).mappings()]


def find_tables(conn: Connection, upload_id: str, names: Iterable[Name], *, most: int) -> list[TableRow]:
    """Every table that one of `names` may mean, letter case aside, up to `most` of them."""
    wanted = set(names)
    paths = sorted({folded_path(name.schema, name.name) for name in wanted if name.schema is not None})
    bare = sorted({name.name.lower() for name in wanted if name.schema is None})
    found: dict[tuple[str, str], TableRow] = {}
    for column, values in ((schema_tables.c.folded_path, paths), (schema_tables.c.folded_name, bare)):
        for chunk in _chunks(values):
            rows = _tables(conn, upload_id, column.in_(chunk), most)
            found |= {(row.schema_name, row.name): row for row in rows}
    return list(islice(found.values(), most))


def neighbourhood(conn: Connection, target: Target, names: Iterable[Name], *, most: int = NEIGHBOURHOOD_MAX) -> Schema:
    """The tables that `names` may mean, and all that refer to them by foreign keys, directly or through others.

    Letter case aside; a name without a schema means that table in every schema. Nearest first, `most` in all: when
    there are more, what is returned is not `ready` but `partial`. Never reads the rest of the snapshot.
    """
    snapshot = find(conn, target)
    if snapshot is None:
        return NO_SCHEMA
    if snapshot.upload_id is None:
        return Schema(snapshot.status)
    upload_id = snapshot.upload_id
    edge = find_tables(conn, upload_id, names, most=most + 1)
    found: dict[tuple[str, str], TableRow] = {}
    while edge:
        found |= {(row.schema_name, row.name): row for row in edge}
        if len(found) > most:
            break
        following = sorted(_children(conn, upload_id, edge) - found.keys())
        edge = _by_key(conn, upload_id, following[: most + 1 - len(found)])
    cut = len(found) > most
    return Schema(
        status=SchemaStatus.PARTIAL if cut and snapshot.status is SchemaStatus.READY else snapshot.status,
        collected_at=snapshot.collected_at,
        tables=tuple(_table(row) for row in islice(found.values(), most)),
    )


def _children(conn: Connection, upload_id: str, rows: Iterable[TableRow]) -> set[tuple[str, str]]:
    """Schema and name of every table with a foreign key to one of `rows`."""
    found: set[tuple[str, str]] = set()
    for chunk in _chunks(sorted({folded_path(row.schema_name, row.name) for row in rows})):
        query = select(schema_edges.c.schema_name, schema_edges.c.name).where(
            schema_edges.c.upload_id == upload_id, schema_edges.c.parent_path.in_(chunk)
        )
        found.update((schema, name) for schema, name in conn.execute(query))
    return found


def _by_key(conn: Connection, upload_id: str, keys: Sequence[tuple[str, str]]) -> list[TableRow]:
    wanted = set(keys)
    found: list[TableRow] = []
    for chunk in _chunks(sorted({folded_path(*key) for key in keys})):
        rows = _tables(conn, upload_id, schema_tables.c.folded_path.in_(chunk))
        found += [row for row in rows if (row.schema_name, row.name) in wanted]  # others differ in letter case only
    return found


def _tables(conn: Connection, upload_id: str, which: ColumnElement[bool], most: int | None = None) -> list[TableRow]:
    """By schema and name. Sorted here: a database asked to do it may read the whole snapshot in that order instead."""
    query = select(schema_tables).where(schema_tables.c.upload_id == upload_id, which).limit(most)
    rows = [read(TableRow, row) for row in conn.execute(query).mappings()]
    return sorted(rows, key=lambda row: (row.schema_name, row.name))


def _table(row: TableRow) -> Table:
    """A row as the domain knows it; foreign keys are constraints on the wire, and something of their own here."""
    content = row.content
    return Table(
        name=Name(row.name, row.schema_name),
        kind=row.kind,
        estimated_rows=row.estimated_rows,
        columns=tuple(
            Column(
                name=column["name"],
                data_type=column["data_type"],
                nullable=column["nullable"],
                default=column.get("default_value"),
                is_primary_key=column["is_primary_key"],
            )
            for column in content["columns"]
        ),
        constraints=tuple(
            Constraint(name=one["name"], kind=one["constraint_type"], columns=tuple(one["columns"]))
            for one in content["constraints"]
            if one["constraint_type"] != "foreign_key"
        ),
        foreign_keys=tuple(
            ForeignKey(
                name=one["name"],
                columns=tuple(one["columns"]),
                parent=Name(one["referenced_table"], one["referenced_schema"]),
                parent_columns=tuple(one["referenced_columns"]),
                on_delete=one["on_delete"],
            )
            for one in _foreign_keys(row)
        ),
        indexes=tuple(
            Index(
                name=index["name"],
                columns=tuple(index["columns"]),
                unique=index["is_unique"],
                method=index["index_type"],
            )
            for index in content["indexes"]
        ),
    )


def _foreign_keys(row: TableRow) -> Iterator[dict[str, Any]]:
    return (one for one in row.content["constraints"] if one["constraint_type"] == "foreign_key")


def _values(upload_id: str, row: TableRow) -> dict[str, Any]:
    return {
        "upload_id": upload_id,
        "folded_name": row.name.lower(),
        "folded_path": folded_path(row.schema_name, row.name),
        **{name: getattr(row, name) for name in row.__slots__},
    }


def _edges(upload_id: str, row: TableRow) -> list[dict[str, str]]:
    parents = {folded_path(one["referenced_schema"], one["referenced_table"]) for one in _foreign_keys(row)}
    return [
        {"upload_id": upload_id, "schema_name": row.schema_name, "name": row.name, "parent_path": parent}
        for parent in sorted(parents)
    ]


def _unfinished() -> ColumnElement[bool]:
    used = select(schema_snapshots.c.upload_id).where(schema_snapshots.c.upload_id.is_not(None))
    return schema_uploads.c.id.not_in(used)


def _on(columns: Any, target: Target) -> ColumnElement[bool]:
    there: ColumnElement[bool] = (columns.database == target.database) & (columns.environment == target.environment)
    return there


def _chunks(values: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(values)
    while chunk := list(islice(remaining, _CHUNK)):
        yield chunk
