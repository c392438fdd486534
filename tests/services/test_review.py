"""Deciding about requests: who may, how votes count, and what is left when time or somebody else is faster."""

from __future__ import annotations

import pytest

from dbward.errors import Conflict, Gone, Invalid, Missing, Refused
from dbward.services import housekeeping
from tests.services.conftest import World, refused


def test_one_approval_makes_it_resumable(world: World) -> None:
    made = world.create(environment="prod")
    assert world.approve("bob", made, comment="fine") == {
        "id": made["id"],
        "status": "approved",
        "approved_by": "bob",
        "matched_selector": "role:approver",
        "step_completed": 1,
        "current_step": 1,
        "total_steps": 1,
    }
    shown = world.show(made)
    assert shown["approval_progress"]["steps"][0]["approvals"] == [
        {"user": "bob", "action": "approve", "at": world.clock(), "comment": "fine"}
    ]
    assert shown["expires_at"] is not None
    assert world.agent().fetch() == [], "approving dispatches nothing"
    assert world.event_types(made) == ["request.created", "step.approved", "request.approved"]
    step, final = world.events(request_id=made["id"])[1:]
    assert step["metadata"] == {
        "matched_selector": "role:approver",
        "approval_comment": "fine",
        "step_number": 1,
        "total_steps": 1,
    }
    assert final["metadata"] == {"matched_selector": "role:approver", "approval_comment": "fine"}


def test_who_may_not_decide_is_refused_and_recorded(world: World) -> None:
    made = world.create("both", "prod")
    sees = {"both", "olga"}
    for name in ("both", "alice", "olga", "dana"):
        code = "forbidden" if name in sees else "request.not_found"
        assert refused(lambda name=name: world.approve(name, made)) == code
        assert refused(lambda name=name: world.reject(name, made)) == code
    events = world.events(event_type="request.refused", request_id=made["id"])
    assert [(e["actor_id"], e["metadata"]["action"]) for e in events] == [
        (name, action) for name in ("both", "alice", "olga", "dana") for action in ("approve", "reject")
    ]
    assert {e["outcome"] for e in events} == {"denied"}
    assert world.status(made) == "pending"


def test_all_wants_every_entry_as_often_as_it_says(world: World) -> None:
    made = world.create(environment="steps")
    assert world.approve("bob", made)["current_step"] == 0
    assert refused(lambda: world.approve("bob", made)) == "request.conflict"
    with pytest.raises(Conflict, match="already approved"):
        world.approve("bob", made)
    world.approve("beth", made)
    with pytest.raises(Conflict, match="has been given"):
        world.approve("carol", made)
    after = world.approve("sam", made)
    assert (after["status"], after["current_step"], after["matched_selector"]) == ("pending", 1, "user:sam")
    with pytest.raises(Refused):
        world.approve("bob", made)
    after = world.approve("dana", made)
    assert (after["status"], after["current_step"], after["matched_selector"]) == ("approved", 2, "group:dba")
    assert [s["satisfied"] for s in world.show(made)["approval_progress"]["steps"]] == [True, True]


def test_each_step_wants_somebody_else_unless_it_says_so(world: World) -> None:
    made = world.create(environment="steps")
    for name in ("bob", "carol", "sam"):
        world.approve(name, made)
    with pytest.raises(Refused, match="different approver"):
        world.approve("carol", made)
    same = world.create(environment="same")
    assert world.approve("bob", same)["status"] == "pending"
    assert world.approve("bob", same)["status"] == "approved"


def test_any_wants_one_entry_and_asks_which(world: World) -> None:
    made = world.create(environment="any")
    with pytest.raises(Invalid, match="ambiguous"):
        world.approve("carol", made)
    with pytest.raises(Invalid, match="not among"):
        world.approve("carol", made, selector="user:bob")
    assert world.approve("carol", made, selector="role:approver")["status"] == "pending"
    assert world.approve("bob", made)["status"] == "approved"
    other = world.create(environment="any")
    assert world.approve("carol", other, selector="user:carol")["status"] == "approved"


def test_self_approval_where_the_workflow_lets(world: World) -> None:
    made = world.create(environment="own")
    assert world.approve("alice", made)["approved_by"] == "alice"


def test_reject_ends_it(world: World) -> None:
    made = world.create(environment="prod")
    assert world.reject("bob", made, "not on a Friday") == {"id": made["id"], "status": "rejected"}
    shown = world.show(made)
    assert (shown["reject_reason"], shown["resolved_at"]) == ("not on a Friday", world.clock())
    event = world.events(event_type="request.rejected")[0]
    assert (event["reason"], event["actor_id"], event["outcome"]) == ("not on a Friday", "bob", "success")
    for call in (world.approve, world.reject):
        with pytest.raises(Conflict):
            call("bob", made)
        with pytest.raises(Missing):  # she may not see it any more
            call("beth", made)
    assert refused(lambda: world.resume("alice", made)) == "request.conflict"
    assert refused(lambda: world.cancel("alice", made)) == "request.conflict"
    assert world.listed("beth") == set()


