"""Schema snapshots: what agents may send, when it counts, what is recorded, and who sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dbward.client.shapes import SchemaFilter
from dbward.client.wire import (
    SchemaBegin,
    SchemaCommit,
    SchemaFailure,
    SchemaTables,
    WireColumn,
    WireConstraint,
    WireIndex,
    WireTable,
)
from dbward.db import schemas as rows
from dbward.domain.model import Dialect, Grant, Permission, Role, Target
from dbward.domain.schema import SchemaStatus, TableKind
from dbward.domain.sql.statements import Name
from dbward.errors import DbwardError, Missing, Refused
from dbward.services import housekeeping, schemas
from dbward.services.views import View
from tests.services.conftest import Agent, World, refused
from tests.services.test_executions import narrow_agent

UPDATED = "schema.snapshot_updated"
FAILED = "schema.snapshot_failed"


def table(name: str, *, schema: str = "main", rows: int | None = 7, column: str = "id", parent: str = "") -> WireTable:
    key = WireConstraint(
        name="fk",
        constraint_type="foreign_key",
        columns=[column],
        referenced_table=parent or None,
        referenced_columns=["id"] if parent else None,
        referenced_schema=schema if parent else None,
        on_delete="CASCADE" if parent else None,
    ) if parent else WireConstraint(name="", constraint_type="primary_key", columns=[column])  # fmt: skip
    return WireTable(
        schema_name=schema,
        name=name,
        kind=TableKind.TABLE,
        estimated_rows=rows,
        columns=[WireColumn(name=column, data_type="INTEGER", nullable=False, is_primary_key=True)],
        constraints=[key],
        indexes=[WireIndex(name="ix", columns=[column], is_unique=False, index_type="btree")],
    )


class Hand:
    """The agent's hands on the schema of one target."""

    def __init__(self, agent: Agent, environment: str = "prod", dialect: Dialect = Dialect.SQLITE) -> None:
        self.agent, self.rt, self.who = agent, agent.rt, agent.who
        self.where = {"session": agent.session, "database": "app", "environment": environment, "dialect": dialect}

    def begin(self) -> str:
        return schemas.begin(self.rt, self.who, SchemaBegin(**self.where)).upload_id

    def add(self, upload_id: str, *tables: WireTable) -> None:
        schemas.add_tables(self.rt, self.who, upload_id, SchemaTables(tables=list(tables)))

    def commit(self, upload_id: str, count: int, *unread: str) -> None:
        asked = SchemaCommit(tables=count, unread_count=len(unread), unread=list(unread))
        schemas.commit(self.rt, self.who, upload_id, asked)

    def send(self, *tables: WireTable, unread: tuple[str, ...] = ()) -> str:
        upload_id = self.begin()
        for one in tables:
            self.add(upload_id, one)
        self.commit(upload_id, len(tables), *unread)
        return upload_id

    def fail(self, error: str = "it is down", upload_id: str | None = None) -> None:
        schemas.fail(self.rt, self.who, SchemaFailure(**self.where, error=error, upload_id=upload_id))


@pytest.fixture
def hand(world: World) -> Hand:
    return Hand(world.agent())


def show(world: World, name: str = "alice", database: str = "app", **asked: Any) -> View:
    return schemas.show(world.rt, world.who(name), database, SchemaFilter(**asked))


def names(view: View) -> list[str]:
    return [one["name"] for one in view["tables"]]


def recorded(world: World) -> list[str]:
    """The events about snapshots, oldest first."""
    return [e["event_type"] for e in world.events() if e["event_type"].startswith("schema.")]


# --- sending ----------------------------------------------------------------------------------------------------------


def test_a_snapshot_counts_once_it_is_complete(world, hand):
    upload = hand.begin()
    hand.add(upload, table("users"), table("orders", parent="users"))
    hand.add(upload, table("orders", parent="users"))  # an answer was lost
    assert refused(lambda: show(world)) == "not_found"
    assert recorded(world) == []
    hand.commit(upload, 2)
    hand.commit(upload, 2)  # again
    seen = show(world)
    assert names(seen) == ["orders", "users"]
    assert (seen["environment"], seen["status"], seen["dialect"]) == ("prod", "ready", "sqlite")
    assert recorded(world) == [UPDATED]
    with world.rt.store.read() as conn:
        near = rows.neighbourhood(conn, Target("app", "prod"), [Name("Users")])
    assert near.status is SchemaStatus.READY
    assert [t.name.name for t in near.tables] == ["users", "orders"]
    assert refused(lambda: hand.add(upload, table("late"))) == "schema.complete"
    assert world.verify()["valid"]


