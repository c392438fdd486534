"""Asking agents for plans: what is asked, who may answer, what is shown, and that every question ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from dbward.broker.names import EXPLAIN_TASK
from dbward.broker.wire import Fetch, Group
from dbward.client.wire import ClaimRequest, ExplainClaimed, Explained, ExplainReport, WireError
from dbward.db import explains as rows
from dbward.db import requests
from dbward.db.rows import ExplainRow
from dbward.db.tables import broker_messages
from dbward.db.tables import explains as table
from dbward.domain import tokens
from dbward.domain.model import Dialect, Operation, Target
from dbward.domain.plans import Plan, Scan, Step, render
from dbward.domain.sql.classify import classify
from dbward.domain.sql.statements import Statement
from dbward.errors import RateLimited
from dbward.services import agents, broker, explain_answers, housekeeping
from dbward.services import explains as asking
from dbward.services.views import View
from tests.services.conftest import Agent, World, refused
from tests.services.test_schemas import Hand
from tests.services.test_schemas import table as snapshot_table

PLAN = Plan(
    steps=(Step(0, "Scan", "o"), Step(1, "Search", "c", "c_pk", rows=3, cost=2.5, condition="id=?")),
    rows=3,
    cost=2.5,
    indexes=("c_pk",),
    scans=(Scan("o"),),
)
SQL = "SELECT * FROM orders o JOIN customers c ON c.id = o.customer_id"
PROD = Target("app", "prod")


def read(sql: str, dialect: Dialect = Dialect.SQLITE) -> tuple[Statement, ...]:
    return classify(sql, dialect).statements


def ask(world: World, sql: str = SQL, *, who: str = "alice", seconds: float = 5) -> str:
    """A question as a preflight asks it."""
    return world.rt.store.write(
        lambda tx: asking.ask(
            world.rt,
            tx,
            PROD,
            read(sql),
            dialect=Dialect.SQLITE,
            requested_by=who,
            timeout=timedelta(seconds=2),
            lifetime=timedelta(seconds=seconds),
        )
    )


def pending(world: World, sql: str = SQL, **body: Any) -> tuple[View, str]:
    """A request that waits for its approval, and the id of the question asked for it."""
    made = world.create(environment="prod", detail=sql, **body)
    with world.rt.store.read() as conn:
        found = rows.of_request(conn, made["id"])
    assert found is not None
    return made, found.id


def asked_for(world: World, made: View) -> bool:
    with world.rt.store.read() as conn:
        return asking.of_request(conn, made["id"]) is not None


def of_request(world: World, made: View) -> View:
    with world.rt.store.read() as conn:
        found = asking.of_request(conn, made["id"])
    assert found is not None
    return found


def row(world: World, explain_id: str) -> ExplainRow:
    with world.rt.store.read() as conn:
        found = rows.find(conn, explain_id)
    assert found is not None
    return found


def claim(agent: Agent, explain_id: str) -> ExplainClaimed:
    asked = ClaimRequest(session=agent.session, tag=agent.tags.get(explain_id, "no tag"))
    return explain_answers.claim(agent.rt, agent.who, explain_id, asked)


def take(agent: Agent, explain_id: str) -> ExplainClaimed:
    assert explain_id in agent.fetch(EXPLAIN_TASK)
    return claim(agent, explain_id)


def answer(agent: Agent, claimed: ExplainClaimed, *answers: Explained) -> None:
    report = ExplainReport(claim_id=claimed.claim_id, statements=list(answers) or [Explained(plan=PLAN)])
    explain_answers.complete(agent.rt, agent.who, claimed.explain_id, report)


def messages(world: World) -> int:
    with world.rt.store.read() as conn:
        return conn.execute(select(func.count()).select_from(broker_messages)).scalar_one()


# --- from the question to the answer ----------------------------------------------------------------------------------


def test_a_question_is_taken_answered_and_shown(world: World) -> None:
    agent = world.agent()
    explain_id = ask(world)
    assert asking.impact(world.rt, explain_id) is None
    claimed = take(agent, explain_id)
    assert claimed.statements == [SQL]
    assert claimed.timeout_ms == 2000
    answer(agent, claimed)
    impact = asking.impact(world.rt, explain_id)
    assert impact == {
        "status": "completed",
        "explain_plan": [
            {
                "sql": SQL,
                "plan": {
                    "steps": [
                        {"depth": 0, "operation": "Scan", "table": "o"},
                        {
                            "depth": 1,
                            "operation": "Search",
                            "table": "c",
                            "index": "c_pk",
                            "rows": 3,
                            "cost": 2.5,
                            "condition": "id=?",
                        },
                    ],
                    "estimated_rows": 3,
                    "estimated_cost": 2.5,
                    "indexes": ["c_pk"],
                    "sequential_scans": [{"table": "orders", "estimated_rows": None}],
                    "omitted_steps": 0,
                },
                "text": impact["plan_text"] if impact else "",
            }
        ],
        "plan_text": "Scan on o\n  Search on c using c_pk (rows 3, cost 2): id=?\n"
        "Indexes: c_pk\nRead from end to end: orders",
        "estimated_rows": 3,
        "estimated_cost": 2.5,
        "index_used": True,
    }
    assert messages(world) == 0


def test_the_message_holds_the_id_and_nothing_else(world: World) -> None:
    agent = world.agent()
    explain_id = ask(world, "SELECT 'needle'")
    found = broker.fetch(
        world.rt,
        agent.who,
        Fetch(session=agent.session, seq=1, groups=[Group(queues=["job.app.prod"])], have=[]),
        gone=lambda: False,
    )
    [message] = found.messages
    assert message.message["headers"]["id"] == explain_id
    assert message.message["headers"]["task"] == "dbward.explain"
    assert "needle" not in message.model_dump_json()


def test_the_token_is_for_explaining_these_statements_and_for_nothing_else(world: World) -> None:
    agent = world.agent()
    claimed = take(agent, ask(world))
    key = world.rt.keys.execution.public_key()

    def bound(*statements: str) -> tokens.Binding:
        return tokens.Binding(
            claim_id=claimed.claim_id,
            request_id=claimed.explain_id,
            execution_id=claimed.explain_id,
            agent=agent.node,
            operation=Operation.EXECUTE_SELECT,
            database="app",
            environment="prod",
            statements_sha256=tokens.statements_sha256(statements),
            statement_timeout_ms=2000,
            max_rows=0,
            max_bytes=0,
        )

    def check(binding: tokens.Binding, purpose: tokens.Purpose) -> str:
        try:
            tokens.verify(
                key,
                claimed.token,
                expected=binding,
                now=world.clock(),
                max_skew=timedelta(0),
                purpose=purpose,
            )
        except tokens.TokenRefused as e:
            return e.code
        return "ok"

    assert check(bound(SQL), tokens.Purpose.EXPLAIN) == "ok"
    assert check(bound("DELETE FROM orders"), tokens.Purpose.EXPLAIN) == "token.mismatch"
    assert check(bound(SQL), tokens.Purpose.RUN) == "token.bad_signature"
    world.clock.advance(seconds=6)
    assert check(bound(SQL), tokens.Purpose.EXPLAIN) == "token.expired"


def test_what_cannot_be_explained_is_not_sent_and_answered_in_its_place(world: World) -> None:
    agent = world.agent()
    explain_id = ask(world, "SELECT load_extension('x'); SELECT 1; CREATE TABLE t (a int)")
    claimed = take(agent, explain_id)
    assert claimed.statements == ["SELECT 1"]
    answer(agent, claimed)
    impact = asking.impact(world.rt, explain_id) or {}
    assert impact["status"] == "completed"
    assert [entry.get("error") for entry in impact["explain_plan"]] == [
        "cannot be explained: planning it may run something (unvouched_function:load_extension)",
        None,
        "cannot be explained: CREATE has no plan",
    ]


def test_a_text_of_which_nothing_can_be_explained_asks_nobody(world: World) -> None:
    world.agent()
    impact = asking.impact(world.rt, ask(world, "CREATE TABLE t (a int)"))
    assert impact is not None
    assert impact["status"] == "error"
    assert impact["plan_text"] == "cannot be explained: CREATE has no plan"
    assert messages(world) == 0


def test_only_so_many_statements_are_explained(world: World) -> None:
    agent = world.agent()
    count = asking.MAX_STATEMENTS + 2
    explain_id = ask(world, "; ".join("DELETE FROM t WHERE a = 1" for _ in range(count)))
    claimed = take(agent, explain_id)
    assert len(claimed.statements) == asking.MAX_STATEMENTS
    answer(agent, claimed, *[Explained(plan=PLAN)] * asking.MAX_STATEMENTS)
    shown = (asking.impact(world.rt, explain_id) or {})["explain_plan"]
    assert [entry.get("error") for entry in shown[-2:]] == [
        f"cannot be explained: only the first {asking.MAX_STATEMENTS} statements are explained"
    ] * 2


def test_the_databases_words_are_shown_with_a_hint_about_rights(world: World) -> None:
    agent = world.agent()
    explain_id = ask(world, "DELETE FROM t; DELETE FROM u")
    denied = WireError(code="statement.failed", message="permission denied for table t", sqlstate="42501")
    other = WireError(code="statement.failed", message="no such table: t", hint="look again")
    answer(agent, take(agent, explain_id), Explained(error=denied), Explained(error=other))
    impact = asking.impact(world.rt, explain_id) or {}
    assert impact["status"] == "error"
    assert impact["plan_text"] == (
        "[1]\npermission denied for table t\n"
        "Hint: explaining this needs the rights to run it, which the agent's database account lacks\n"
        "[2]\nno such table: t\nHint: look again"
    )


def test_the_sizes_of_scanned_tables_come_from_the_schema(world: World) -> None:
    agent = world.agent()
    Hand(agent).send(snapshot_table("orders", rows=1234))
    explain_id = ask(world)
    answer(agent, take(agent, explain_id))
    [entry] = (asking.impact(world.rt, explain_id) or {})["explain_plan"]
    assert entry["plan"]["sequential_scans"] == [{"table": "orders", "estimated_rows": 1234}]
    assert "Read from end to end: orders (about 1,234 rows)" in entry["text"]


# --- every question ends ----------------------------------------------------------------------------------------------


def test_whoever_waits_is_woken_by_the_answer(world: World) -> None:
    agent = world.agent()
    explain_id = ask(world)
    claimed = take(agent, explain_id)
    with world.rt.hub.listen(f"explain:{explain_id}") as waiter:
        answer(agent, claimed)
        assert waiter.wait(30)
    assert asking.impact(world.rt, explain_id) is not None


@pytest.mark.parametrize(("claimed", "why"), [(False, "no agent took it"), (True, "the agent did not answer")])
def test_whoever_waits_is_woken_when_time_is_up(world: World, claimed: bool, why: str) -> None:
    agent = world.agent()
    explain_id = ask(world)
    if claimed:
        take(agent, explain_id)
    world.clock.advance(seconds=6)
    with world.rt.hub.listen(f"explain:{explain_id}") as waiter:
        housekeeping.end_explains(world.rt)
        assert waiter.wait(30)
    impact = asking.impact(world.rt, explain_id) or {}
    assert impact["status"] == "timeout"
    assert why in impact["reason"]
    assert messages(world) == 0


def test_a_question_that_is_given_up_is_not_asked_any_more(world: World) -> None:
    agent = world.agent()
    explain_id = ask(world)
    assert asking.give_up(world.rt, explain_id)["status"] == "timeout"
    assert agent.fetch(EXPLAIN_TASK) == []
    assert asking.give_up(world.rt, explain_id)["status"] == "timeout"
    assert asking.give_up(world.rt, "unknown")["status"] == "timeout"


def test_giving_up_finds_the_answer_that_came_in_this_moment(world: World) -> None:
    agent = world.agent()
    explain_id = ask(world)
    answer(agent, take(agent, explain_id))
    assert asking.give_up(world.rt, explain_id)["status"] == "completed"


def test_nothing_is_claimed_once_time_is_up(world: World) -> None:
    agent = world.agent()
    explain_id = ask(world)
    agent.fetch(EXPLAIN_TASK)
    world.clock.advance(seconds=6)
    assert refused(lambda: claim(agent, explain_id)) == "explain.over"


def test_a_message_delivered_again_and_again_ends_the_question(world: World) -> None:
    made, explain_id = pending(world)
    for n in range(world.rt.settings.broker.delivery_cap):
        agent = world.agent(f"session-{n}", instance=f"i{n}")
        assert explain_id in agent.fetch(EXPLAIN_TASK)
        world.clock.advance(seconds=world.rt.settings.broker.lease.total_seconds() + 1)
        world.keep_house()
    found = of_request(world, made)
    assert (found["status"], found["reason"]) == ("unavailable", "no agent could answer it")
    assert messages(world) == 0


def test_answers_to_preflights_are_forgotten_and_those_of_requests_kept(world: World) -> None:
    agent = world.agent()
    explain_id = ask(world)
    answer(agent, take(agent, explain_id))
    made, of_it = pending(world)
    answer(agent, take(agent, of_it))
    world.clock.advance(seconds=asking.KEPT.total_seconds() - 1)
    housekeeping.end_explains(world.rt)
    assert asking.impact(world.rt, explain_id) == asking.give_up(world.rt, explain_id)
    world.clock.advance(seconds=2)
    housekeeping.end_explains(world.rt)
    with world.rt.store.read() as conn:
        assert conn.execute(select(table.c.id)).scalars().all() == [of_it]
    assert of_request(world, made)["status"] == "ready"


# --- how much may be asked --------------------------------------------------------------------------------------------


def test_one_person_has_so_many_open_preflights(world: World) -> None:
    agent = world.agent()
    asked = [ask(world) for _ in range(3)]
    with pytest.raises(RateLimited) as caught:
        ask(world)
    assert caught.value.code == "preflight.rate_limited"
    ask(world, who="bob")
    answer(agent, take(agent, asked[0]))
    ask(world)


def test_beyond_so_many_requests_the_plans_are_not_collected(world: World) -> None:
    for _ in range(asking.MAX_OPEN_FOR_REQUESTS):
        pending(world)
    made, _ = pending(world)
    found = of_request(world, made)
    assert found["status"] == "unavailable"
    assert "waiting for their plans" in found["reason"]
    assert messages(world) == asking.MAX_OPEN_FOR_REQUESTS
    ask(world)


# --- a preflight ------------------------------------------------------------------------------------------------------


def begin(world: World, who: str = "alice", *, wanted: bool = True, seconds: float = 5) -> str | View:
    return asking.begin_preflight(
        world.rt,
        world.who(who),
        PROD,
        read(SQL),
        dialect=Dialect.SQLITE,
        wanted=wanted,
        timeout=timedelta(seconds=seconds),
    )


def test_a_preflight_asks_when_somebody_can_answer(world: World) -> None:
    world.agent()
    explain_id = begin(world, seconds=3600)
    assert isinstance(explain_id, str)
    found = row(world, explain_id)
    assert found.timeout_ms == 5000
    assert found.expires_at == world.clock() + timedelta(seconds=10) + asking.GRACE


def test_a_preflight_that_must_not_or_need_not_ask_is_told_at_once(world: World) -> None:
    assert begin(world) == {"status": "not_available", "reason": "no agent serves app/prod at the moment"}
    world.agent()
    assert begin(world, "bob") == {"status": "skipped"}
    assert begin(world, wanted=False) == {"status": "disabled_by_policy"}
    assert messages(world) == 0


def test_an_agent_that_drains_or_is_gone_or_has_no_database_serves_nobody(world: World) -> None:
    agent = world.agent()
    down = agent.report().model_copy()
    agents.report(world.rt, agent.who, agent.report(draining=True))
    assert isinstance(begin(world), dict)
    databases = [d.model_copy(update={"status": "down"}) for d in down.databases]
    agents.report(world.rt, agent.who, agent.report(databases=databases))
    assert isinstance(begin(world), dict)
    agents.report(world.rt, agent.who, agent.report())
    assert isinstance(begin(world), str)
    world.clock.advance(seconds=61)
    assert isinstance(begin(world), dict)


# --- the approvers of a request ---------------------------------------------------------------------------------------


def test_the_plans_of_a_request_are_collected_for_its_approvers(world: World) -> None:
    agent = world.agent()
    made, explain_id = pending(world, "SELECT 1; CREATE TABLE t (a int)")
    assert of_request(world, made) == {"status": "collecting", "explain": None, "reason": None}
    answer(agent, take(agent, explain_id))
    found = of_request(world, made)
    assert found["status"] == "partial"
    assert [entry["sql"] for entry in found["explain"]] == ["SELECT 1", "CREATE TABLE t (a int)"]
    assert found["explain"][0]["text"].startswith(render(PLAN).split("\n")[0])
    assert found["explain"][1]["error"] == "cannot be explained: CREATE has no plan"


def test_what_nobody_answers_is_unavailable_and_a_late_answer_still_counts(world: World) -> None:
    agent = world.agent()
    made, explain_id = pending(world)
    claimed = take(agent, explain_id)
    world.clock.advance(seconds=301)
    housekeeping.end_explains(world.rt)
    assert of_request(world, made)["status"] == "unavailable"
    answer(agent, claimed)
    found = of_request(world, made)
    assert (found["status"], found["reason"]) == ("ready", None)


def test_plans_are_collected_only_for_somebody_who_decides_by_them(world: World) -> None:
    assert asked_for(world, pending(world)[0])
    assert not asked_for(world, world.create(environment="auto", detail=SQL))
    assert not asked_for(world, world.create("olga", "prod", detail=SQL, emergency=True, reason="fire"))
    assert not asked_for(world, world.create(environment="prod", detail=SQL, no_result_store=True))


def test_the_plans_of_a_request_that_was_decided_are_not_asked_for_any_more(world: World) -> None:
    agent = world.agent()
    made, explain_id = pending(world)
    world.approve("bob", made)
    agent.fetch(EXPLAIN_TASK)
    assert refused(lambda: claim(agent, explain_id)) == "explain.over"
    found = of_request(world, made)
    assert (found["status"], found["reason"]) == ("unavailable", "the request was decided before")
    assert messages(world) == 0


def test_plans_are_not_collected_when_the_workflow_says_so(world: World) -> None:
    made, _ = pending(world)

    def work(tx: Any) -> str | None:
        found = requests.lock(tx, made["id"])
        return asking.ask_for_request(
            world.rt, tx, replace(found, workflow={**(found.workflow or {}), "explain": False}), read(SQL)
        )

    assert world.rt.store.write(work) is None