def test_who_approved_a_step_may_still_reject_it(world: World) -> None:
    made = world.create(environment="steps")
    world.approve("bob", made)
    assert world.reject("bob", made, "on second thought")["status"] == "rejected"
    given = world.show(made)["approval_progress"]["steps"][0]["approvals"]
    assert {a["action"] for a in given} == {"approve", "reject"}


def test_refusals_come_in_their_order(world: World) -> None:
    made = world.create(environment="prod")
    with pytest.raises(Invalid):
        world.approve("bob", {"id": "0"}, comment="x" * 1025)
    with pytest.raises(Missing):
        world.approve("bob", {"id": "00000000"})
    world.clock.advance(days=2)
    with pytest.raises(Gone):
        world.approve("alice", made)
    with pytest.raises(Gone):
        world.reject("alice", made)
    housekeeping.expire(world.rt)
    with pytest.raises(Conflict):
        world.approve("alice", made)
    with pytest.raises(Missing):
        world.approve("bob", made)


def test_the_snapshot_decides_and_not_what_policy_says_now(world: World) -> None:
    made = world.create(environment="prod")
    policy = world.rt.settings.policy
    object.__setattr__(policy, "workflows", ())
    assert world.approve("bob", made)["status"] == "approved"


# --- cancel -----------------------------------------------------------------------------------------------------------


def test_cancel_in_every_state_that_can_be_left(world: World) -> None:
    agent = world.agent()
    pending = world.create(environment="prod")
    approved = world.create(environment="prod")
    world.approve("bob", approved)
    dispatched = world.create()
    claimed, running, lost, done = (world.create(environment="many") for _ in range(4))
    assert len(agent.fetch()) == 5
    states = {"pending": pending, "approved": approved, "dispatched": dispatched}
    agents = {}
    for name, request in (("claimed", claimed), ("running", running), ("lost", lost), ("done", done)):
        agent.claim(request)
        agents[name] = agent.claim_id
        if name != "claimed":
            agent.start(request)
        if name == "done":
            agent.complete(request, rows_affected=0)
    states |= {"running": running}
    # The lost one alone is not renewed.
    world.clock.advance(seconds=59)
    agent.claim_id = agents["running"]
    agent.renew(running)
    agent.claim_id = agents["claimed"]
    agent.renew(claimed)
    world.clock.advance(seconds=2)
    housekeeping.sweep_leases(world.rt)
    states |= {"execution_lost": lost}
    for status, request in states.items():
        assert world.status(request) == status
        assert world.cancel("alice", request, "never mind")["status"] == "cancelled"
        event = world.events(event_type="request.cancelled", request_id=request["id"])[0]
        assert (event["reason"], event["actor_id"]) == ("never mind", "alice")
        shown = world.show(request)
        assert (shown["cancelled_by"], shown["cancel_reason"]) == ("alice", "never mind")
    assert world.cancel("alice", claimed)["status"] == "cancelled"
    assert refused(lambda: world.cancel("alice", done)) == "request.conflict"
    assert refused(lambda: world.cancel("alice", pending)) == "request.conflict"
    other = world.agent("session-2", instance="two")
    assert other.fetch() == [running["execution_id"]], "nothing else is left in the queues"
    assert refused(lambda: other.claim(running)) == "execution.not_claimable"
    agent.claim_id = agents["claimed"]
    assert refused(lambda: agent.start(claimed)) == "execution.not_startable"
    agent.claim_id = agents["running"]
    assert agent.renew(running).cancelled
    assert agent.complete(running, "cancelled").status == "cancelled"


def test_somebody_elses_request_is_cancelled_with_a_reason_or_not_at_all(world: World) -> None:
    made = world.create(environment="prod")
    assert refused(lambda: world.cancel("rita", made, "mine now")) == "request.not_found"
    assert refused(lambda: world.cancel("bob", made)) == "forbidden"
    with pytest.raises(Invalid, match="reason is required"):
        world.cancel("olga", made, "  ")
    with pytest.raises(Invalid):
        world.cancel("alice", made, "x" * 1025)
    assert world.cancel("olga", made, "incident 7")["status"] == "cancelled"
    refusals = world.events(event_type="request.refused", request_id=made["id"])
    assert [(e["actor_id"], e["metadata"]["action"]) for e in refusals] == [("rita", "cancel"), ("bob", "cancel")]


# --- resume -----------------------------------------------------------------------------------------------------------


