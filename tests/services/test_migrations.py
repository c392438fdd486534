"""Requests to migrate: what is pinned, judged, shown and signed, and the question what a database has applied."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from dbward.broker.names import EXPLAIN_TASK
from dbward.client.shapes import AppliedQuestion
from dbward.client.wire import AppliedFound, ClaimRequest, ExplainReport, WireApplied, WireError, WireStep
from dbward.db.engine import Tx
from dbward.db.tables import requests
from dbward.domain.migration import (
    Pinned,
    Repair,
    Sent,
    StepOutcome,
    read_pinned,
    read_repair,
    write_files,
    write_repair,
)
from dbward.domain.model import Operation
from dbward.domain.tokens import Binding, Purpose, statements_sha256, verify
from dbward.errors import Conflict, Invalid, Missing, RateLimited, Refused, TooLarge, Unavailable
from dbward.services import agents, explain_answers, migrations
from dbward.services.explains import GRACE
from tests.services.conftest import Agent, World, refused

ORDERS = Sent(
    "20260101",
    "add_orders",
    "a" * 64,
    True,
    True,
    "CREATE TABLE orders (id int);\n\n-- why\nALTER TABLE old RENAME TO older;",
    2,
)
NOTES = Sent("20260102", "add_notes", "b" * 64, False, False, "CREATE TABLE notes (id int)", 7)
REPAIR = Repair("mark_applied", "20260101", "add_orders", "a" * 64)
ALL = tuple(Operation)


def up(*files: Sent, **body: Any) -> dict[str, Any]:
    return {"operation": "migrate_up", "detail": write_files(files or (ORDERS, NOTES)), **body}


def migrating_agent(world: World, **options: Any) -> Agent:
    agent = world.agent(**options)
    agents.report(world.rt, agent.who, agent.report(operations=list(ALL)))
    return agent


# --- submitting -------------------------------------------------------------------------------------------------------


def test_a_request_pins_exactly_the_files_it_was_sent(world: World) -> None:
    agent = migrating_agent(world)
    made = world.create(**up())
    assert (made["operation"], made["status"], made["warnings"]) == ("migrate_up", "dispatched", [])
    claimed = agent.begin(made)
    assert claimed.operation is Operation.MIGRATE_UP
    assert read_pinned(claimed.statements) == (
        Pinned(
            "20260101",
            "add_orders",
            "a" * 64,
            True,
            ["CREATE TABLE orders (id int)", "ALTER TABLE old RENAME TO older"],
        ),
        Pinned("20260102", "add_notes", "b" * 64, False, ["CREATE TABLE notes (id int)"]),
    )
    assert claimed.limits.statement_timeout_ms == 0


def test_the_approver_sees_the_files_one_at_a_time(world: World) -> None:
    made = world.create(environment="prod", **up())
    first, second = world.show(made)["migrations"]
    assert (first["sql"], first["statements"], first["line"]) == (ORDERS.sql, 2, 2)
    assert [(one["rule"], one["line"]) for one in first["findings"]] == [("rename_table", 5)]
    assert (first["version"], first["name"], first["checksum"]) == ("20260101", "add_orders", "a" * 64)
    assert (first["transactional"], first["reversible"]) == (True, True)
    assert (second["transactional"], second["reversible"], second["findings"]) == (False, False, [])
    assert {first["outcome"], second["outcome"], second["duration_ms"]} == {None}
    listed = world.page("alice")["requests"][0]
    assert listed["detail"] == "20260101_add_orders and 1 more"


def test_the_record_names_the_files_and_their_checksums(world: World) -> None:
    made = world.create(environment="prod", **up())
    event = world.events(event_type="request.created")[-1]
    assert event["metadata"]["migrations"] == [
        f"20260101_add_orders sha256:{'a' * 64}",
        f"20260102_add_notes sha256:{'b' * 64}",
    ]
    assert event["detail_fingerprint"].startswith("CREATE TABLE orders (id int)")
    assert event["request_id"] == made["id"]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        (replace(ORDERS, sql="SELEKT 1"), "sql.rejected"),
        (replace(ORDERS, sql="SELECT '"), "sql.unparsable"),
        (replace(ORDERS, sql="-- nothing"), "sql.empty"),
        (replace(ORDERS, sql="SELECT 1\0"), "sql.rejected"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_file(world: World, file: Sent, code: str) -> None:
    with pytest.raises(Invalid, match=r"20260101_add_orders\.sql: ") as caught:
        world.create(**up(NOTES, file))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "detail",
    ["", "{}", "CREATE TABLE t (a int)", write_files([ORDERS]).replace("v3", "v2"), write_files([ORDERS, ORDERS])],
)
def test_anything_else_than_files_is_refused(world: World, detail: str) -> None:
    assert refused(lambda: world.create(operation="migrate_up", detail=detail)) == "migration.malformed"


def test_all_files_together_have_a_limit_of_their_own(world: World) -> None:
    filler = "INSERT INTO t VALUES ('" + "x" * 150_000 + "')"
    assert world.create(**up(replace(NOTES, sql=filler)))["operation"] == "migrate_up"
    with pytest.raises(TooLarge, match="300000"):
        world.create(**up(*(replace(NOTES, version=str(n), sql=filler) for n in range(3))))


def test_a_migration_needs_the_permissions_of_its_statements(world: World) -> None:
    with pytest.raises(Refused):
        world.create("bob", **up())
    with pytest.raises(Refused):
        world.create("bob", **up(replace(NOTES, sql="INSERT INTO t VALUES (1)")))


def test_up_and_down_under_one_key_are_two_things(world: World) -> None:
    body = up(NOTES, idempotency_key="k")
    made = world.create(environment="prod", **body)
    again, created = world.submit(environment="prod", **body)
    assert (again["id"], created) == (made["id"], False)
    with pytest.raises(Conflict):
        world.create(environment="prod", **{**body, "operation": "migrate_down"})


def test_a_blocked_file_blocks_the_request(world: World) -> None:
    with pytest.raises(Invalid, match=r" 20260101_add_orders\.sql:4: DELETE") as caught:
        world.create(environment="prod", **up(NOTES, replace(ORDERS, sql="SELECT 1;\n\nDELETE FROM orders")))
    assert caught.value.code == "sql.blocked_by_review"


def test_one_file_excuses_nothing_in_another(world: World) -> None:
    """The first may be applied already, and is skipped then."""
    old = replace(NOTES, version="1", sql="CREATE TABLE users (id int)")
    new = replace(NOTES, version="2", sql="ALTER TABLE users RENAME TO people")
    shown = world.show(world.create(environment="prod", **up(old, new)))["migrations"]
    assert [[one["rule"] for one in file["findings"]] for file in shown] == [[], ["rename_table"]]


def test_all_files_together_have_a_number_of_statements(world: World) -> None:
    many = "SELECT 1;" * 1000
    with pytest.raises(Invalid, match="5000"):
        world.create(**up(*(replace(NOTES, version=str(n), sql=many) for n in range(6))))


def test_what_another_version_wrote_leaves_the_list_alone(world: World) -> None:
    made = world.create(environment="prod", **up())
    world.create(environment="prod")

    def work(tx: Tx) -> None:
        tx.conn.execute(update(requests).where(requests.c.id == made["id"]).values(detail='{"format":"v9"}'))

    world.rt.store.write(work)
    listed = {one["id"]: one["detail"] for one in world.page("alice")["requests"]}
    assert listed[made["id"]] == "(written by another version of dbward)"
    assert len(listed) == 2


def test_nobody_to_run_it_is_said_at_once(world: World) -> None:
    warnings = ["no agent that runs migrate_up serves app/prod at the moment"]
    assert world.create(environment="prod", **up())["warnings"] == warnings
    world.agent()  # an old one, without migrations
    assert world.create(environment="prod", **up())["warnings"] == warnings
    migrating_agent(world)
    assert world.create(environment="prod", **up())["warnings"] == []


def test_a_repair_is_an_emergency_with_a_reason(world: World) -> None:
    body = {"operation": "migrate_repair", "detail": write_repair(REPAIR)}
    with pytest.raises(Invalid, match="emergency"):
        world.create("olga", **body)
    with pytest.raises(Invalid, match="reason"):
        world.create("olga", emergency=True, **body)
    with pytest.raises(Refused):
        world.create("alice", emergency=True, reason="half applied", **body)
    agent = migrating_agent(world)
    made = world.create("olga", "auto", emergency=True, reason="half applied", **body)
    assert read_repair(agent.begin(made).statements) == REPAIR
    event = world.events(event_type="request.break_glass")[-1]
    assert event["metadata"] == {"action": "mark_applied", "version": "20260101"}
    assert world.page("olga")["requests"][0]["detail"] == "mark_applied 20260101"
    assert world.show(made, "olga")["migrations"] is None


# --- how it ended -----------------------------------------------------------------------------------------------------

DONE = [
    WireStep(version="20260101", name="add_orders", outcome=StepOutcome.APPLIED, duration_ms=4),
    WireStep(version="20260102", name="add_notes", outcome=StepOutcome.FAILED, duration_ms=2),
]


def test_what_became_of_each_file_is_shown_and_on_the_record(world: World) -> None:
    agent = migrating_agent(world)
    made = world.create(**up())
    agent.begin(made)
    agent.complete(made, "failed", migrations=DONE)
    shown = world.show(made)
    assert shown["status"] == "failed"
    assert [(one["outcome"], one["duration_ms"]) for one in shown["migrations"]] == [("applied", 4), ("failed", 2)]
    event = world.events(event_type="execution.failed")[-1]
    assert event["metadata"]["migrations"] == ["20260101 applied", "20260102 failed"]


@pytest.mark.parametrize("environment", ["auto", "stream"])
def test_the_result_says_what_was_done_before_the_failure(world: World, environment: str) -> None:
    agent = migrating_agent(world)
    made = world.create(environment=environment, **up())
    agent.begin(made)
    agent.complete(made, "failed", migrations=DONE)
    found = world.envelope(made)
    assert (found["success"], found["result_data"]["applied"], found["result_data"]["reverted"]) == (
        False,
        ["20260101"],
        [],
    )
    assert found["result_data"]["migrations"] == [step.model_dump(mode="json") for step in DONE]


@pytest.mark.parametrize("steps", [None, [], DONE[:1], DONE[::-1]])
def test_a_report_must_account_for_every_file(world: World, steps: list[WireStep] | None) -> None:
    agent = migrating_agent(world)
    made = world.create(**up())
    agent.begin(made)
    with pytest.raises(Invalid):
        agent.complete(made, migrations=steps)
    assert world.status(made) == "running"


def test_only_a_migration_has_files(world: World) -> None:
    agent = world.agent()
    made = world.create()
    agent.begin(made)
    with pytest.raises(Invalid, match="no migration"):
        agent.complete(made, migrations=DONE)


# --- what is applied --------------------------------------------------------------------------------------------------


def ask(world: World, who: str = "alice", environment: str = "prod") -> str:
    return migrations.ask(world.rt, world.who(who), "app", environment, AppliedQuestion())


def answer(agent: Agent, asked: str, applied: AppliedFound | None) -> None:
    assert asked in agent.fetch(EXPLAIN_TASK)
    claimed = explain_answers.claim(
        agent.rt, agent.who, asked, ClaimRequest(session=agent.session, tag=agent.tags[asked])
    )
    assert (claimed.kind, claimed.statements) == ("migrations", [])
    verify(
        agent.rt.keys.execution.public_key(),
        claimed.token,
        expected=Binding(
            claim_id=claimed.claim_id,
            request_id=asked,
            execution_id=asked,
            agent=agent.node,
            operation=Operation.MIGRATE_STATUS,
            database="app",
            environment="prod",
            statements_sha256=statements_sha256([]),
            statement_timeout_ms=claimed.timeout_ms,
            max_rows=0,
            max_bytes=0,
        ),
        now=agent.rt.now(),
        max_skew=GRACE,
        purpose=Purpose.MIGRATIONS,
    )
    report = ExplainReport(claim_id=claimed.claim_id, applied=applied)
    explain_answers.complete(agent.rt, agent.who, asked, report)


def test_an_agent_says_what_is_applied(world: World) -> None:
    agent = migrating_agent(world)
    asked = ask(world)
    assert migrations.answer(world.rt, asked) is None
    at = world.clock()
    versions = [
        WireApplied(version="1"),
        WireApplied(version="2", name="b", checksum="b" * 64, applied_at=at, request_id="r"),
    ]
    answer(agent, asked, AppliedFound(versions=versions))
    found = migrations.answer(world.rt, asked)
    assert found is not None
    assert (found["database"], found["environment"]) == ("app", "prod")
    assert [one["version"] for one in found["versions"]] == ["1", "2"]
    assert found["versions"][0]["checksum"] is None
    assert json.loads(json.dumps(found["versions"][1]))["request_id"] == "r"


def test_the_database_may_refuse_to_say(world: World) -> None:
    agent = migrating_agent(world)
    asked = ask(world)
    answer(agent, asked, AppliedFound(error=WireError(code="statement.failed", message="permission denied")))
    assert refused(lambda: migrations.answer(world.rt, asked)) == "migration.unreadable"


def test_the_answer_to_another_question_is_not_taken(world: World) -> None:
    agent = migrating_agent(world)
    with pytest.raises(Invalid):
        answer(agent, ask(world), None)


def test_a_question_nobody_answers_ends(world: World) -> None:
    agent = migrating_agent(world)
    asked = ask(world)
    assert refused(lambda: migrations.give_up(world.rt, asked)) == "migration.no_answer"
    assert agent.fetch(EXPLAIN_TASK) == []


def test_nobody_is_asked_where_nobody_could_answer(world: World) -> None:
    assert refused(lambda: ask(world)) == "migration.no_agent"
    world.agent()
    with pytest.raises(Unavailable):
        ask(world)


def test_who_may_read_the_schema_may_ask(world: World) -> None:
    migrating_agent(world)
    assert ask(world, "bob")
    with pytest.raises(Refused):
        ask(world, "dana")
    with pytest.raises(Invalid):
        ask(world, environment="nowhere")


def test_nobody_asks_without_end(world: World) -> None:
    migrating_agent(world)
    for _ in range(world.rt.settings.features.preflight.max_concurrent_per_user):
        ask(world)
    with pytest.raises(RateLimited):
        ask(world)


def test_a_report_without_a_claim_is_not_taken(world: World) -> None:
    agent = migrating_agent(world)
    asked = ask(world)
    with pytest.raises(Missing):
        explain_answers.complete(world.rt, agent.who, asked, ExplainReport(claim_id="x", applied=AppliedFound()))
