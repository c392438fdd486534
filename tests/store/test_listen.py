"""Replicas: what one wakes reaches the other, and their writes take turns."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
from sqlalchemy import text

from dbward.db.engine import Store, Tx, open_store
from dbward.db.listen import WAKE_ALL, decode, encode
from dbward.db.migrations import migrate
from dbward.errors import LostRace
from tests.store.support import count_up, keys, put, settings_for, value


class Replica:
    """A store and what its waiters were told."""

    def __init__(self, url: str) -> None:
        self.told: queue.Queue[frozenset[str]] = queue.Queue()
        self.store: Store = open_store(settings_for(url), on_wake=self.told.put)
        assert self.next() == WAKE_ALL  # from here on it listens

    def next(self) -> frozenset[str]:
        return self.told.get(timeout=60)


@pytest.fixture
def replicas(postgres_url: str):
    migrate(settings_for(postgres_url))
    pair = [Replica(postgres_url), Replica(postgres_url)]
    yield pair
    for replica in pair:
        replica.store.close()


def wake(*channels: str):
    def work(tx: Tx) -> None:
        tx.wake(*channels)

    return work


def test_a_wake_up_reaches_each_replica_once(replicas):
    here, there = replicas
    here.store.write(wake("queue:a", "request:b"))
    here.store.write(wake("queue:c"))
    assert [here.next(), here.next()] == [{"queue:a", "request:b"}, {"queue:c"}]
    assert there.next() | there.next() == {"queue:a", "request:b", "queue:c"}
    there.store.write(wake("queue:d"))
    assert here.next() == there.next() == {"queue:d"}
    assert here.told.empty()


def test_what_a_wake_up_is_about_can_be_read_there(replicas):
    here, there = replicas

    def work(tx: Tx) -> None:
        put("a")(tx)
        tx.wake("queue:a")

    here.store.write(work)
    assert there.next() == {"queue:a"}
    assert keys(there.store) == ["a"]


def test_nothing_is_woken_by_what_was_undone(replicas):
    here, there = replicas

    def fail(tx: Tx) -> None:
        tx.wake("queue:undone")
        raise LostRace("no")

    with pytest.raises(LostRace):
        here.store.write(fail)
    here.store.write(wake("queue:a"))
    assert there.next() == {"queue:a"}


def test_more_channels_than_one_message_holds(replicas):
    here, there = replicas
    channels = {f"execution:{n:036}" for n in range(1000)}
    here.store.write(wake(*channels))
    seen: set[str] = set()
    while seen != channels:
        seen |= there.next()
    assert here.next() == channels


def test_everybody_is_woken_after_the_connection_was_lost(replicas, postgres_url):
    here, there = replicas
    with psycopg2.connect(postgres_url) as conn, conn.cursor() as cursor:
        cursor.execute(  # of this database: other tests share the server
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE query LIKE 'LISTEN %' AND datname = current_database()"
        )
        assert cursor.rowcount == 2
    conn.close()
    assert here.next() == there.next() == WAKE_ALL
    here.store.write(wake("queue:a"))
    assert there.next() == {"queue:a"}


def test_replicas_take_turns_even_before_the_first_event(replicas):
    """Reading and writing back in two replicas at once loses nothing, whether or not the head of the chain exists."""
    here, there = replicas
    here.store.write(put("n", "0"))

    def both() -> None:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda n: replicas[n % 2].store.write(count_up("n")), range(200)))

    both()
    assert value(there.store, "n") == "200"
    here.store.write(
        lambda tx: tx.conn.execute(
            text("INSERT INTO audit_head (id, seq, signature, first_seq, checkpoint_seq) VALUES (1, 0, '', 1, 0)")
        )
    )
    both()
    assert value(here.store, "n") == "400"


def test_messages_survive_the_round_trip():
    channels = {"queue:job.app.production", "request:ünï", "x" * 500}
    (payload,) = encode(channels, sender="me")
    assert decode(payload, own_id="other") == channels
    assert decode(payload, own_id="me") == frozenset()


def test_no_message_is_longer_than_postgresql_allows():
    channels = {f"queue:{n}" + "ü" * 200 for n in range(500)}
    payloads = encode(channels, sender="m" * 32)
    assert frozenset().union(*(decode(payload, own_id="") for payload in payloads)) == channels
    assert max(len(payload.encode()) for payload in payloads) < 8000


def test_a_name_that_fits_nowhere_wakes_everybody():
    (payload,) = encode({"short", "x" * 10_000}, sender="me")
    assert decode(payload, own_id="other") == WAKE_ALL


@pytest.mark.parametrize("payload", ["", "nonsense", "[]", "{}", '{"from": "x"}', '{"from": "x", "channels": 3}'])
def test_a_message_that_cannot_be_read_wakes_everybody(payload: str):
    assert decode(payload, own_id="me") == WAKE_ALL
