"""Schema snapshots in the state database: pieces, the moment they count, and the part that a decision sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select

from dbward.db import schemas
from dbward.db.engine import Store
from dbward.db.rows import SnapshotRow, TableRow, UploadRow
from dbward.db.tables import schema_edges, schema_tables, schema_uploads
from dbward.domain.model import Dialect, Target
from dbward.domain.schema import Schema, SchemaStatus, TableKind
from dbward.domain.sql.statements import Name

APP = Target("app", "production")
T0 = datetime(2026, 5, 1, tzinfo=UTC)


def table(
    name: str, *parents: str, schema: str = "public", rows: int | None = 7, on_delete: str = "CASCADE"
) -> TableRow:
    """A table with a foreign key to each of `parents`, which are `name` or `schema.name`."""
    keys = []
    for parent in parents:
        where, _, bare = parent.rpartition(".")
        keys.append(
            {
                "name": f"fk_{bare}",
                "constraint_type": "foreign_key",
                "columns": ["parent_id"],
                "referenced_table": bare,
                "referenced_columns": ["id"],
                "referenced_schema": where or schema,
                "on_delete": on_delete,
            }
        )
    constraints: list[dict[str, Any]] = [{"name": "pk", "constraint_type": "primary_key", "columns": ["id"]}, *keys]
    columns = [{"name": "id", "data_type": "integer", "nullable": False, "is_primary_key": True}]
    indexes = [{"name": "ix", "columns": ["id"], "is_unique": True, "index_type": "btree"}]
    content = {"columns": columns, "constraints": constraints, "indexes": indexes}
    return TableRow(schema, name, TableKind.TABLE, rows, 1, len(constraints), 1, content, f"digest of {name}")


def snapshot(upload_id: str | None, status: SchemaStatus = SchemaStatus.READY) -> SnapshotRow:
    return SnapshotRow("app", "production", upload_id, status, Dialect.POSTGRESQL, "hash", 0, [], None, T0, T0)


@pytest.fixture
def upload(store: Store) -> Callable[..., None]:
    def put(upload_id: str, *tables: TableRow, session: str = "s", at: datetime = T0) -> None:
        row = UploadRow(upload_id, "app", "production", "token", session, Dialect.POSTGRESQL, at, at)
        store.write(lambda tx: schemas.begin(tx, row))
        store.write(lambda tx: schemas.put_tables(tx, upload_id, tables, at))

    return put


@pytest.fixture
def publish(store: Store, upload: Callable[..., None]) -> Callable[..., None]:
    def put(upload_id: str, *tables: TableRow, status: SchemaStatus = SchemaStatus.READY) -> None:
        upload(upload_id, *tables)
        store.write(lambda tx: schemas.publish(tx, snapshot(upload_id, status)))

    return put


@pytest.fixture
def look(store: Store) -> Callable[..., Schema]:
    def at(*names: Name, **options: Any) -> Schema:
        with store.read() as conn:
            return schemas.neighbourhood(conn, APP, names, **options)

    return at


def paths(schema: Schema) -> list[str]:
    return [str(found.name) for found in schema.tables]


def rows_of(store: Store) -> tuple[int, int, int]:
    with store.read() as conn:
        uploads, tables, edges = (
            conn.execute(select(func.count()).select_from(one)).scalar_one()
            for one in (schema_uploads, schema_tables, schema_edges)
        )
    return uploads, tables, edges


def test_nothing_is_known_before_the_first_snapshot(look, upload):
    assert look(Name("users")).status is SchemaStatus.NOT_SYNCED
    upload("u1", table("users"))
    assert look(Name("users")) == Schema()  # not published: nobody sees it


def test_a_failure_without_any_snapshot_is_failed(store, look):
    store.write(lambda tx: schemas.publish(tx, snapshot(None, SchemaStatus.FAILED)))
    assert look(Name("users")) == Schema(SchemaStatus.FAILED)


def test_what_is_named_comes_whole(look, publish):
    publish("u1", table("users", rows=None), table("orders", "users", on_delete="SET_NULL"), table("other"))
    found = look(Name("orders", "public"))
    assert (found.status, found.collected_at) == (SchemaStatus.READY, T0)
    (orders,) = found.tables
    assert (orders.name, orders.estimated_rows) == (Name("orders", "public"), 7)
    assert [(c.name, c.data_type, c.nullable, c.is_primary_key) for c in orders.columns] == [
        ("id", "integer", False, True)
    ]
    assert [(c.kind, c.columns) for c in orders.constraints] == [("primary_key", ("id",))]
    (key,) = orders.foreign_keys
    assert (key.parent, key.columns, key.parent_columns, key.on_delete) == (
        Name("users", "public"),
        ("parent_id",),
        ("id",),
        "SET_NULL",
    )
    assert [(i.name, i.unique, i.method) for i in orders.indexes] == [("ix", True, "btree")]


def test_names_mean_every_table_of_that_spelling(look, publish):
    publish("u1", table("Users"), table("users"), table("users", schema="audit"), table("user"))
    assert sorted(paths(look(Name("USERS")))) == ["audit.users", "public.Users", "public.users"]
    assert sorted(paths(look(Name("users", "PUBLIC")))) == ["public.Users", "public.users"]
    assert paths(look(Name("users", "nowhere"))) == []


def test_children_come_along_through_others(look, publish):
    publish(
        "u1",
        table("users"),
        table("orders", "users", "orders"),  # also refers to itself
        table("lines", "orders", on_delete="NO_ACTION"),
        table("notes", "public.lines", schema="crm"),
        table("parent"),
        table("loop", "notes_of", "parent"),
    )
    assert paths(look(Name("users"))) == ["public.users", "public.orders", "public.lines", "crm.notes"]
    assert paths(look(Name("lines"))) == ["public.lines", "crm.notes"]  # downwards only


def test_a_circle_ends(look, publish):
    publish("u1", table("a", "b"), table("b", "a"))
    assert sorted(paths(look(Name("a")))) == ["public.a", "public.b"]


def test_what_is_cut_is_not_ready(look, publish):
    publish("u1", table("users"), *(table(f"t{n}", "users") for n in range(3)), table("far", "t0"))
    assert look(Name("users"), most=5).status is SchemaStatus.READY
    cut = look(Name("users"), most=4)
    assert cut.status is SchemaStatus.PARTIAL
    assert paths(cut) == ["public.users", "public.t0", "public.t1", "public.t2"]  # the nearest stay
    assert len(look(Name("users"), most=2).tables) == 2


def test_many_tables_of_one_name_are_cut_too(look, publish):
    publish("u1", *(table("users", schema=f"tenant{n}") for n in range(6)))
    cut = look(Name("users"), most=5)
    assert (cut.status, len(cut.tables)) == (SchemaStatus.PARTIAL, 5)


def test_more_names_than_one_query_takes(look, publish):
    publish("u1", *(table(f"t{n}") for n in range(700)))
    found = look(*(Name(f"t{n}", "public" if n % 2 else None) for n in range(700)))
    assert (found.status, len(found.tables)) == (SchemaStatus.READY, 700)


@pytest.mark.parametrize("state", ["sqlite"], indirect=True)
def test_a_decision_finds_its_tables_by_an_index(store, publish):
    """By their names, that is: the key begins with the upload, and would do for reading all of it."""
    publish("u1", table("users"), table("orders", "users"))
    asked: list[tuple[str, Any]] = []
    with store.read() as conn:
        event.listen(conn, "before_cursor_execute", lambda _c, _cur, sql, values, *_: asked.append((sql, values)))
        schemas.neighbourhood(conn, APP, [Name("users"), Name("orders", "public")])
        plans = [
            detail
            for sql, values in list(asked)
            for *_, detail in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)
        ]
    found = [plan for plan in plans if "schema_tables" in plan or "schema_edges" in plan]
    assert len(found) == 3
    assert [plan for plan in found if "folded_" not in plan and "parent_path" not in plan] == []
    assert [plan for plan in found if not plan.startswith("SEARCH")] == []


def test_a_failed_or_partial_snapshot_stays_what_it_is(look, publish):
    publish("u1", table("users"), table("orders", "users"), status=SchemaStatus.FAILED)
    assert look(Name("users")).status is SchemaStatus.FAILED
    assert look(Name("users"), most=1).status is SchemaStatus.FAILED


def test_the_next_snapshot_takes_the_place_of_the_last(store, look, publish):
    publish("u1", table("users"), table("orders", "users"))
    publish("u2", table("users", rows=9))
    assert [t.estimated_rows for t in look(Name("users")).tables] == [9]
    assert rows_of(store) == (1, 1, 0)  # nothing of the last one is left


def test_a_piece_may_be_sent_twice(store, upload):
    upload("u1", table("users", rows=1), table("orders", "users", rows=1))
    again: Sequence[TableRow] = [table("orders", "users", "other", rows=2), table("Orders")]
    store.write(lambda tx: schemas.put_tables(tx, "u1", again, T0))
    with store.read() as conn:
        found = {t.name: t.estimated_rows for t in schemas.all_tables(conn, "u1")}
        assert schemas.count_tables(conn, "u1") == 3
        assert [name for _, name, _ in schemas.digests(conn, "u1")] == ["Orders", "orders", "users"]
    assert found == {"users": 1, "orders": 2, "Orders": 7}
    assert rows_of(store) == (1, 3, 2)


def test_a_process_has_one_unfinished_upload_for_a_target(store, upload, publish):
    publish("u1", table("users"))
    upload("u2", table("users"))
    upload("u3", table("users"), session="another process")
    upload("u4", table("users"))
    with store.read() as conn:
        assert [u for u in ("u1", "u2", "u3", "u4") if schemas.find_upload(conn, u)] == ["u1", "u3", "u4"]


def test_what_is_abandoned_is_dropped_and_what_counts_is_not(store, look, upload, publish):
    publish("u1", table("users"))
    upload("u2", table("users"), table("orders", "users"), session="a process that died")
    store.write(lambda tx: schemas.drop_idle(tx, T0))
    assert rows_of(store)[0] == 2  # not yet
    store.write(lambda tx: schemas.drop_idle(tx, T0 + timedelta(seconds=1)))
    store.write(lambda tx: schemas.drop_upload(tx, "u1"))
    assert rows_of(store) == (1, 1, 0)
    assert paths(look(Name("users"))) == ["public.users"]