def test_a_lost_piece_is_noticed(world, hand):
    hand.send(table("old"))
    upload = hand.begin()
    hand.add(upload, table("users"))
    assert refused(lambda: hand.commit(upload, 2)) == "schema.incomplete"
    assert names(show(world)) == ["old"]


def test_only_what_changed_is_recorded(world, hand):
    hand.send(table("users", rows=1))
    first = show(world)["collected_at"]
    world.clock.advance(hours=1)
    hand.send(table("users", rows=2000))  # more rows are no other schema
    again = show(world)
    assert again["tables"][0]["estimated_rows"] == 2000
    assert again["collected_at"] > first
    assert recorded(world) == [UPDATED]
    hand.send(table("users", column="uuid"))
    assert recorded(world) == [UPDATED, UPDATED]
    hand.send(table("users", column="uuid"), unread=("main.broken",))
    assert recorded(world) == [UPDATED, UPDATED, UPDATED]
    seen = show(world)
    assert (seen["status"], seen["unread"]) == ("partial", ["main.broken"])


def test_a_failure_keeps_the_tables_and_takes_the_trust(world, hand):
    hand.send(table("users"))
    collected = show(world)["collected_at"]
    upload = hand.begin()
    hand.add(upload, table("half"))
    hand.fail("cannot connect\nSELECT secret", upload)
    hand.fail("cannot connect")
    assert refused(lambda: hand.add(upload, table("more"))) == "schema.unknown_upload"
    seen = show(world)
    assert (names(seen), seen["status"], seen["error"]) == (["users"], "failed", "cannot connect")
    assert seen["collected_at"] == collected
    hand.fail("another reason")
    assert recorded(world) == [UPDATED, FAILED, FAILED]
    with world.rt.store.read() as conn:
        assert rows.neighbourhood(conn, Target("app", "prod"), [Name("users")]).status is SchemaStatus.FAILED
    hand.send(table("users"))
    assert show(world)["status"] == "ready"
    assert recorded(world) == [UPDATED, FAILED, FAILED, UPDATED]
    failed = next(e for e in world.events() if e["event_type"] == FAILED)
    assert (failed["outcome"], failed["actor_type"], failed["resource_id"]) == ("failure", "agent", "app/prod")
    assert (failed["database_name"], failed["environment"]) == ("app", "prod")


def test_a_failure_before_any_snapshot(world, hand):
    hand.fail("cannot connect")
    with pytest.raises(Missing, match="the last try failed: cannot connect"):
        show(world, environment="prod")
    with pytest.raises(Missing, match="the last try failed: cannot connect"):
        show(world)
    with pytest.raises(Refused) as seen:
        show(world, "none")
    assert "cannot connect" not in seen.value.message  # why is told to those only who may see it


def test_the_later_collection_wins(world):
    one, other = Hand(world.agent("session-1")), Hand(world.agent("session-2", instance="b"))
    slow = one.begin()
    one.add(slow, table("before"))
    world.clock.advance(seconds=1)
    other.send(table("after"))
    one.commit(slow, 1)
    assert names(show(world)) == ["after"]
    assert refused(lambda: one.commit(slow, 1)) == "schema.unknown_upload"


def test_abandoned_uploads_go(world, hand):
    hand.send(table("users"))
    upload = hand.begin()
    hand.add(upload, table("half"))
    world.clock.advance(minutes=59)
    housekeeping.purge(world.rt)
    hand.add(upload, table("more"))
    world.clock.advance(minutes=61)
    housekeeping.purge(world.rt)
    assert refused(lambda: hand.commit(upload, 2)) == "schema.unknown_upload"
    assert names(show(world)) == ["users"]


# --- who may send -----------------------------------------------------------------------------------------------------


def test_only_within_the_scopes_of_the_token(world, hand):
    upload = hand.begin()
    narrow = narrow_agent(world, "auto")
    for call in (Hand(narrow, "prod").begin, Hand(narrow, "prod").fail):
        with pytest.raises(Refused, match=r"agent\.operate on app/prod"):
            call()
    assert world.events()[-1]["event_type"] == "request.refused"
    assert refused(lambda: Hand(narrow, "auto").add(upload, table("t"))) == "schema.unknown_upload"
    assert refused(lambda: Hand(narrow, "auto").commit(upload, 0)) == "schema.unknown_upload"
    assert Hand(narrow, "auto").send(table("t"))
    assert show(world)["environment"] == "auto"


