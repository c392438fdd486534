"""An agent's conversation with the server, told wrong in every way that the server must notice."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import select

from dbward.broker import store as broker
from dbward.client.shapes import NewToken
from dbward.db.tables import broker_messages
from dbward.domain import tokens
from dbward.domain.model import Dialect, Target
from dbward.errors import Conflict, Invalid, Missing, Refused, TooLarge, Unavailable
from dbward.services import agents, api_tokens, executions, housekeeping
from tests.services.conftest import Agent, World, refused, stream_of


def narrow_agent(world: World, environment: str, session: str = "narrow-session", instance: str = "n") -> Agent:
    """An agent of the same subject whose token opens one target."""
    asked = {
        "subject_id": "agent",
        "subject_type": "agent",
        "scopes": [{"database": "app", "environment": environment}],
    }
    made = api_tokens.create_token(world.rt, world.who("admin"), NewToken.model_validate(asked))
    return Agent(world, world.enter(made["token"]), session, instance=instance)


# --- reports ----------------------------------------------------------------------------------------------------------


def test_a_report_outside_the_scopes_is_refused_and_recorded(world: World) -> None:
    agent = world.agent()
    said = agent.report()
    narrow = narrow_agent(world, "auto")
    with pytest.raises(Refused):
        agents.report(world.rt, narrow.who, said.model_copy(update={"session": "narrow-session"}))
    event = world.events(event_type="request.refused")[0]
    assert (event["actor_type"], event["outcome"]) == ("agent", "denied")
    assert event["metadata"]["action"] == "agent.report"
    with pytest.raises(Invalid, match="protocol"):
        agents.report(world.rt, agent.who, said.model_copy(update={"protocol": 99}))
    stranger = said.databases[0].model_copy(update={"environment": "nowhere"})
    assert refused(lambda: agents.report(world.rt, agent.who, agent.report(databases=[stranger]))) == (
        "database.not_registered"
    )


def test_agents_are_listed_with_what_waits_for_them(world: World) -> None:
    agent = world.agent()
    world.create()
    world.clock.advance(seconds=30)
    listed = agents.list_agents(world.rt, world.who("olga"))
    assert [(a["id"], a["status"]) for a in listed["agents"]] == [(agent.node, "healthy")]
    queue = next(q for q in listed["queues"] if q["environment"] == "auto")
    assert (queue["ready"], queue["oldest_job_age_secs"]) == (1, 30)
    world.clock.advance(seconds=31)
    assert agents.list_agents(world.rt, world.who("olga"))["agents"][0]["status"] == "offline"
    agent.fetch()
    assert agents.list_agents(world.rt, world.who("olga"))["agents"][0]["status"] == "healthy"
    with pytest.raises(Refused):
        agents.list_agents(world.rt, world.who("alice"))


def test_a_hint_says_why_a_job_waits(world: World) -> None:
    made = world.create()
    agent = world.agent()
    assert world.show(made)["queue_hint"] is None
    for changes, hint in (({"in_flight": 4}, "agents_saturated"), ({"draining": True}, "agents_draining")):
        agents.report(world.rt, agent.who, agent.report(**changes))
        assert world.show(made)["queue_hint"] == hint
    world.clock.advance(seconds=61)
    assert world.show(made)["queue_hint"] == "no_agents"


# --- claim ------------------------------------------------------------------------------------------------------------


def test_a_claim_brings_what_to_run_signed(world: World) -> None:
    made = world.create(environment="many", detail="SELECT '%s :x' -- why")
    agent = world.agent()
    agent.fetch()
    claimed = agent.claim(made)
    assert claimed.statements == ["SELECT '%s :x'"]
    assert (claimed.limits.max_rows, claimed.limits.statement_timeout_ms, claimed.limits.max_bytes) == (77, 30000, 4096)
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(world.rt.keys.execution_public_hex))
    expected = tokens.Binding(
        claim_id=claimed.claim_id,
        request_id=made["id"],
        execution_id=made["execution_id"],
        agent=agent.node,
        operation=claimed.operation,
        database="app",
        environment="many",
        statements_sha256=tokens.statements_sha256(claimed.statements),
        statement_timeout_ms=30000,
        max_rows=77,
        max_bytes=4096,
    )
    token = tokens.verify(key, claimed.token, expected=expected, now=world.clock(), max_skew=timedelta(0))
    assert token.expires_at - token.issued_at == timedelta(minutes=5)
    shown = world.show(made)
    assert (shown["status"], shown["claimed_by"]) == ("running", agent.node)
    event = world.events(event_type="execution.claimed")[0]
    assert (event["actor_type"], event["resource_type"], event["resource_id"]) == (
        "agent",
        "execution",
        made["execution_id"],
    )


def test_the_time_limit_of_the_workflow_is_kept(world: World) -> None:
    made = world.create(environment="timed")
    assert world.agent().begin(made).limits.statement_timeout_ms == 7000


def test_only_who_holds_the_message_claims(world: World) -> None:
    made = world.create()
    other = world.agent("session-2", instance="two")
    assert refused(lambda: other.claim(made)) == "execution.not_held"
    agent = world.agent()
    agent.fetch()
    other.tags = dict(agent.tags)
    assert refused(lambda: other.claim(made)) == "execution.not_held", "with the tag of somebody else's session"
    agent.claim(made)
    with pytest.raises(Missing):
        agent.claim({"execution_id": "00000000-0000-0000-0000-000000000000"})


def test_a_claim_outside_the_scopes_is_refused_and_recorded(world: World) -> None:
    made = world.create(environment="many")
    agent = world.agent()
    agent.fetch()
    agent.who = narrow_agent(world, "auto").who
    with pytest.raises(Missing):
        agent.claim(made)
    event = world.events(event_type="request.refused", request_id=made["id"])[0]
    assert (event["actor_id"], event["metadata"]["action"]) == ("agent", "claim")
    assert world.status(made) == "dispatched"


def test_a_lapsed_lease_is_as_good_as_none_else_has_it(world: World) -> None:
    """Refusing the claim would make the agent acknowledge the message, and nobody would run the job."""
    made = world.create()
    agent = world.agent()
    agent.fetch()
    world.clock.advance(seconds=61)
    housekeeping.sweep_leases(world.rt)
    agent.claim(made)
    assert world.agent("session-2", instance="two").fetch() == [], "and it is leased again"
    agent.start(made)


def test_a_lapsed_lease_is_worth_nothing_once_another_has_the_message(world: World) -> None:
    made = world.create()
    agent, other = world.agent(), world.agent("session-2", instance="two")
    agent.fetch()
    world.clock.advance(seconds=61)
    housekeeping.sweep_leases(world.rt)
    other.fetch()
    assert refused(lambda: agent.claim(made)) == "execution.not_held"
    other.claim(made)


def test_a_session_that_has_not_reported_is_to_try_again(world: World) -> None:
    """As a conflict, the agent would drop the message."""
    made = world.create()
    agent = world.agent()
    agent.fetch()
    world.clock.advance(days=8)
    housekeeping.purge(world.rt)
    with pytest.raises(Unavailable):
        agent.claim(made)
    agents.report(world.rt, agent.who, agent.report())
    agent.claim(made)


def test_a_draining_server_gives_out_nothing(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.fetch()
    world.rt.hub.close()
    with pytest.raises(Unavailable):
        agent.claim(made)


def test_another_agent_takes_over_before_the_start(world: World) -> None:
    made = world.create()
    dead, other = world.agent(), world.agent("session-2", instance="two")
    dead.fetch()
    dead.claim(made)
    world.clock.advance(seconds=61)
    housekeeping.sweep_leases(world.rt)
    other.fetch()
    other.claim(made)
    assert refused(lambda: dead.start(made)) == "execution.not_claimed"
    assert refused(lambda: dead.renew(made)) == "execution.not_claimed"
    assert refused(lambda: dead.complete(made, "failed")) == "execution.not_claimed"
    other.start(made)
    assert other.complete(made, rows_affected=1).status == "executed"


def test_a_claim_whose_agent_is_gone_is_taken_back(world: World) -> None:
    """Also when no other agent ever comes, nothing is left running for ever."""
    made = world.create()
    dead = world.agent()
    dead.fetch()
    dead.claim(made)
    world.clock.advance(seconds=59)
    housekeeping.sweep_leases(world.rt)
    assert world.status(made) == "running"
    world.clock.advance(seconds=2)
    housekeeping.sweep_leases(world.rt)
    assert world.status(made) == "dispatched"
    released = world.events(event_type="execution.released")[0]
    assert (released["actor_type"], released["reason"]) == (
        "system",
        "the agent that claimed it is not heard of any more",
    )
    world.clock.advance(seconds=300)
    world.keep_house()
    assert world.status(made) == "approved"


def test_a_claim_is_left_alone_while_its_message_is_held(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.fetch()
    agent.claim(made)
    for _ in range(4):
        world.clock.advance(seconds=40)
        agent.fetch()  # a poll renews the lease of the message; the database takes its time to answer
        housekeeping.sweep_leases(world.rt)
    assert world.status(made) == "running"
    agent.start(made)


def test_a_claim_that_was_dropped_comes_to_an_end(world: World) -> None:
    """The agent acknowledged the message and never reported."""
    made = world.create()
    agent = world.agent()
    agent.fetch()
    agent.claim(made)
    world.rt.store.write(lambda tx: broker.ack(tx, agent.session, list(agent.tags.values())))
    world.clock.advance(seconds=301)
    world.keep_house()
    assert world.status(made) == "approved"


def test_statements_read_as_another_dialect_are_not_run(world: World) -> None:
    """What passed for a read by one database's rules may be none by another's."""
    made = world.create()
    agent = world.agent(dialects={Target("app", "auto"): Dialect.MYSQL})
    agent.fetch()
    assert refused(lambda: agent.claim(made)) == "execution.other_dialect"
    shown = world.show(made)
    assert shown["status"] == "failed"
    assert "read as sqlite" in shown["error_message"]
    assert world.agent("session-2", instance="two").fetch() == []


# --- start ------------------------------------------------------------------------------------------------------------


def test_start_is_repeated_with_its_nonce_and_with_no_other(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.begin(made)
    assert not agent.start(made).cancelled, "the answer was lost and it asks again"
    with pytest.raises(Conflict) as caught:
        agent.start(made, nonce="another nonce of that job")
    assert caught.value.code == "token.replayed"
    event = world.events(event_type="execution.token_refused")[0]
    assert (event["outcome"], event["actor_id"], event["reason"]) == (
        "denied",
        "agent",
        "the execution token was spent before",
    )
    assert world.event_types(made)[-3:] == ["execution.claimed", "execution.started", "execution.token_refused"]
    agent.complete(made, rows_affected=1)
    assert refused(lambda: agent.start(made)) == "execution.not_startable"


def test_start_refuses_the_cancelled_the_late_and_the_stranger(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.fetch()
    claimed = agent.claim(made)
    agent.claim_id = "another"
    assert refused(lambda: agent.start(made)) == "execution.not_claimed"
    agent.claim_id = claimed.claim_id
    world.clock.advance(minutes=5)
    assert refused(lambda: agent.start(made)) == "token.expired"
    again = world.create()
    agent.fetch()
    agent.claim(again)
    world.cancel("alice", again)
    assert refused(lambda: agent.start(again)) == "execution.not_startable"


def test_an_execution_belongs_to_the_agent_that_claimed_it(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.begin(made)
    asked = {"subject_id": "second", "subject_type": "agent"}
    token = api_tokens.create_token(world.rt, world.who("admin"), NewToken.model_validate(asked))["token"]
    second = Agent(world, world.enter(token), "session-of-second", claim_id=agent.claim_id, nonce=agent.nonce)
    for call in (
        lambda: second.start(made),
        lambda: second.renew(made),
        lambda: second.release(made),
        lambda: second.part(made, b"x"),
        lambda: second.complete(made, "failed"),
    ):
        assert refused(call) == "request.not_found"


@pytest.mark.parametrize("name", ["an@agent", "a b", "", "-x", "ä"])
def test_an_agent_is_not_named_so_that_its_node_reads_as_anothers(world: World, name: str) -> None:
    asked = NewToken.model_construct(
        subject_id=name, subject_type="agent", name=None, scope_ceiling=None, scopes=None, expires_at=None
    )
    with pytest.raises(Invalid):
        api_tokens.create_token(world.rt, world.who("admin"), asked)


def test_every_call_needs_the_target_in_its_scopes(world: World) -> None:
    """The subject may have several tokens: one for another target does not open this one."""
    made = world.create(environment="many")
    agent = world.agent()
    agent.begin(made)
    agent.who = narrow_agent(world, "auto").who
    for call in (
        lambda: agent.start(made),
        lambda: agent.renew(made),
        lambda: agent.release(made),
        lambda: agent.part(made, b"x"),
        lambda: agent.complete(made, "failed"),
    ):
        assert refused(call) == "request.not_found"


# --- renew, release ---------------------------------------------------------------------------------------------------


def test_renewing_keeps_it_and_hears_of_the_end(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.begin(made)
    for _ in range(3):
        world.clock.advance(seconds=59)
        assert agent.renew(made).model_dump() == {"cancelled": False, "lost": False, "lease_secs": 60}
        housekeeping.sweep_leases(world.rt)
    assert world.status(made) == "running"
    assert not executions.to_stop(world.rt, made["execution_id"], agent.claim_id)
    world.cancel("alice", made)
    assert executions.to_stop(world.rt, made["execution_id"], agent.claim_id)
    assert agent.renew(made).cancelled
    world.clock.advance(seconds=61)
    housekeeping.sweep_leases(world.rt)
    assert agent.renew(made).lost
    assert world.status(made) == "cancelled"
    assert executions.to_stop(world.rt, made["execution_id"], "another claim")


def test_whatever_ends_an_execution_wakes_its_agent(world: World) -> None:
    for end in ("cancel", "lose", "complete"):
        made = world.create()
        agent = world.agent()
        agent.begin(made)
        with world.rt.hub.listen(f"execution:{made['execution_id']}") as waiter:
            if end == "cancel":
                world.cancel("alice", made)
            elif end == "complete":
                agent.complete(made, rows_affected=1)
            else:
                world.clock.advance(seconds=61)
                housekeeping.sweep_leases(world.rt)
            assert waiter.wait(20), end
        assert executions.to_stop(world.rt, made["execution_id"], agent.claim_id)


def test_whatever_changes_a_request_wakes_who_waits_for_it(world: World) -> None:
    made = world.create(environment="prod")
    agent = world.agent()
    with world.rt.hub.listen(f"request:{made['id']}") as waiter:
        world.approve("bob", made)
        assert waiter.wait(20)
        sent = world.resume("alice", made)
        assert waiter.wait(20)
        agent.fetch()
        agent.claim(sent)
        assert waiter.wait(20)
        agent.release(sent)
        assert waiter.wait(20)
        agent.fetch()
        agent.claim(sent)
        assert waiter.wait(20)
        agent.start(sent)
        world.clock.advance(seconds=61)
        housekeeping.sweep_leases(world.rt)
        assert waiter.wait(20)
        agent.complete(sent, rows_affected=1)
        assert waiter.wait(20)
        world.clock.advance(days=91)
        housekeeping.purge(world.rt)
        assert waiter.wait(20)


def test_what_was_not_started_is_given_back(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.fetch()
    agent.claim(made)
    agent.release(made, delay_secs=5)
    assert world.status(made) == "dispatched"
    agent.release(made, delay_secs=5)
    other = world.agent("session-2", instance="two")
    assert other.fetch() == []
    world.clock.advance(seconds=5)
    assert other.fetch() == [made["execution_id"]]
    assert refused(lambda: agent.start(made)) == "execution.not_claimed"
    other.claim(made)
    other.start(made)
    assert refused(lambda: other.release(made)) == "execution.not_releasable"
    event = world.events(event_type="execution.released")[0]
    assert (event["reason"], event["actor_id"]) == ("database is down", "agent")
    with world.rt.store.read() as conn:
        assert conn.execute(select(broker_messages.c.deliveries)).scalar_one() == 1, "a release does not count"


def test_a_cancelled_claim_has_nothing_to_give_back(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.fetch()
    agent.claim(made)
    world.cancel("alice", made)
    assert refused(lambda: agent.release(made)) == "execution.not_releasable"
    assert agent.complete(made, "cancelled").status == "cancelled"


# --- parts ------------------------------------------------------------------------------------------------------------


def test_parts_are_kept_by_their_offset(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.fetch()
    agent.claim(made)
    assert refused(lambda: agent.part(made, b"early")) == "execution.not_running"
    agent.start(made)
    assert agent.part(made, b"hello ") == 6
    assert agent.part(made, b"hello ") == 6, "repeated"
    with pytest.raises(Conflict) as caught:
        agent.part(made, b"!", offset=11)
    assert (caught.value.code, caught.value.detail) == ("result.offset", {"size": 6})
    assert agent.part(made, b"wo", offset=6) == 8
    assert agent.part(made, b"world", offset=6) == 11, "more of what was torn off"
    with pytest.raises(TooLarge):
        agent.part(made, b"x", offset=executions.OVERHEAD_BYTES + 4096)
    with pytest.raises(Invalid):
        agent.part(made, b"x", offset=-1)
    agent.claim_id = "another"
    assert refused(lambda: agent.part(made, b"x")) == "execution.not_claimed"
    with pytest.raises(Missing):
        agent.part({"execution_id": "0"}, b"x")


def test_a_result_that_is_not_what_its_sender_says_is_not_taken(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.begin(made)
    stream = stream_of([[1, "a"]])
    agent.part(made, stream[:-3])
    with pytest.raises(Conflict) as caught:
        agent.complete(made, stream=stream)
    assert (caught.value.code, caught.value.detail) == ("result.incomplete", {"size": len(stream) - 3})
    agent.part(made, stream[-3:], offset=len(stream) - 3)
    with pytest.raises(Conflict):
        agent.complete(made, stream=stream, result_sha256="0" * 64)
    with pytest.raises(Invalid):
        agent.complete(made, result_size=3)
    assert agent.complete(made, stream=stream).status == "executed"
