"""What SQLAlchemy's Inspector does not tell: kinds, row estimates, and types in the words of the database.

One query lists everything there is with its estimate; another one gives the types of the columns of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.exc import DBAPIError

from dbward.client.wire import WireColumn
from dbward.domain.model import Dialect
from dbward.domain.schema import TableKind

LARGEST: Final = 2**63 - 1
LONGEST_TEXT: Final = 1000
SQLITE_SCHEMA: Final = "main"
LONGEST_DEFINITION: Final = 64 * 1024
"""Characters. The Inspector's patterns take time with its square: a tenth of a second here, half a minute for 1 MB."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A table or view before anything was looked at. `estimated_rows` None: the database does not know."""

    schema: str
    name: str
    kind: TableKind
    estimated_rows: int | None = None
    virtual: bool = False
    """Of a SQLite module: what it costs to ask it anything, only the module knows."""
    oversized: bool = False
    """Of a SQLite text so long that taking it apart would hold up everything else in this process."""


Types = Mapping[tuple[str, str, str], str]
"""By schema, table and column."""


def short(text: str | None) -> str | None:
    """What is longer than anybody reads, cut."""
    return text if text is None or len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def listed(connection: Connection, dialect: Dialect) -> list[Listed]:
    """Every table and view an agent's login may see, except those of the database itself."""
    match dialect:
        case Dialect.POSTGRESQL:
            return _postgresql(connection)
        case Dialect.MYSQL:
            return _mysql(connection)
        case Dialect.SQLITE:
            return _sqlite(connection)


def column_types(connection: Connection, dialect: Dialect, batch: Sequence[Listed]) -> Types:
    """The type of every column of the tables in `batch`."""
    names = [table.name for table in batch]
    match dialect:
        case Dialect.POSTGRESQL:
            rows: Iterable[Any] = connection.execute(_POSTGRESQL_TYPES, {"names": names})
        case Dialect.MYSQL:
            rows = connection.execute(_MYSQL_TYPES, {"names": names})
        case Dialect.SQLITE:
            rows = (
                (SQLITE_SCHEMA, name, column, kind)
                for name in names
                for column, kind in connection.execute(_SQLITE_TYPES, {"name": name})
            )
    return {(schema, table, column): kind for schema, table, column, kind in rows}


# --- PostgreSQL -------------------------------------------------------------------------------------------------------

_RELKINDS: Final = {
    "r": TableKind.TABLE,
    "p": TableKind.PARTITIONED,
    "v": TableKind.VIEW,
    "m": TableKind.MATERIALIZED_VIEW,
    "f": TableKind.FOREIGN,
}

_NEVER_ANALYSED: Final = """greatest(pg_stat_get_live_tuples(c.oid),
    ceil(pg_relation_size(c.oid) / current_setting('block_size')::float8) * (
        SELECT greatest(1, floor((current_setting('block_size')::int - 24) / (28 + coalesce(sum(
            CASE WHEN a.attlen > 0 THEN a.attlen ELSE 32 END), 0)::float8)))
        FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
"""
"""As the planner guesses: as many rows as fit into the pages there are, were every text 32 bytes long."""

_POSTGRESQL: Final = """
    SELECT c.oid, ARRAY(SELECT inhparent FROM pg_catalog.pg_inherits WHERE inhrelid = c.oid),
        n.nspname, c.relname, c.relkind,
        CASE
            WHEN c.relkind NOT IN ('r', 'm', 'f') THEN NULL
            WHEN c.reltuples > 0 OR c.relpages > 0 AND c.reltuples = 0
                THEN greatest(c.reltuples, pg_stat_get_live_tuples(c.oid))
            WHEN c.relkind = 'f' THEN NULL
            ELSE {never_analysed}
        END::float8
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND n.nspname <> 'information_schema' AND left(n.nspname, 3) <> 'pg_'
    ORDER BY n.nspname, c.relname
"""

