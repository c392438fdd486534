"""What every source must do: the same tests for the database on both dialects, and for HTTP."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from dbward.broker import store
from dbward.broker.source import Poll
from dbward.broker.wire import Bind, Declare, Depths, Fetch, Group, OneQueue, Publish, Reject, Release, Settle, Unbind
from dbward.db.engine import Tx
from dbward.errors import Missing
from tests.broker.conftest import CAP, MAILBOX, OTHER, QUEUE, TARGETS, World, executions, tags


def settle(*tags: str, session: str = "one") -> Settle:
    return Settle(session=session, tags=list(tags))


# --- delivery ---------------------------------------------------------------------------------------------------------


def test_a_message_is_delivered_once_in_order_and_gone_when_acknowledged(world: World) -> None:
    world.put("a", "b", "c")
    fetched = world.fetch()
    assert executions(fetched) == ["a", "b", "c"]
    assert [d.deliveries for d in fetched.messages] == [1, 1, 1]
    assert world.fetch(session="two").messages == []
    assert world.source.ack(settle(*tags(fetched))) == []
    assert world.source.ack(settle(*tags(fetched))) == tags(fetched), "said twice: the second changes nothing"
    depth = world.depth()
    assert (depth.ready, depth.leased, depth.dead) == (0, 0, 0)


def test_only_the_queues_asked_for(world: World) -> None:
    world.put("a", queue=OTHER)
    assert world.fetch(QUEUE).messages == []
    assert executions(world.fetch(QUEUE, OTHER)) == ["a"]


def test_a_waiting_poll_is_woken_by_a_commit(world: World) -> None:
    poll = world.poll()
    assert poll.result(0.2) is None
    world.put("a")
    found = poll.result(20)
    assert found is not None
    assert executions(found) == ["a"]


def test_a_poll_that_finds_nothing_ends_in_time(world: World) -> None:
    ended = world.poll(wait=0.1).result(20)
    assert ended is None or ended.messages == []


def test_nothing_is_delivered_of_a_transaction_that_failed(world: World) -> None:
    class Changed(Exception):
        pass

    def publish_then_fail(tx: Tx) -> None:
        world.rt.publisher.execution(tx, target=TARGETS[QUEUE], request_id="r", execution_id="e")
        raise Changed

    with pytest.raises(Changed):
        world.rt.store.write(publish_then_fail)
    assert world.fetch().messages == []


# --- credit -----------------------------------------------------------------------------------------------------------


def test_the_server_counts_the_credit(world: World) -> None:
    world.put("a", "b", "c", "d")
    first = world.fetch(prefetch=2)
    assert executions(first) == ["a", "b"]
    assert world.fetch(prefetch=2, have=tags(first)).messages == []
    assert executions(world.fetch(prefetch=2, session="two")) == ["c", "d"]


def test_an_acknowledgement_wakes_the_poll_that_has_credit_again(world: World) -> None:
    world.put("a", "b")
    first = world.fetch(prefetch=1)
    poll = world.poll(prefetch=1, have=tags(first))
    assert poll.result(0.2) is None
    world.source.ack(settle(*tags(first)))
    second = poll.result(20)
    assert second is not None
    assert executions(second) == ["b"]


def test_what_the_server_withdraws_gives_credit_too(world: World) -> None:
    world.put("a", "b")
    first = world.fetch(prefetch=1)
    poll = world.poll(prefetch=1, have=tags(first))
    assert poll.result(0.2) is None
    assert world.rt.store.write(lambda tx: store.withdraw(tx, "a")) == 1
    second = poll.result(20)
    assert second is not None
    assert executions(second) == ["b"]


# --- leases -----------------------------------------------------------------------------------------------------------


def test_a_lease_that_ran_out_goes_to_somebody_else_and_the_old_tag_is_worth_nothing(world: World) -> None:
    world.put("a")
    first = world.fetch()
    world.clock.advance(61)
    world.sweep()
    second = world.fetch(session="two")
    assert executions(second) == ["a"]
    assert second.messages[0].deliveries == 2
    assert tags(second) != tags(first)
    assert world.source.ack(settle(*tags(first))) == tags(first)
    assert world.source.extend(settle(*tags(first))) == tags(first)
    assert world.depth().leased == 1
    assert world.source.ack(settle(*tags(second), session="two")) == []


def test_time_alone_does_not_end_a_lease_before_the_sweeper_has_looked(world: World) -> None:
    """A server that stood still must not hand out what others run."""
    world.put("a")
    world.fetch()
    world.clock.advance(3600)
    assert world.fetch(session="two").messages == []


def test_until_somebody_takes_it_the_last_holder_may_go_on(world: World) -> None:
    world.put("a", "b")
    first = world.fetch()
    world.clock.advance(61)
    world.sweep()
    assert world.source.ack(settle(tags(first)[0])) == []
    assert world.fetch(have=tags(first)[1:]).stale == []
    assert world.fetch(session="two").messages == []


def test_a_poll_renews_what_it_lists(world: World) -> None:
    world.put("a")
    held = tags(world.fetch())
    for _ in range(3):
        world.clock.advance(40)
        world.sweep()
        assert world.fetch(have=held).stale == []
    assert world.fetch(session="two").messages == []


def test_extend_renews(world: World) -> None:
    world.put("a")
    held = tags(world.fetch())
    for _ in range(3):
        world.clock.advance(40)
        world.sweep()
        assert world.source.extend(settle(*held)) == []
    assert world.fetch(session="two").messages == []


def test_an_answer_that_was_lost_is_delivered_again_and_does_not_count(world: World) -> None:
    world.put("a")
    for _ in range(CAP + 2):
        again = world.fetch(have=[])
        assert executions(again) == ["a"]
        assert again.messages[0].deliveries == 1


def test_what_is_listed_but_gone_comes_back_as_stale(world: World) -> None:
    world.put("a", "b")
    held = tags(world.fetch())
    world.source.ack(settle(held[0]))
    assert world.fetch(have=held).stale == [held[0]]


def test_release_frees_everything_and_ends_the_session(world: World) -> None:
    world.put("a", "b")
    held = tags(world.fetch(prefetch=2))
    late = world.poll(prefetch=4, have=held)
    assert late.result(0.2) is None
    world.source.release(Release(session="one"))
    ended = late.result(20)
    assert ended is not None
    assert ended.messages == []
    taken = world.fetch(session="two")
    assert [(d.message["headers"]["id"], d.deliveries) for d in taken.messages] == [("a", 1), ("b", 1)]


def test_the_newest_poll_of_a_session_wins(world: World) -> None:
    old = world.poll()
    assert old.result(0.2) is None
    new = world.poll()
    assert new.result(0.2) is None
    ended = old.result(20)
    assert ended is not None
    assert ended.messages == []
    world.put("a")
    found = new.result(20)
    assert found is not None
    assert executions(found) == ["a"]


def test_racing_sessions_get_each_message_once(world: World) -> None:
    names = [f"e{n}" for n in range(40)]
    polls = [world.poll(session=f"s{n}", prefetch=3) for n in range(8)]
    got: list[str] = []

    def take(poll: Poll) -> None:
        found = poll.result(20)
        assert found is not None
        got.extend(executions(found))

    threads = [threading.Thread(target=take, args=(poll,)) for poll in polls]
    for thread in threads:
        thread.start()
    world.put(*names)
    for thread in threads:
        thread.join()
    got += executions(world.fetch(session="rest"))
    assert sorted(got) == sorted(names)


# --- giving up --------------------------------------------------------------------------------------------------------


def test_reject_with_requeue_delivers_again(world: World) -> None:
    world.put("a")
    tag = tags(world.fetch())[0]
    assert world.source.reject(Reject(session="one", tag=tag, requeue=True)) == []
    again = world.fetch(session="two")
    assert again.messages[0].deliveries == 2
    assert world.source.reject(Reject(session="one", tag=tag, requeue=True)) == [tag]


def test_reject_without_requeue_is_a_dead_letter(world: World) -> None:
    world.put("a")
    tag = tags(world.fetch())[0]
    world.source.reject(Reject(session="one", tag=tag, requeue=False))
    assert world.fetch(session="two").messages == []
    assert world.depth().dead == 1
    assert world.sweep() == ["a"]


def test_a_delayed_message_is_delivered_when_its_time_has_come(world: World) -> None:
    world.put("a")
    tag = tags(world.fetch())[0]
    world.source.reject(Reject(session="one", tag=tag, requeue=True, delay_ms=30_000))
    assert world.fetch().messages == []
    world.clock.advance(31)
    assert executions(world.fetch()) == ["a"]


def test_too_many_deliveries_end_in_a_dead_letter(world: World) -> None:
    world.put("a")
    for n in range(CAP):
        assert world.fetch(session=f"s{n}").messages[0].deliveries == n + 1
        world.clock.advance(61)
        dead = world.sweep()
        assert dead == (["a"] if n + 1 == CAP else [])
    assert world.fetch(session="last").messages == []
    assert world.sweep() == ["a"], "reported until it was dealt with"
    world.rt.store.write(lambda tx: store.bury(tx, "a"))
    assert world.sweep() == []
    assert world.depth().dead == 1
    world.clock.advance(timedelta(days=8).total_seconds())
    world.sweep()
    assert world.depth().dead == 0


# --- remote control ---------------------------------------------------------------------------------------------------


def test_a_broadcast_reaches_every_mailbox_and_is_gone_when_read(world: World) -> None:
    other = "agent@two.celery.pidbox"
    world.mailbox()
    world.mailbox(other, session="two")
    assert world.broadcast() == 2
    for queue, session in ((MAILBOX, "one"), (other, "two")):
        [delivery] = world.fetch(queue, session=session, no_ack=True).messages
        assert (delivery.tag, delivery.message) == (None, {"body": "mid-1"})
        assert world.fetch(queue, session=session, no_ack=True).messages == []


def test_a_mailbox_is_heard_while_the_credit_is_used_up(world: World) -> None:
    world.mailbox()
    world.put("a", "b")
    held = tags(world.fetch(prefetch=1))
    world.broadcast()
    groups = [Group(queues=[QUEUE], prefetch=1), Group(queues=[MAILBOX], no_ack=True)]
    found = world.source.poll(Fetch(session="one", seq=10**6, groups=groups, have=held)).result(20)
    assert found is not None
    assert [d.queue for d in found.messages] == [MAILBOX]


def test_publishing_again_with_the_same_id_changes_nothing(world: World) -> None:
    world.mailbox()
    world.broadcast("same")
    world.broadcast("same")
    assert len(world.fetch(MAILBOX, no_ack=True).messages) == 1


def test_an_unbound_mailbox_hears_nothing(world: World) -> None:
    world.mailbox()
    world.source.unbind(Unbind(queue=MAILBOX, exchange="celery.pidbox", routing_key=""))
    assert world.broadcast() == 0


def test_a_mailbox_nobody_reads_expires_and_its_poll_hears_so(world: World) -> None:
    world.mailbox()
    world.fetch(MAILBOX, no_ack=True)
    world.clock.advance(9)
    world.sweep()
    assert world.broadcast() == 1
    poll = world.poll(MAILBOX, no_ack=True, wait=5)
    assert poll.result(5) is not None
    world.clock.advance(16)
    world.sweep()
    with pytest.raises(Missing) as error:
        world.fetch(MAILBOX, no_ack=True)
    assert error.value.code == "broker.unknown_queue"
    assert error.value.detail == {"queue": MAILBOX}
    world.mailbox()
    assert world.fetch(MAILBOX, no_ack=True).messages == []


def test_a_waiting_poll_ends_when_its_queue_is_deleted(world: World) -> None:
    world.mailbox()
    poll = world.poll(MAILBOX, no_ack=True)
    assert poll.result(0.2) is None
    world.server().delete(OneQueue(queue=MAILBOX))
    with pytest.raises(Missing):
        poll.result(20)


def test_old_messages_of_a_queue_with_a_ttl_are_not_delivered(world: World) -> None:
    world.mailbox()
    world.broadcast()
    world.source.declare(Declare(session="one", queue=MAILBOX, expires_ms=300_000, message_ttl_ms=300_000))
    world.clock.advance(301)
    assert world.fetch(MAILBOX, no_ack=True).messages == []


def test_a_mailbox_in_use_by_another_live_process_says_so(world: World) -> None:
    world.mailbox()
    world.fetch(MAILBOX, no_ack=True)
    again = world.source.declare(Declare(session="two", queue=MAILBOX, exclusive=True, expires_ms=10_000))
    assert again.consumers == 1
    assert world.source.declare(Declare(session="two", queue=MAILBOX, exclusive=True)).consumers == 0


def test_a_queue_nobody_reads_does_not_grow_without_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_WAITING", 5)
    world.mailbox()
    for n in range(8):
        world.broadcast(f"mid-{n}")
    assert len(world.fetch(MAILBOX, no_ack=True).messages) == 5


@pytest.mark.parametrize(
    ("kind", "bound", "sent", "reaches"),
    [
        ("direct", "a.b", "a.b", True),
        ("direct", "a.b", "a.c", False),
        ("fanout", "", "anything", True),
        ("topic", "#", "worker.heartbeat", True),
        ("topic", "worker.#", "worker.heartbeat", True),
        ("topic", "worker.#", "worker", True),
        ("topic", "worker.*", "worker", False),
        ("topic", "worker.*", "worker.a.b", False),
        ("topic", "*.heartbeat", "worker.heartbeat", True),
        ("topic", "task.#", "worker.heartbeat", False),
        ("topic", "#.#.beat.#", "worker.heart.beat", True),
        ("topic", "#.*.#.*", "worker", False),
        pytest.param("topic", "#." * 100 + "x", "a." * 100 + "a", False, id="all that a key can hold"),
    ],
)
def test_routing(world: World, kind: str, bound: str, sent: str, reaches: bool) -> None:
    server = world.server()
    server.declare(Declare(session="x", queue="events"))
    server.bind(Bind.model_validate({"queue": "events", "exchange": "x", "type": kind, "routing_key": bound}))
    assert server.publish(Publish(exchange="x", routing_key=sent, mid="m", message={})) == int(reaches)


# --- outages ----------------------------------------------------------------------------------------------------------


def test_time_in_which_nobody_could_renew_does_not_count(world: World) -> None:
    world.put("a")
    world.mailbox()
    world.fetch()
    world.clock.advance(100)
    world.rt.store.write(lambda tx: store.shift_leases(tx, timedelta(seconds=100)))
    world.sweep()
    assert world.fetch(session="two").messages == []
    assert world.source.depths(Depths(queues=[MAILBOX]))


def test_after_a_start_nothing_runs_out_before_the_grace_is_over(world: World) -> None:
    world.put("a")
    held = tags(world.fetch())
    world.clock.advance(3600)
    world.rt.store.write(lambda tx: store.grace(tx, world.clock() + timedelta(seconds=30)))
    world.sweep()
    assert world.fetch(session="two").messages == []
    world.clock.advance(31)
    world.sweep()
    assert executions(world.fetch(session="two")) == ["a"]
    assert world.source.ack(settle(*held)) == held


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_holding_a_job_needs_the_session_and_the_very_tag(world: World) -> None:
    world.put("a", "b")
    first, second = tags(world.fetch())

    def holds(job: str, session: str, tag: str) -> bool:
        with world.rt.store.read() as conn:
            return store.holds(conn, job, session=session, tag=tag)

    assert holds("a", "one", first)
    assert not holds("a", "two", first)
    assert not holds("a", "one", second)
    world.clock.advance(61)
    world.sweep()
    assert holds("a", "one", first), "it ran out, but nobody else has it"
    world.fetch(session="two")
    assert not holds("a", "one", first)


def test_a_job_given_back_is_delivered_after_its_delay_and_does_not_count(world: World) -> None:
    world.put("a")
    for _ in range(CAP + 1):
        assert world.fetch().messages[0].deliveries == 1
        world.rt.store.write(lambda tx: store.release_job(tx, "a", now=world.clock(), delay=timedelta(seconds=5)))
        assert world.fetch().messages == []
        world.clock.advance(6)
        world.sweep()


def test_depths_count_every_state_and_know_the_oldest(world: World) -> None:
    world.put("a", "b", "c")
    tag = tags(world.fetch(prefetch=1))[0]
    world.source.reject(Reject(session="one", tag=tag, requeue=False))
    world.fetch(prefetch=1)
    world.fetch(OTHER, session="two")
    world.clock.advance(7)
    depth = world.depth()
    assert (depth.ready, depth.leased, depth.dead, depth.oldest_secs) == (1, 1, 1, 7)
    with world.rt.store.read() as conn:
        empty = next(d for d in store.depths(conn, world.clock()) if d.queue == OTHER)
    assert (empty.ready, empty.leased, empty.dead, empty.oldest_secs) == (0, 0, 0, None)
