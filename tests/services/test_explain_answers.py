"""Who may answer a question for plans, and what is taken for an answer."""

from __future__ import annotations

import threading

import pytest

from dbward.broker.names import EXPLAIN_TASK
from dbward.client.shapes import NewToken
from dbward.client.wire import Explained, WireError
from dbward.domain.model import Dialect
from dbward.domain.plans import Plan, Step
from dbward.errors import Invalid, Missing, Unavailable
from dbward.services import api_tokens, housekeeping
from dbward.services import explains as asking
from tests.services.conftest import Agent, World, refused
from tests.services.test_executions import narrow_agent
from tests.services.test_explains import PROD, answer, ask, claim, of_request, pending, row, take


def test_only_who_holds_the_message_claims(world: World) -> None:
    one, two = world.agent("session-1"), world.agent("session-2", instance="two")
    explain_id = ask(world)
    assert explain_id in one.fetch(EXPLAIN_TASK)
    assert explain_id not in two.fetch(EXPLAIN_TASK)
    assert refused(lambda: claim(two, explain_id)) == "explain.not_held"
    two.tags[explain_id] = one.tags[explain_id]
    assert refused(lambda: claim(two, explain_id)) == "explain.not_held"
    claim(one, explain_id)


def test_of_two_agents_that_race_one_gets_it(world: World) -> None:
    racers = [world.agent(f"session-{n}", instance=f"i{n}") for n in range(4)]
    explain_id = ask(world)
    start = threading.Barrier(len(racers))
    won: list[str] = []

    def race(agent: Agent) -> None:
        start.wait()
        if explain_id in agent.fetch(EXPLAIN_TASK):
            won.append(claim(agent, explain_id).claim_id)

    threads = [threading.Thread(target=race, args=(agent,)) for agent in racers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [row(world, explain_id).claim_id]


def test_when_its_agent_dies_another_one_answers_and_the_first_is_too_late(world: World) -> None:
    one, two = world.agent("session-1"), world.agent("session-2", instance="two")
    made, explain_id = pending(world)
    first = take(one, explain_id)
    world.clock.advance(seconds=world.rt.settings.broker.lease.total_seconds() + 1)
    world.keep_house()
    second = take(two, explain_id)
    assert refused(lambda: answer(one, first)) == "explain.over"
    answer(two, second)
    assert of_request(world, made)["status"] == "ready"


def test_an_answer_may_be_repeated(world: World) -> None:
    agent = world.agent()
    explain_id = ask(world)
    claimed = take(agent, explain_id)
    answer(agent, claimed)
    answer(agent, claimed, Explained(error=WireError(code="x", message="second thoughts")))
    assert (asking.impact(world.rt, explain_id) or {})["status"] == "completed"


def test_a_lost_claim_is_asked_for_again(world: World) -> None:
    agent = world.agent()
    explain_id = ask(world)
    lost = take(agent, explain_id)
    again = claim(agent, explain_id)
    assert lost.claim_id != again.claim_id
    assert refused(lambda: answer(agent, lost)) == "explain.over"
    answer(agent, again)


def test_another_agents_answer_is_refused(world: World) -> None:
    agent = world.agent()
    asked = {"subject_id": "second", "subject_type": "agent"}
    token = api_tokens.create_token(world.rt, world.who("admin"), NewToken.model_validate(asked))["token"]
    claimed = take(agent, ask(world))
    with pytest.raises(Missing):
        answer(Agent(world, world.enter(token), "session-of-second"), claimed)
    with pytest.raises(Missing):
        answer(narrow_agent(world, "steps"), claimed)


def test_a_claim_outside_the_scopes_is_refused_and_recorded(world: World) -> None:
    agent, other = world.agent(), narrow_agent(world, "steps")
    explain_id = ask(world)
    agent.fetch(EXPLAIN_TASK)
    other.tags[explain_id] = agent.tags[explain_id]
    with pytest.raises(Missing):
        claim(other, explain_id)
    [event] = [e for e in world.events() if e["outcome"] == "denied"]
    assert event["database_name"] == "app"


def test_a_session_that_has_not_reported_is_to_try_again(world: World) -> None:
    agent = world.agent()
    explain_id = ask(world, seconds=10**6)
    agent.fetch(EXPLAIN_TASK)
    world.clock.advance(days=8)
    housekeeping.purge(world.rt)
    with pytest.raises(Unavailable):
        claim(agent, explain_id)


def test_statements_read_as_another_dialect_are_not_planned(world: World) -> None:
    agent = world.agent(dialects={PROD: Dialect.POSTGRESQL})
    explain_id = ask(world)
    agent.fetch(EXPLAIN_TASK)
    assert refused(lambda: claim(agent, explain_id)) == "execution.other_dialect"
    impact = asking.impact(world.rt, explain_id) or {}
    assert impact["status"] == "error"
    assert "read as sqlite" in impact["plan_text"]


@pytest.mark.parametrize(
    "plan",
    [
        Plan(steps=(Step(10**9, "Scan"),)),
        Plan(steps=(Step(-1, "Scan"),)),
        Plan(steps=(Step(0, "x" * 10_000),)),
        Plan(steps=(Step(0, "Scan\x1b[2J"),)),
        Plan(steps=(Step(0, "Scan", cost=float("inf")),)),
        Plan(steps=(Step(0, "Scan"),) * 10_000),
        Plan(rows=-1),
    ],
)
def test_a_plan_out_of_bounds_is_not_taken(world: World, plan: Plan) -> None:
    agent = world.agent()
    claimed = take(agent, ask(world))
    with pytest.raises(Invalid):
        answer(agent, claimed, Explained(plan=plan))
    answer(agent, claimed)


def test_every_statement_needs_its_answer(world: World) -> None:
    agent = world.agent()
    claimed = take(agent, ask(world, "DELETE FROM t; DELETE FROM u"))
    with pytest.raises(Invalid):
        answer(agent, claimed)


def test_a_draining_server_gives_out_nothing(world: World) -> None:
    agent = world.agent()
    explain_id = ask(world)
    agent.fetch(EXPLAIN_TASK)
    world.rt.hub.close()
    with pytest.raises(Unavailable):
        claim(agent, explain_id)