def test_resume_sends_the_job(world: World) -> None:
    made = world.create(environment="prod")
    assert refused(lambda: world.resume("alice", made)) == "request.conflict"
    world.approve("bob", made)
    assert refused(lambda: world.resume("rita", made, "x")) == "request.not_found"
    assert refused(lambda: world.resume("bob", made)) == "forbidden"
    sent = world.resume("alice", made, "now")
    assert sent["status"] == "dispatched"
    assert world.agent().fetch() == [sent["execution_id"]]
    assert refused(lambda: world.resume("alice", made)) == "request.conflict"
    event = world.events(event_type="request.dispatched", request_id=made["id"])[0]
    assert (event["reason"], event["metadata"]) == ("now", {"execution_id": sent["execution_id"]})


def test_an_approval_runs_out(world: World) -> None:
    made = world.create(environment="brief")
    world.approve("bob", made)
    assert (world.show(made)["expires_at"] - world.clock()).total_seconds() == 600
    world.clock.advance(seconds=601)
    assert refused(lambda: world.resume("alice", made)) == "request.gone"
    housekeeping.expire(world.rt)
    assert world.status(made) == "expired"
    event = world.events(event_type="request.expired")[0]
    assert (event["actor_type"], event["reason"]) == ("system", "approved, but not run in time")


def test_a_pending_request_runs_out(world: World) -> None:
    made = world.create(environment="brief")
    housekeeping.expire(world.rt)
    assert world.status(made) == "pending"
    world.clock.advance(seconds=60)
    housekeeping.expire(world.rt)
    assert world.status(made) == "expired"
    assert world.events(event_type="request.expired")[0]["reason"] == "not decided in time"
    assert world.listed("bob") == set()


def test_as_often_as_the_policy_says(world: World) -> None:
    once = world.executed()
    with pytest.raises(Conflict, match="at most 1"):
        world.resume("alice", once)
    made = world.executed(environment="many")
    for _ in range(2):
        again = world.resume("alice", made)
        world.agent().run(again)
    with pytest.raises(Conflict, match="at most 3"):
        world.resume("alice", made)


def test_a_failure_is_retried_where_policy_lets(world: World) -> None:
    for environment, allowed in (("many", True), ("auto", False)):
        made = world.create(environment=environment)
        agent = world.agent()
        agent.begin(made)
        agent.complete(made, "failed")
        assert world.status(made) == "failed"
        if allowed:
            assert world.resume("alice", made)["status"] == "dispatched"
        else:
            with pytest.raises(Conflict, match="retry"):
                world.resume("alice", made)


def test_the_window_begins_with_the_approval_and_never_again(world: World) -> None:
    made = world.executed(environment="many")
    world.clock.advance(minutes=50)
    again = world.resume("alice", made)
    world.agent().run(again)
    world.clock.advance(minutes=11)
    with pytest.raises(Gone, match="window"):
        world.resume("alice", made)


def test_an_unstored_result_uses_up_an_execution_too(world: World) -> None:
    made = world.executed(no_result_store=True)
    assert refused(lambda: world.resume("alice", made)) == "request.conflict"


def test_a_lost_one_is_resumed_by_who_decides(world: World) -> None:
    made = world.create()
    world.agent().begin(made)
    world.clock.advance(seconds=61)
    world.keep_house()
    assert world.status(made) == "execution_lost"
    again = world.resume("alice", made, "checked by hand: nothing was written")
    assert world.agent().fetch() == [again["execution_id"]]


def test_what_waits_for_nobody_to_take_it_comes_back(world: World) -> None:
    """The message goes too, or an agent would run it after somebody decided otherwise."""
    made = world.create()
    world.clock.advance(seconds=299)
    world.keep_house()
    assert world.status(made) == "dispatched"
    world.clock.advance(seconds=1)
    world.keep_house()
    assert world.status(made) == "approved"
    assert world.agent().fetch() == []
    event = world.events(event_type="request.dispatch_timeout")[0]
    assert (event["actor_type"], event["reason"]) == ("system", "no agent took it within 300 seconds")
    again = world.resume("alice", made)
    assert again["execution_id"] != made["execution_id"]


def test_what_policy_approved_expires_too_once_it_came_back(world: World) -> None:
    approved_at = world.clock()
    made = world.create()
    world.clock.advance(minutes=6)
    world.keep_house()
    assert (world.show(made)["expires_at"] - approved_at).days == 1, "it is no younger for having waited"
    world.clock.advance(days=1)
    world.keep_house()
    assert world.status(made) == "expired"


def test_what_ran_before_has_its_window_after_a_time_out(world: World) -> None:
    made = world.executed(environment="many")
    world.resume("alice", made)
    world.clock.advance(minutes=6)
    world.keep_house()
    assert world.status(made) == "approved"
    assert world.resume("alice", made)["status"] == "dispatched"
    world.clock.advance(minutes=6)
    world.keep_house()
    world.clock.advance(hours=1)
    world.keep_house()
    assert world.status(made) == "expired"
