"""How an execution ends: as its agent reports, late or twice, or as the server concludes when it hears nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from dbward.client.shapes import NewToken
from dbward.db.tables import broker_messages
from dbward.errors import Unauthorized
from dbward.services import api_tokens, housekeeping
from tests.services.conftest import Agent, World, refused, stream_of


def test_completing_is_repeatable_and_final(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.begin(made)
    assert agent.complete(made, rows_affected=3).status == "executed"
    assert agent.complete(made, rows_affected=3).status == "executed"
    assert agent.complete(made, rows_affected=3, tag="any").status == "executed", "the tag is no part of the outcome"
    assert refused(lambda: agent.complete(made, rows_affected=4)) == "execution.already_completed"
    assert refused(lambda: agent.complete(made, "failed")) == "execution.already_completed"
    event = world.events(event_type="execution.completed")[0]
    assert event["metadata"] == {"duration_ms": 3, "outcome": "completed", "rows_affected": 3}
    assert len(world.events(request_id=made["id"], event_type="execution.completed")) == 1
    with world.rt.store.read() as conn:
        assert conn.execute(select(broker_messages.c.id)).all() == [], "acknowledged with it"


@pytest.mark.parametrize(
    ("outcome", "status", "event", "audited"),
    [
        ("completed", "executed", "execution.completed", "success"),
        ("failed", "failed", "execution.failed", "failure"),
        ("refused", "failed", "execution.token_refused", "denied"),
        ("cancelled", "failed", "execution.failed", "failure"),
        ("unknown", "execution_lost", "execution.lost", "failure"),
    ],
)
def test_how_it_ended_is_how_it_stands(world: World, outcome: str, status: str, event: str, audited: str) -> None:
    made = world.create()
    agent = world.agent()
    agent.begin(made)
    assert agent.complete(made, outcome).status == status
    assert (world.show(made)["resolved_at"], world.status(made)) == (world.clock(), status)
    last = world.events(request_id=made["id"])[-1]
    assert (last["event_type"], last["outcome"], last["actor_type"]) == (event, audited, "agent")
    assert last["metadata"]["outcome"] == outcome


def test_what_never_started_cannot_have_run(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.fetch()
    agent.claim(made)
    for outcome in ("completed", "unknown"):
        assert refused(lambda outcome=outcome: agent.complete(made, outcome)) == "execution.not_started"
    assert agent.complete(made, "refused").status == "failed"


def test_silence_means_lost_and_a_late_word_still_counts(world: World) -> None:
    for outcome, status in (("completed", "executed"), ("failed", "failed")):
        made = world.create()
        agent = world.agent()
        agent.begin(made)
        world.clock.advance(seconds=61)
        housekeeping.sweep_leases(world.rt)
        assert world.status(made) == "execution_lost"
        lost = world.events(request_id=made["id"])[-1]
        assert (lost["event_type"], lost["actor_type"], lost["outcome"]) == ("execution.lost", "system", "failure")
        stream = stream_of([[1, "late"]])
        agent.part(made, stream)
        assert agent.complete(made, outcome, stream=stream).status == status
        assert world.events(request_id=made["id"])[-1]["metadata"]["late"]
        assert world.envelope(made)["success"] is (status == "executed")


def test_a_late_unknown_changes_nothing(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.begin(made)
    world.clock.advance(seconds=61)
    housekeeping.sweep_leases(world.rt)
    assert agent.complete(made, "unknown").status == "execution_lost"


def test_a_late_word_after_a_resume_is_kept_and_moves_nothing(world: World) -> None:
    made = world.create(environment="many")
    agent = world.agent()
    agent.begin(made)
    world.clock.advance(seconds=61)
    housekeeping.sweep_leases(world.rt)
    again = world.resume("alice", made)
    assert agent.complete(made, rows_affected=1).status == "dispatched"
    second = world.agent("session-2", instance="two")
    second.begin(again)
    assert second.complete(again, rows_affected=2).status == "executed"
    assert world.envelope(made, execution_id=made["execution_id"])["rows_affected"] == 1
    assert world.envelope(made)["rows_affected"] == 2


def test_cancelled_stays_cancelled_whatever_came_of_it(world: World) -> None:
    for outcome in ("completed", "failed", "cancelled", "unknown"):
        made = world.create()
        agent = world.agent()
        agent.begin(made)
        world.cancel("alice", made)
        at = world.show(made)["resolved_at"]
        world.clock.advance(seconds=1)
        assert agent.complete(made, outcome).status == "cancelled"
        assert world.show(made)["resolved_at"] == at
        lost = world.create()
        agent.begin(lost)
        world.clock.advance(seconds=61)
        housekeeping.sweep_leases(world.rt)
        world.cancel("alice", lost)
        assert agent.complete(lost, outcome).status == "cancelled"


def test_an_expired_token_ends_what_it_began_and_begins_nothing(world: World) -> None:
    made = world.create()
    asked = {"subject_id": "agent", "subject_type": "agent", "expires_at": world.clock() + timedelta(minutes=1)}
    made_token = api_tokens.create_token(world.rt, world.who("admin"), NewToken.model_validate(asked))
    agent = Agent(world, world.enter(made_token["token"]), "short-lived")
    agent.begin(made)
    world.clock.advance(seconds=61)
    with pytest.raises(Unauthorized):
        world.enter(made_token["token"])
    agent.who = world.enter(made_token["token"], finishing=True)
    assert agent.complete(made, rows_affected=1).status == "executed"
    api_tokens.revoke_token(world.rt, world.who("admin"), made_token["id"])
    with pytest.raises(Unauthorized):
        world.enter(made_token["token"], finishing=True)


def test_a_persons_expired_token_finishes_nothing(world: World) -> None:
    asked = {"subject_id": "alice", "subject_type": "user", "expires_at": world.clock() + timedelta(minutes=1)}
    token = api_tokens.create_token(world.rt, world.who("alice"), NewToken.model_validate(asked))["token"]
    world.clock.advance(seconds=61)
    with pytest.raises(Unauthorized):
        world.enter(token, finishing=True)


# --- deliveries -------------------------------------------------------------------------------------------------------


def test_what_is_delivered_again_and_again_fails(world: World) -> None:
    made = world.create()
    for number in range(5):
        agent = world.agent(f"session-{number}", instance=f"i{number}")
        assert agent.fetch() == [made["execution_id"]]
        if number % 2:
            agent.claim(made)
        assert world.status(made) in {"dispatched", "running"}
        world.clock.advance(seconds=61)
        housekeeping.sweep_leases(world.rt)
    shown = world.show(made)
    assert (shown["status"], shown["error_message"].splitlines()[1]) == ("failed", "HINT: look at the agents' logs")
    event = world.events(request_id=made["id"])[-1]
    assert (event["event_type"], event["actor_type"], event["metadata"]) == (
        "execution.failed",
        "system",
        {"error_code": "delivery.exhausted"},
    )
    assert world.agent("last-session", instance="last").fetch() == []
    count = len(world.events())
    housekeeping.sweep_leases(world.rt)
    assert len(world.events()) == count, "buried: reported once"


def test_a_time_out_of_the_dispatch_takes_the_message_from_whoever_holds_it(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.fetch()
    world.clock.advance(seconds=300)
    housekeeping.time_out_dispatches(world.rt)
    assert refused(lambda: agent.claim(made)) == "execution.not_held"
    assert world.status(made) == "approved"
