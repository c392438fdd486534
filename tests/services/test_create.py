"""Submitting: the pipeline in its order, decisions, idempotency."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dbward.broker import store as broker
from dbward.client.shapes import NewRequest
from dbward.domain.model import Grant, Permission, Principal, Role
from dbward.errors import Conflict, DbwardError, Invalid, Missing, Refused, TooLarge, Unavailable
from dbward.services import requests
from tests.services.conftest import World, refused


def kind(world: World, name: str = "alice", environment: str = "auto", **body: Any) -> tuple[type[DbwardError], str]:
    with pytest.raises(DbwardError) as caught:
        world.create(name, environment, **body)
    return type(caught.value), caught.value.code


def test_everything_that_can_be_wrong_has_its_code(world: World) -> None:
    failed = (Invalid, "validation.failed")
    assert kind(world, database="Bad") == failed
    assert kind(world, database="*") == failed
    assert kind(world, environment="no environment") == failed
    assert kind(world, operation="drop_everything") == failed
    assert kind(world, detail="SELECT '" + "x" * 100_000 + "'") == (TooLarge, "payload.too_large")
    assert kind(world, reason="x" * 1025) == failed
    assert kind(world, allow_ddl=True) == failed
    assert kind(world, "olga", emergency=True) == failed
    assert kind(world, "olga", emergency=True, reason="  ") == failed
    assert kind(world, operation="migrate_status") == (Invalid, "operation.unsupported")
    assert kind(world, operation="migrate_up") == (Invalid, "migration.malformed")
    assert kind(world, detail="") == (Invalid, "sql.empty")
    assert kind(world, detail="-- nothing") == (Invalid, "sql.empty")
    assert kind(world, detail="SELECT 'open") == (Invalid, "sql.unparsable")
    assert kind(world, detail="COMMIT") == (Invalid, "sql.rejected")
    assert kind(world, share_with=["bob"]) == failed
    assert kind(world, "olga", database="nowhere") == (Invalid, "database.not_registered")
    assert kind(world, "olga", environment="bare") == (Invalid, "policy.no_workflow")
    assert kind(world, environment="reasoned") == failed
    assert kind(world, environment="reasoned", reason=" \t ") == failed
    assert kind(world, "bob") == (Refused, "forbidden")
    assert world.page("olga")["total"] == 0


def test_a_text_names_what_is_missing(world: World) -> None:
    with pytest.raises(Invalid, match="reason is required"):
        world.create(environment="reasoned")
    with pytest.raises(Invalid, match=r"not registered.*any, auto, bare, brief, many"):
        world.create(environment="nowhere")
    assert world.create(environment="reasoned", reason="because")["status"] == "dispatched"


def test_who_may_not_submit_learns_nothing_of_the_statement(world: World) -> None:
    assert kind(world, "bob", detail="COMMIT") == (Refused, "forbidden")
    assert kind(world, "bob", database="nowhere") == (Refused, "forbidden")
    assert kind(world, "dev", environment="prod") == (Refused, "forbidden")


@pytest.mark.parametrize(
    ("name", "body", "allowed"),
    [
        ("dev", {"detail": "SELECT 1"}, True),
        ("dev", {"detail": "DELETE FROM t WHERE n = 1"}, False),
        ("dev", {"detail": "CREATE TABLE t (n int)"}, False),
        ("alice", {"detail": "DELETE FROM t WHERE n = 1"}, True),
        ("alice", {"detail": "CREATE TABLE t (n int)"}, True),
        ("alice", {"detail": "SELECT 1", "emergency": True, "reason": "fire"}, False),
        ("olga", {"detail": "SELECT 1", "emergency": True, "reason": "fire"}, True),
        ("olga", {"detail": "DROP TABLE t", "emergency": True, "allow_ddl": True, "reason": "fire"}, True),
    ],
)
def test_permission_follows_what_the_statement_is(world: World, name: str, body: dict[str, Any], allowed: bool) -> None:
    if allowed:
        assert world.create(name, **body)["status"] == "dispatched"
    else:
        assert kind(world, name, **body) == (Refused, "forbidden")


def test_a_mixed_batch_needs_both_permissions(world: World) -> None:
    """A role with DML alone must not smuggle DDL in beside it."""
    batch = "UPDATE t SET n = 1 WHERE n = 2; CREATE TABLE u (n int)"
    assert world.create("alice", detail=batch)["operation"] == "execute_dml"
    limited = Principal("alice", "user", roles=(Role("dml", (Grant(Permission.REQUEST_DML),)),))
    body = NewRequest(database="app", environment="auto", detail=batch)
    with pytest.raises(Refused, match=r"request\.ddl"):
        requests.create(world.rt, limited, body)


def test_refusals_by_role_and_by_policy_are_on_the_record(world: World) -> None:
    for name, environment, code in (("bob", "auto", "forbidden"), ("olga", "bare", "policy.no_workflow")):
        assert kind(world, name, environment)[1] == code
        event = world.events(actor_id=name, event_type="request.refused")[-1]
        assert event["outcome"] == "denied"
        assert event["metadata"] == {"action": "create", "code": code}
        assert event["environment"] == environment
        assert event["reason"]


def test_auto_approved_is_dispatched_at_once(world: World) -> None:
    made, created = world.submit(metadata={"ticket": 7}, share_with=["user:bob"], reason="because")
    assert created
    assert made == {
        "id": made["id"],
        "status": "dispatched",
        "operation": "execute_select",
        "approvers": [],
        "idempotent": False,
        "warnings": [],
        "expires_at": None,
        "execution_id": made["execution_id"],
    }
    assert world.event_types(made) == ["request.auto_approved", "request.dispatched"]
    shown = world.show(made)
    assert shown["decision_trace"]["decision"] == {
        "outcome": "auto_approved",
        "reasons": ["explicit_always"],
        "auto_approve_threshold": None,
    }
    assert (shown["metadata"], shown["share_with"], shown["reason"]) == ({"ticket": 7}, ["user:bob"], "because")
    assert shown["queue_hint"] == "no_agents"


def test_what_needs_approval_waits(world: World) -> None:
    made = world.create(environment="prod")
    assert (made["status"], made["approvers"], made["execution_id"]) == ("pending", ["role:approver"], None)
    assert made["expires_at"] - world.clock() == world.rt.settings.retention.approval_ttl
    assert world.event_types(made) == ["request.created"]
    assert world.show(made)["decision_trace"]["decision"]["reasons"] == ["no_auto_approve_rule"]


def test_risk_decides_where_policy_says_so(world: World) -> None:
    read = world.create(environment="risk")
    assert read["status"] == "dispatched"
    assert world.show(read)["decision_trace"]["decision"]["reasons"] == ["risk_below_threshold"]
    written = world.create(environment="risk", detail="DELETE FROM t WHERE n = 1")
    assert written["status"] == "pending"
    assert world.show(written)["decision_trace"]["decision"]["reasons"] == ["risk_unavailable"]
    assert world.show(written)["decision_trace"]["decision"]["auto_approve_threshold"] == "low"


def test_an_emergency_needs_no_workflow_and_no_approval(world: World) -> None:
    for environment in ("bare", "prod"):
        made = world.create("olga", environment, emergency=True, reason="fire")
        assert made["status"] == "dispatched"
        assert world.event_types(made) == ["request.break_glass", "request.dispatched"]
        assert world.events(request_id=made["id"])[0]["reason"] == "fire"
        assert world.show(made, "olga")["decision_trace"]["decision"]["reasons"] == ["break_glass"]


def test_the_message_stands_in_the_queue_with_the_request(world: World) -> None:
    made = world.create()
    assert world.agent().fetch() == [made["execution_id"]]


def test_a_draining_server_takes_nothing(world: World) -> None:
    world.rt.hub.close()
    with pytest.raises(Unavailable):
        world.create()


# --- idempotency ------------------------------------------------------------------------------------------------------


def test_a_key_makes_a_request_once(world: World) -> None:
    first, created = world.submit(idempotency_key="k", reason="one")
    again, created_again = world.submit(idempotency_key="k", reason="another reason is no other request")
    assert (created, created_again) == (True, False)
    assert again["id"] == first["id"]
    assert again["idempotent"]
    assert world.page("alice")["total"] == 1


@pytest.mark.parametrize(
    "other",
    [
        {"detail": "SELECT 2"},
        {"environment": "many"},
        {"no_result_store": True},
        {"share_with": ["user:bob"]},
    ],
)
def test_a_key_used_for_something_else_is_a_conflict(world: World, other: dict[str, Any]) -> None:
    world.create(idempotency_key="k")
    assert kind(world, idempotency_key="k", **other) == (Conflict, "request.conflict")


def test_a_key_belongs_to_its_requester(world: World) -> None:
    assert world.create("alice", idempotency_key="k")["id"] != world.create("rita", idempotency_key="k")["id"]


def test_a_replay_says_how_it_stands_now(world: World) -> None:
    made = world.create(environment="steps", idempotency_key="k")
    world.approve("bob", made)
    assert world.create(environment="steps", idempotency_key="k")["approvers"] == ["role:approver", "user:sam"]
    world.cancel("alice", made)
    again = world.create(environment="steps", idempotency_key="k")
    assert (again["status"], again["approvers"]) == ("cancelled", [])


def test_racing_submissions_of_one_key_make_one_request(world: World) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: world.submit(idempotency_key="k"), range(8)))
    assert len({view["id"] for view, _ in made}) == 1
    assert [created for _, created in made].count(True) == 1
    with world.rt.store.read() as conn:
        assert next(d for d in broker.depths(conn, world.clock(), ["job.app.auto"])).ready == 1


# --- lists ------------------------------------------------------------------------------------------------------------


def test_lists_show_what_show_would(world: World) -> None:
    made = {
        "auto": world.create("alice", "auto"),
        "prod": world.create("alice", "prod"),
        "rita": world.create("rita", "auto"),
        "steps": world.create("rita", "steps"),
    }
    world.cancel("alice", made["auto"])
    for name in ("alice", "rita", "bob", "sam", "dana", "olga", "dev"):
        seen = set()
        for view in made.values():
            try:
                seen.add(world.show(view, name)["id"])
            except Missing:
                continue
        assert world.listed(name) == seen, name
    assert world.listed("alice") == {made["auto"]["id"], made["prod"]["id"]}
    assert world.listed("bob") == {made["prod"]["id"], made["steps"]["id"]}
    assert world.listed("sam") == {made["steps"]["id"]}
    assert world.listed("dana") == set()
    assert world.listed("dev") == {made["auto"]["id"], made["rita"]["id"]}
    assert len(world.listed("olga")) == 4
    assert refused(lambda: world.page("none")) == "forbidden"


def test_who_decided_goes_on_seeing_it(world: World) -> None:
    made = world.create(environment="prod")
    world.approve("bob", made)
    assert world.listed("bob") == {made["id"]}
    assert world.listed("beth") == set()
    assert refused(lambda: world.show(made, "beth")) == "request.not_found"


def test_filters_count_before_they_page(world: World) -> None:
    for _ in range(3):
        world.create("alice", "prod")
        world.create("rita", "auto")
    page = world.page("olga", user="rita", limit=2)
    assert (page["total"], len(page["requests"]), page["limit"]) == (3, 2, 2)
    assert world.page("olga", limit=1000)["limit"] == 100
    assert world.page("olga", limit=0)["requests"] == []
    assert world.page("olga", offset=2**70)["requests"] == []
    assert world.page("olga", status="pending")["total"] == 3
    assert world.page("olga", environment="auto", database="app")["total"] == 3
    assert world.page("olga", operation="execute_dml")["total"] == 0
    assert world.page("olga", since=world.clock())["total"] == 6
    world.clock.advance(seconds=1)
    assert world.page("olga", since=world.clock())["total"] == 0
    assert refused(lambda: world.page("olga", since="2026-01-01T00:00:00")) == "validation.failed"
    assert refused(lambda: world.page("olga", since="0001-01-01T00:00:00+14:00")) == "validation.failed"


def test_pending_for_me_is_what_i_can_still_decide(world: World) -> None:
    made = world.create(environment="steps")
    own = world.create(environment="own")
    assert world.listed("bob", pending_for_me=True) == {made["id"]}
    world.approve("bob", made)
    assert world.listed("bob", pending_for_me=True) == set()
    assert world.listed("beth", pending_for_me=True) == {made["id"]}
    assert world.listed("alice", pending_for_me=True) == {own["id"]}
    assert world.listed("both", pending_for_me=True) == {made["id"], own["id"]}
    world.approve("both", made)
    world.approve("sam", made)
    assert world.listed("carol", pending_for_me=True) == {made["id"]}, "the next step"
    assert world.listed("bob", pending_for_me=True) == set()
    mine = world.create("both", "prod")
    assert mine["id"] not in world.listed("both", pending_for_me=True), "nobody approves their own"
    assert mine["id"] in world.listed("beth", pending_for_me=True)
    item = next(i for i in world.page("carol")["requests"] if i["id"] == made["id"])
    assert (item["current_step"], item["total_steps"]) == (1, 2)
    assert item["next_approvers"] == ["group:dba", "user:carol"]


def test_a_request_is_found_by_its_first_characters(world: World) -> None:
    made = world.create()
    assert world.show({"id": made["id"][:9]})["id"] == made["id"]
    for nothing in ("zz", "%", "", made["id"].upper(), made["id"] + "0"):
        assert refused(lambda text=nothing: world.show({"id": text})) == "request.not_found"


def test_several_that_begin_alike_are_ambiguous(world: World) -> None:
    seen: dict[str, str] = {}
    while True:
        made = world.create(environment="prod")
        if made["id"][0] in seen:
            break
        seen[made["id"][0]] = made["id"]
    assert refused(lambda: world.show({"id": made["id"][0]})) == "request.ambiguous"


def test_a_vouched_function_leaves_a_read_a_read(world: World) -> None:
    made = world.create(database="vouched", environment="auto", detail="SELECT refund_total(1)")
    assert (made["operation"], world.show(made)["decision_trace"]["classification"]["reasons"]) == (
        "execute_select",
        [],
    )
    made = world.create(environment="auto", detail="SELECT refund_total(1)")
    assert made["operation"] == "execute_dml"
    assert world.show(made)["decision_trace"]["classification"]["reasons"] == ["unvouched_function:refund_total"]