def test_nobody_but_agents_and_nothing_undeclared(world, hand):
    asked = SchemaBegin(**hand.where)
    with pytest.raises(Refused):
        schemas.begin(world.rt, world.who("olga"), asked)
    assert refused(lambda: schemas.begin(world.rt, hand.who, asked.model_copy(update={"environment": "x"}))) == (
        "not_found"
    )
    other = asked.model_copy(update={"session": "session-nobody-knows"})
    assert refused(lambda: schemas.begin(world.rt, hand.who, other)) == "agent.unknown"
    with pytest.raises(Refused, match="as mysql"):
        Hand(hand.agent, dialect=Dialect.MYSQL).begin()


# --- who may see ------------------------------------------------------------------------------------------------------


def test_the_environment_is_chosen_by_trust_and_habit(world):
    agent = world.agent()
    Hand(agent, "steps").send(table("steps"))
    Hand(agent, "auto").send(table("auto"))
    assert show(world)["environment"] == "auto"  # none of the usual names: alphabetically
    Hand(agent, "auto").fail()
    assert show(world)["environment"] == "steps"  # what can be trusted comes first
    assert show(world, environment="auto")["status"] == "failed"


def test_seeing_needs_the_permission_there(world, hand):
    hand.send(table("users"))
    for asked in ({}, {"environment": "prod"}):
        with pytest.raises(Refused, match=r"schema\.read"):
            show(world, "dev", **asked)
    assert names(show(world, "bob")) == ["users"]


def test_what_is_out_of_scope_is_answered_for_as_if_it_were_not_there(world, hand):
    hand.send(table("users"))
    narrow = Role("narrow", (Grant(Permission.SCHEMA_READ),), databases=("app",), environments=("auto",))
    who = replace(world.who("alice"), roles=(narrow,))

    def ask(database: str, environment: str | None = None) -> tuple[type[DbwardError], str]:
        with pytest.raises(DbwardError) as caught:
            schemas.show(world.rt, who, database, SchemaFilter(environment=environment))
        return type(caught.value), caught.value.message.replace(environment or database, "…")

    assert ask("app", "prod") == ask("app", "nowhere")
    assert ask("app", "prod")[0] is Refused
    assert ask("vouched") == ask("nowhere")
    assert ask("vouched")[0] is Missing
    with pytest.raises(Missing, match="no agent has sent it yet"):  # not that there is one of prod
        schemas.show(world.rt, who, "app", SchemaFilter())
    Hand(world.agent(), "auto").send(table("mine"))
    assert names(schemas.show(world.rt, who, "app", SchemaFilter())) == ["mine"]


def test_what_is_not_there(world, hand):
    for asked in ({"environment": "prod"}, {"environment": "nowhere"}, {"database": "nowhere"}):
        assert refused(lambda asked=asked: show(world, **asked)) == "not_found"
    hand.send(table("users"), table("t", schema="a"), table("T", schema="b"), table("t", schema="c.d"))
    assert refused(lambda: show(world, table="user")) == "not_found"
    with pytest.raises(Missing, match=r"a\.t, c\.d\.t"):
        show(world, table="t")
    assert show(world, table="T")["table"]["schema_name"] == "b"  # as it is spelled
    assert show(world, table="c.d.t")["table"]["schema_name"] == "c.d"
    assert show(world, table="MAIN.Users")["table"]["name"] == "users"  # letter case aside


def test_a_table_is_shown_whole_and_a_list_in_short(world, hand):
    hand.send(table("orders", rows=None, parent="users"), table("users"))
    assert show(world)["tables"][0] == {
        "schema_name": "main", "name": "orders", "kind": "table", "estimated_rows": -1,
        "column_count": 1, "constraint_count": 1, "index_count": 1,
    }  # fmt: skip
    whole = show(world, table="orders")
    assert "tables" not in whole
    assert whole["table"] == {
        "name": "orders",
        "schema_name": "main",
        "kind": "table",
        "estimated_rows": -1,
        "columns": [
            {"name": "id", "data_type": "INTEGER", "nullable": False, "default_value": None, "is_primary_key": True}
        ],
        "constraints": [
            {
                "name": "fk",
                "constraint_type": "foreign_key",
                "columns": ["id"],
                "referenced_table": "users",
                "referenced_columns": ["id"],
                "referenced_schema": "main",
                "on_delete": "CASCADE",
            }
        ],
        "indexes": [{"name": "ix", "columns": ["id"], "is_unique": False, "index_type": "btree"}],
    }
    assert show(world, summary=False)["tables"][0] == whole["table"]
