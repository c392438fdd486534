"""What the server does by itself, also after it stood still, and with rows it cannot handle."""

from __future__ import annotations

import shutil
import threading
from datetime import timedelta

import pytest
from sqlalchemy import update

from dbward.broker import store as broker
from dbward.db.engine import open_store
from dbward.db.tables import broker_messages, requests
from dbward.errors import Conflict, Misconfigured
from dbward.runtime import Current, open_runtime
from dbward.services import agents, health, housekeeping
from dbward.services.housekeeping import Housekeeper
from tests.services.conftest import Clock, World


def test_a_start_gives_everybody_time_to_renew(world: World) -> None:
    """While no server ran nobody could, so nobody is given up for it."""
    made, claimed = world.create(), world.create(environment="many")
    agent = world.agent()
    agent.begin(made)
    running = agent.claim_id
    agent.claim(claimed)
    world.clock.advance(hours=1)
    keeper = Housekeeper(Current(world.rt))
    keeper.start()
    keeper.stop()
    world.clock.advance(seconds=29)
    housekeeping.sweep_leases(world.rt)
    assert (world.status(made), world.status(claimed)) == ("running", "running")
    agent.claim_id = running
    assert not agent.renew(made).lost
    world.clock.advance(seconds=2)
    housekeeping.sweep_leases(world.rt)
    assert (world.status(made), world.status(claimed)) == ("running", "dispatched")


@pytest.mark.parametrize(("swept_ago", "status"), [(0, "execution_lost"), (60, "running")])
def test_a_start_beside_one_that_keeps_house_gives_no_time(world: World, swept_ago: int, status: str) -> None:
    """Servers that start one after the other would else never let an agent be given up."""
    if world.rt.store.dialect == "sqlite":
        pytest.skip("SQLite has one owner")
    made = world.create()
    world.agent().begin(made)
    housekeeping.sweep_leases(world.rt)
    world.clock.advance(seconds=55)
    if not swept_ago:
        housekeeping.sweep_leases(world.rt)
    other = open_store(world.rt.settings.state, on_wake=lambda _: None)
    keeper = Housekeeper(Current(world.rt))
    keeper.start()
    keeper.stop()
    other.close()
    world.clock.advance(seconds=6)
    housekeeping.sweep_leases(world.rt)
    assert world.status(made) == status


def test_a_server_that_stood_still_blames_nobody(world: World) -> None:
    made, waiting = world.create(), world.create(environment="many")
    agent = world.agent()
    agent.begin(made)
    assert waiting["execution_id"] in agent.tags
    world.clock.advance(seconds=50)
    world.clock.advance(minutes=10)
    housekeeping._thaw(world.rt, by=timedelta(minutes=10))
    housekeeping.sweep_leases(world.rt)
    assert world.status(made) == "running"
    world.clock.advance(seconds=9)
    housekeeping.sweep_leases(world.rt)
    assert world.status(made) == "running"
    assert world.agent("session-2", instance="two").fetch() == []
    world.clock.advance(seconds=2)
    housekeeping.sweep_leases(world.rt)
    assert world.status(made) == "execution_lost"
    assert waiting["execution_id"] in world.agent("session-2", instance="two").fetch()