_POSTGRESQL_TYPES: Final = text("""
    SELECT n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = ANY(CAST(:names AS name[])) AND a.attnum > 0 AND NOT a.attisdropped
        AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
""")


def _postgresql(connection: Connection) -> list[Listed]:
    try:
        with connection.begin_nested():
            rows = connection.exec_driver_sql(_POSTGRESQL.format(never_analysed=_NEVER_ANALYSED)).all()
    except DBAPIError as error:
        # The size of a table takes a lock on it, which whoever alters it may hold; the statistics do not.
        if error.connection_invalidated:
            raise
        rows = connection.exec_driver_sql(_POSTGRESQL.format(never_analysed="NULL")).all()
    own = {oid: (0 if kind == "p" else rows_known, parents) for oid, parents, _, _, kind, rows_known in rows}
    estimates = _with_heirs(own)
    return [Listed(schema, name, _RELKINDS[kind], estimates[oid]) for oid, _, schema, name, kind, _ in rows]


def _with_heirs(own: Mapping[int, tuple[float | None, Sequence[int]]]) -> dict[int, int | None]:
    """Estimates by oid, from each table's own rows and parents.

    A statement about a table is about its partitions, and whatever else inherits from it, too. What is not known of one
    of them is not known of all together.
    """
    heirs: dict[int, list[int]] = {}
    for oid, (_, parents) in own.items():
        for parent in parents:
            heirs.setdefault(parent, []).append(oid)

    def estimate(oid: int) -> int | None:
        rows = own[oid][0]
        below = [estimate(heir) for heir in heirs.get(oid, ())]
        if rows is None or None in below:
            return None
        return min(int(rows) + sum(part for part in below if part is not None), LARGEST)

    return {oid: estimate(oid) for oid in own}


# --- MySQL and MariaDB ------------------------------------------------------------------------------------------------

_INNODB_PAGE: Final = 16384

_MYSQL: Final = """
    SELECT table_schema, table_name, table_type, table_rows, data_length
    FROM information_schema.tables
    WHERE table_schema = DATABASE() AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED', 'VIEW')
    ORDER BY table_name
"""

_MYSQL_TYPES: Final = text("""
    SELECT table_schema, table_name, column_name, column_type
    FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name IN :names
""").bindparams(bindparam("names", expanding=True))


_MYSQL_VIEWS: Final = text("""
    SELECT table_schema, table_name, column_name, column_type, is_nullable, column_default
    FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name IN :names
    ORDER BY table_name, ordinal_position
""").bindparams(bindparam("names", expanding=True))


def mysql_views(connection: Connection, views: Sequence[Listed]) -> dict[tuple[str, str], list[WireColumn]]:
    """Columns of views; none for a view that no longer makes sense.

    The Inspector asks for the text of a view, which takes a privilege of its own.
    """
    found: dict[tuple[str, str], list[WireColumn]] = {}
    rows = connection.execute(_MYSQL_VIEWS, {"names": [view.name for view in views]})
    for schema, view, name, kind, nullable, default in rows:
        column = WireColumn(name=name, data_type=kind, nullable=nullable == "YES", default_value=short(default))
        found.setdefault((schema, view), []).append(column)
    return found


def _mysql(connection: Connection) -> list[Listed]:
    return [
        Listed(schema, name, TableKind.VIEW)
        if kind == "VIEW"
        else Listed(schema, name, TableKind.TABLE, _mysql_rows(rows, size))
        for schema, name, kind, rows, size in connection.exec_driver_sql(_MYSQL)
    ]


def _mysql_rows(rows: int | None, size: int | None) -> int | None:
    """No rows on more than one page means that nobody has counted them yet."""
    if rows is None or (rows == 0 and (size or 0) > _INNODB_PAGE):
        return None
    return min(int(rows), LARGEST)


# --- SQLite -----------------------------------------------------------------------------------------------------------

