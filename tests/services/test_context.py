"""What stands beside a request, with and without a schema, and how the schema decides about it."""

from __future__ import annotations

import pytest

from dbward.broker.names import EXPLAIN_TASK
from tests.services.conftest import World
from tests.services.test_schemas import Hand, table


@pytest.fixture
def synced(world: World) -> Hand:
    """The environment `risk` with a small table, a large one that refers to it, and one that stands alone."""
    hand = Hand(world.agent(), "risk")
    hand.send(table("users"), table("orders", rows=2_000_000, column="user_id", parent="users"), table("notes"))
    return hand


@pytest.mark.usefixtures("synced")
@pytest.mark.parametrize(
    ("sql", "status", "factors"),
    [
        ("UPDATE notes SET id = 2 WHERE id = 1", "dispatched", []),
        ("UPDATE Notes SET id = 2 WHERE id = 1", "dispatched", []),
        ("UPDATE orders SET user_id = 2 WHERE user_id = 1", "pending", ["large_table"]),
        ("DELETE FROM users WHERE id = 1", "pending", ["cascade_delete"]),
        ("UPDATE absent SET id = 2 WHERE id = 1", "pending", ["unknown_table"]),
    ],
)
def test_the_schema_decides_what_runs_by_itself(world: World, sql: str, status: str, factors: list[str]) -> None:
    made = world.create(environment="risk", detail=sql)
    trace = world.show(made)["decision_trace"]
    assert (made["status"], trace["risk"]["factors"], trace["risk"]["schema_status"]) == (status, factors, "ready")


@pytest.mark.usefixtures("synced")
def test_the_tables_are_shown_beside_the_request(world: World) -> None:
    made = world.create(environment="risk", detail="DELETE FROM users WHERE id = 1")
    shown = world.show(made)["context"]
    (users,) = shown["tables"]
    assert (users["name"], users["estimated_rows"], users["cascade_children_truncated"]) == ("users", 7, False)
    assert users["cascade_children"] == [
        {"table_name": "orders", "schema_name": "main", "estimated_rows": 2_000_000, "depth": 1}
    ]
    assert shown["risk"] == {
        "level": "high",
        "factors": [{"name": "cascade_delete", "targets": ["main.orders"], "rows": 2_000_000}],
    }
    assert shown["sql_review"] == {"findings": [], "blocked": False}


def test_without_a_schema_the_names_are_shown(world: World) -> None:
    made = world.create(environment="risk", detail="DELETE FROM main.users WHERE id IN (SELECT user_id FROM orders)")
    shown = world.show(made)["context"]
    assert shown["tables"] == ["main.users", "orders"]
    assert shown["risk"]["level"] == "unknown"


def test_an_old_snapshot_is_not_trusted(world: World, synced: Hand) -> None:
    world.clock.advance(hours=25)
    made = world.create(environment="risk", detail="UPDATE notes SET id = 2 WHERE id = 1")
    assert made["status"] == "pending"
    assert world.show(made)["decision_trace"]["risk"]["factors"] == ["schema_stale"]
    synced.fail()
    made = world.create(environment="risk", detail="UPDATE notes SET id = 2 WHERE id = 1")
    assert world.show(made)["decision_trace"]["risk"]["schema_status"] == "failed"


def test_nothing_is_shown_of_what_asked_to_leave_nothing(world: World) -> None:
    made = world.create(environment="risk", detail="SELECT 1", no_result_store=True)
    assert world.show(made)["context"] is None


def test_the_plans_are_asked_for_while_people_decide(world: World) -> None:
    agent = world.agent()
    made = world.create(environment="risk", detail="UPDATE notes SET id = 2 WHERE id = 1")
    shown = world.show(made)["context"]
    assert (shown["status"], shown["explain_enabled"], shown["explain"]) == ("collecting", True, None)
    assert len(agent.fetch(EXPLAIN_TASK)) == 1
    world.cancel("alice", made)
    assert world.show(made)["context"]["status"] == "unavailable"


def test_no_plans_are_asked_for_what_runs_at_once_nor_left_when_it_runs(world: World) -> None:
    assert world.show(world.create(detail="SELECT 1"))["context"]["explain_enabled"] is False
    made = world.create(environment="prod", detail="UPDATE notes SET id = 2 WHERE id = 1")
    world.approve("bob", made)
    world.resume("alice", made)
    agent = world.agent()
    assert agent.fetch(EXPLAIN_TASK) == []
    assert world.show(made)["context"]["explain_reason"] == "the request went on without it"