def test_the_thread_notices_a_leap_of_the_clock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine slept: the clock of the leases went on, the server did not."""
    made = world.create()
    world.agent().begin(made)
    turns = threading.Semaphore(0)
    chores = tuple(
        housekeeping._Chore(timedelta(milliseconds=10), each.run)
        for each in housekeeping._CHORES
        if each.run.__name__ != "vouch"
    )
    counting = housekeeping._Chore(timedelta(milliseconds=10), lambda _: turns.release())
    monkeypatch.setattr(housekeeping, "_CHORES", (*chores, counting))
    keeper = Housekeeper(Current(world.rt))
    keeper.start()
    try:
        for _ in range(2):
            assert turns.acquire(timeout=60)
        world.clock.advance(hours=2)
        for _ in range(4):
            assert turns.acquire(timeout=60)
        assert world.status(made) == "running"
    finally:
        keeper.stop()


def test_one_row_that_cannot_be_handled_does_not_stop_the_others(world: World) -> None:
    broken, sound = world.create(), world.create(environment="many")
    world.rt.store.write(
        lambda tx: tx.conn.execute(update(requests).where(requests.c.id == broken["id"]).values(workflow={"id": 7}))
    )
    world.clock.advance(seconds=301)
    housekeeping.time_out_dispatches(world.rt)
    assert world.status(sound) == "approved"
    assert world.page("olga", status="dispatched")["total"] == 1


def test_a_chore_that_fails_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Semaphore(0)

    def fail(_: object) -> None:
        tried.release()
        raise Conflict("on purpose")

    chore = housekeeping._Chore(timedelta(milliseconds=5), fail)
    monkeypatch.setattr(housekeeping, "_CHORES", (chore,))
    keeper = Housekeeper(Current(world.rt))
    keeper.start()
    try:
        for _ in range(3):
            assert tried.acquire(timeout=60)
    finally:
        keeper.stop()


def test_the_queues_are_there_from_the_start(world: World) -> None:
    keeper = Housekeeper(Current(world.rt))
    keeper.start()
    keeper.stop()
    with world.rt.store.read() as conn:
        names = {depth.queue for depth in broker.depths(conn, world.clock())}
    assert {f"job.{t.database}.{t.environment}" for t in world.rt.settings.policy.targets} <= names


def test_two_that_keep_the_same_house_do_no_harm(world: World) -> None:
    made = [world.create() for _ in range(5)]
    world.clock.advance(seconds=301)
    threads = [threading.Thread(target=housekeeping.time_out_dispatches, args=(world.rt,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for request in made:
        assert world.event_types(request).count("request.dispatch_timeout") == 1
    assert world.verify()["valid"]


def test_dead_letters_are_seen_for_a_while_and_then_forgotten(world: World) -> None:
    made = world.create()
    agent = world.agent()
    agent.fetch()
    world.rt.store.write(
        lambda tx: broker.reject(tx, agent.session, agent.tags[made["execution_id"]], requeue=False, now=world.clock())
    )
    housekeeping.sweep_leases(world.rt)
    assert world.status(made) == "failed"
    queues = agents.list_agents(world.rt, world.who("olga"))["queues"]
    assert next(q for q in queues if q["environment"] == "auto")["dead"] == 1
    world.clock.advance(days=30)
    housekeeping.sweep_leases(world.rt)
    with world.rt.store.read() as conn:
        assert conn.execute(broker_messages.select()).all() == []


def test_an_agent_is_forgotten_after_a_week(world: World) -> None:
    world.agent()
    world.clock.advance(days=6)
    housekeeping.purge(world.rt)
    assert len(agents.list_agents(world.rt, world.who("olga"))["agents"]) == 1
    world.clock.advance(days=2)
    housekeeping.purge(world.rt)
    assert agents.list_agents(world.rt, world.who("olga"))["agents"] == []


def test_ready_says_what_is_not(world: World) -> None:
    assert health.ready(world.rt) == (True, {"status": "ok", "checks": {world.rt.store.dialect: "ok", "results": "ok"}})
    shutil.rmtree(world.rt.settings.results.root_dir)
    fine, said = health.ready(world.rt)
    assert (fine, said["status"], said["checks"]["results"]) == (False, "degraded", "unavailable")
    world.rt.store.close()
    assert health.ready(world.rt)[1]["checks"][world.rt.store.dialect] == "unavailable"


def test_a_runtime_without_its_keys_opens_nothing(world: World, clock: Clock) -> None:
    (world.rt.settings.state_dir / "signing.key").unlink()
    with pytest.raises(Misconfigured):
        open_runtime(world.rt.settings, now=clock)