_SQLITE: Final = """
    SELECT name, type, coalesce(sql, '') LIKE 'CREATE VIRTUAL%', length(sql)
    FROM main.sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
    ORDER BY name
"""
_SQLITE_TYPES: Final = text("SELECT name, type FROM pragma_table_xinfo(:name, 'main')")
_ROWID_NAMES: Final = ("rowid", "_rowid_", "oid")


def _sqlite(connection: Connection) -> list[Listed]:
    counted = _sqlite_statistics(connection)
    return [
        Listed(
            SQLITE_SCHEMA,
            name,
            TableKind.VIEW if kind == "view" else TableKind.TABLE,
            counted.get(name.lower()) if kind == "table" else None,
            virtual=bool(virtual),
            oversized=(length or 0) > LONGEST_DEFINITION,
        )
        for name, kind, virtual, length in connection.exec_driver_sql(_SQLITE)
    ]


def _sqlite_statistics(connection: Connection) -> dict[str, int]:
    """What ANALYZE counted, by table in lower case; empty when it never ran."""
    known = connection.exec_driver_sql("SELECT 1 FROM main.sqlite_master WHERE name = 'sqlite_stat1'").first()
    if known is None:
        return {}
    found: dict[str, int] = {}
    for table, stat in connection.exec_driver_sql("SELECT tbl, stat FROM main.sqlite_stat1"):
        first = str(stat).partition(" ")[0]
        if first.isdecimal():
            found[table.lower()] = max(found.get(table.lower(), 0), min(int(first), LARGEST))
    return found


_SQLITE_REFERENCES: Final = text(
    'SELECT id, "table", "from", "to", on_delete FROM pragma_foreign_key_list(:name, \'main\') ORDER BY id, seq'
)
_SQLITE_KEY: Final = text("SELECT name FROM pragma_table_info(:name, 'main') WHERE pk > 0 ORDER BY pk")


@dataclass(slots=True)
class Reference:
    """What SQLite itself says of one foreign key of a table."""

    parent: str
    on_delete: str
    columns: list[str] = field(default_factory=list)
    parent_columns: list[str] = field(default_factory=list)


def sqlite_references(connection: Connection, table: Listed) -> dict[tuple[str, tuple[str, ...]], Reference]:
    """Each foreign key by its parent as it is written and its own columns.

    The Inspector does not know what a column itself REFERENCES is to do on a delete, and which columns it means when
    it names none of a parent that is spelled in another letter case.
    """
    found: dict[int, Reference] = {}
    for number, parent, column, parent_column, rule in connection.execute(_SQLITE_REFERENCES, {"name": table.name}):
        reference = found.setdefault(number, Reference(parent, rule))
        reference.columns.append(column)
        if parent_column is not None:
            reference.parent_columns.append(parent_column)
    for reference in found.values():
        if not reference.parent_columns:
            reference.parent_columns += connection.execute(_SQLITE_KEY, {"name": reference.parent}).scalars()
    return {(reference.parent, tuple(reference.columns)): reference for reference in found.values()}


def sqlite_rows(connection: Connection, table: Listed, columns: Iterable[str]) -> int | None:
    """At most how many rows there can be, from the first and the last row's number: two steps down the tree.

    None for what has no such numbers, or hides them behind columns of those names.
    """
    taken = {column.lower() for column in columns}
    rowid = next((name for name in _ROWID_NAMES if name not in taken), None)
    if rowid is None or table.virtual or table.kind is not TableKind.TABLE:
        return None
    quoted = '"' + table.name.replace('"', '""') + '"'
    ends = f"SELECT (SELECT max({rowid}) FROM main.{quoted}), (SELECT min({rowid}) FROM main.{quoted})"  # noqa: S608 quoted
    try:
        last, first = connection.exec_driver_sql(ends).one()
    except DBAPIError:  # WITHOUT ROWID
        return None
    return 0 if last is None else min(last - first + 1, LARGEST)
