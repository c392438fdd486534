"""The store: what a write promises, alone and among others."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from dbward.db.engine import MAX_BATCH, Tx
from dbward.db.tables import server_meta
from dbward.errors import LostRace, Unavailable
from tests.store.conftest import busy_writer
from tests.store.support import count_up, keys, keys_of, put, value


def fail_after(key: str, error: BaseException):
    def work(tx: Tx) -> None:
        put(key)(tx)
        tx.wake(f"of:{key}")
        tx.after_commit(lambda: pytest.fail("called for work that was undone"))
        raise error

    return work


# --- one at a time -------------------------------------------------------------------------------------------------


def test_what_is_written_can_be_read(store):
    assert store.write(put("a")) == "a"
    assert keys(store) == ["a"]


def test_what_work_raises_reaches_its_caller_and_undoes_it(store, wakes):
    error = LostRace("somebody else was first")
    with pytest.raises(LostRace) as raised:
        store.write(fail_after("a", error))
    assert raised.value is error
    assert keys(store) == []
    assert wakes == []


def test_a_violated_constraint_is_told_as_such(store):
    store.write(put("a"))
    with pytest.raises(IntegrityError):
        store.write(put("a"))


def test_a_wrong_statement_is_not_called_unavailable(store):
    with pytest.raises(DBAPIError):
        store.write(lambda tx: tx.conn.execute(text("SELECT nothing FROM nowhere")))
    with pytest.raises(DBAPIError), store.read() as conn:
        conn.execute(text("SELECT nothing FROM nowhere"))


def test_values_do_not_appear_in_errors(store):
    store.write(put("a"))
    with pytest.raises(IntegrityError) as raised:
        store.write(put("a", "the-secret"))
    assert "the-secret" not in str(raised.value)


@pytest.mark.parametrize("call", ["write", "read"])
def test_using_the_store_inside_a_write_is_a_clear_error(store, call):
    def work(tx: Tx) -> None:
        if call == "write":
            store.write(put("inner"))
        else:
            with store.read():
                pass

    with pytest.raises(RuntimeError, match=rf"{call}\(\) inside write\(\)"):
        store.write(work)
    assert store.write(put("a")) == "a"


def test_work_that_ends_the_transaction_is_refused(store):
    with pytest.raises(RuntimeError, match="ended the transaction"):
        store.write(lambda tx: tx.conn.rollback())
    assert store.write(put("a")) == "a"


def test_work_may_expect_an_error_behind_a_savepoint(store):
    def put_once(tx: Tx) -> str:
        try:
            with tx.conn.begin_nested():
                tx.conn.execute(insert(server_meta).values(key="a", value="2"))
        except IntegrityError:
            return "was there"
        return "new"

    assert [store.write(put_once), store.write(put_once)] == ["new", "was there"]


def test_exit_in_work_does_not_end_the_writer(store):
    with pytest.raises(SystemExit):
        store.write(fail_after("a", SystemExit(3)))
    assert store.write(put("b")) == "b"
    assert keys(store) == ["b"]


def test_readers_cannot_write(store):
    with pytest.raises(DBAPIError), store.read() as conn:
        conn.execute(insert(server_meta).values(key="a", value="v"))
    assert keys(store) == []


def test_a_reader_sees_one_snapshot(store):
    store.write(put("a"))
    with store.read() as conn:
        before = keys_of(conn)
        store.write(put("b"))
        assert keys_of(conn) == before == ["a"]
    assert keys(store) == ["a", "b"]


def test_ping(store):
    store.ping()
    store.close()
    with pytest.raises(Unavailable):
        store.ping()


# --- many together -------------------------------------------------------------------------------------------------


def test_a_failing_item_does_not_harm_the_others(store, together, wakes):
    runs: list[str] = []

    def counted(key: str):
        def work(tx: Tx) -> str:
            runs.append(key)
            tx.wake(f"of:{key}")
            return put(key)(tx)

        return work

    error = LostRace("no")
    outcomes = together(counted("a"), fail_after("x", error), counted("b"), put("a"), counted("c"))
    assert outcomes[0] == "a"
    assert outcomes[1] is error
    assert outcomes[2] == "b"
    assert isinstance(outcomes[3], IntegrityError)
    assert outcomes[4] == "c"
    assert keys(store) == ["a", "b", "c"]
    assert runs == ["a", "a", "b", "c"]  # in order, once more what had run when the first one failed
    assert wakes == [{"of:a", "of:b", "of:c"}]


def test_work_sees_those_before_it_and_nothing_of_one_that_failed(together):
    def look(tx: Tx) -> list[str]:
        return keys_of(tx.conn)

    outcomes = together(put("a"), look, fail_after("x", LostRace("no")), look, put("b"), look)
    assert [outcomes[n] for n in (1, 3, 5)] == [["a"], ["a"], ["a", "b"]]


def test_an_error_that_work_swallowed_is_not_acknowledged(store, together):
    """PostgreSQL turns the commit of a failed transaction into a rollback without a word."""
    store.write(put("a"))

    def swallow(tx: Tx) -> str:
        try:
            put("a")(tx)
        except IntegrityError:
            return "swallowed"
        return "new"

    outcomes = together(put("b"), swallow, put("c"), swallow)
    assert [outcomes[0], outcomes[2]] == ["b", "c"]
    if store.dialect == "postgresql":
        assert all(isinstance(outcomes[n], RuntimeError) for n in (1, 3))
    else:  # a constraint ends the statement there, not the transaction
        assert [outcomes[1], outcomes[3]] == ["swallowed", "swallowed"]
    assert keys(store) == ["a", "b", "c"]


def test_more_than_a_batch(store, together):
    outcomes = together(*(put(f"{n:04}") for n in range(2 * MAX_BATCH + 7)))
    assert keys(store) == outcomes == [f"{n:04}" for n in range(2 * MAX_BATCH + 7)]


def test_slow_work_does_not_hold_up_the_commit_of_the_first(store, together):
    """What is left of a batch when its time is over goes back to the queue, at its front."""
    pause = threading.Event()

    def slow(n: int):
        def work(tx: Tx) -> str:
            pause.wait(0.03)
            return put(f"{n}")(tx)

        return work

    begun: list[int] = []
    begun_at_commit: list[int] = []

    def note(n: int):
        def work(tx: Tx) -> str:
            tx.after_commit(lambda: begun_at_commit.append(len(begun)))
            begun.append(n)
            return slow(n)(tx)

        return work

    assert together(*(note(n) for n in range(8))) == [f"{n}" for n in range(8)]
    assert begun == list(range(8))
    assert len(set(begun_at_commit)) > 1  # several commits, not one at the end


def test_slow_work_of_which_one_fails(store, together):
    pause = threading.Event()

    def slow(n: int):
        def work(tx: Tx) -> str:
            pause.wait(0.02)
            put(f"{n}")(tx)
            if n % 3 == 2:
                raise LostRace(f"{n}")
            return f"{n}"

        return work

    outcomes = together(*(slow(n) for n in range(9)))
    assert [str(outcome) for outcome in outcomes] == [f"{n}" for n in range(9)]
    assert [isinstance(outcome, LostRace) for outcome in outcomes] == [n % 3 == 2 for n in range(9)]
    assert keys(store) == [f"{n}" for n in range(9) if n % 3 != 2]


def test_sixty_four_threads(store):
    store.write(put("n", "0"))
    failed: list[str] = []

    def one(n: int) -> None:
        for k in range(10):
            store.write(count_up("n"))
            try:
                store.write(fail_after(f"{n}-{k}", LostRace("no")))
            except LostRace:
                failed.append(f"{n}-{k}")

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(one, range(64)))
    assert value(store, "n") == "640"
    assert len(failed) == 640
    assert keys(store) == ["n"]


# --- after the commit ----------------------------------------------------------------------------------------------


def test_waking_comes_after_the_commit_and_before_write_returns(open_one):
    seen: list[tuple[frozenset[str], list[str]]] = []
    reader = ThreadPoolExecutor(1)

    def on_wake(channels: frozenset[str]) -> None:
        if "queue:q" in channels:
            seen.append((channels, reader.submit(keys, store).result()))

    store = open_one(on_wake=on_wake)

    def work(tx: Tx) -> None:
        tx.wake("queue:q", "request:r")
        put("a")(tx)
        tx.wake("queue:q")

    store.write(work)
    reader.shutdown()
    assert seen == [({"queue:q", "request:r"}, ["a"])]


def test_callbacks_come_after_the_commit_and_before_write_returns(store, caplog):
    called: list[str] = []

    def broken() -> None:
        raise ValueError("in a callback")

    def work(tx: Tx) -> str:
        tx.after_commit(broken)
        tx.after_commit(lambda: called.append("second"))
        return put("a")(tx)

    with caplog.at_level(logging.ERROR):
        assert store.write(work) == "a"
    assert called == ["second"]
    assert "callback" in caplog.text


def test_a_broken_wake_up_does_not_fail_the_write(open_one, caplog):
    def on_wake(channels: frozenset[str]) -> None:
        raise ValueError("in the hub")

    store = open_one(on_wake=on_wake)

    def work(tx: Tx) -> str:
        tx.wake("queue:q")
        return put("a")(tx)

    assert store.write(work) == "a"
    assert store.write(put("b")) == "b"


# --- the end -------------------------------------------------------------------------------------------------------


def test_close_finishes_what_is_queued_and_refuses_the_rest(store, settings, open_one):
    with ThreadPoolExecutor(20) as pool:
        with busy_writer(store):
            written = [pool.submit(store.write, put(f"{n:02}")) for n in range(19)]
            while len(store._queue) < 19:
                threading.Event().wait(0.001)
            closing = pool.submit(store.close)
            while not store._closing:
                threading.Event().wait(0.001)
            with pytest.raises(Unavailable):
                store.write(put("late"))
        closing.result()
        assert sorted(one.result() for one in written) == [f"{n:02}" for n in range(19)]
    store.close()
    with pytest.raises(Unavailable):
        store.write(put("later"))
    assert keys(open_one()) == [f"{n:02}" for n in range(19)]


def test_too_many_waiting_are_refused_at_once(open_one):
    store = open_one(max_queue=3)
    with ThreadPoolExecutor(4) as pool:
        with busy_writer(store):
            written = [pool.submit(store.write, put(f"{n}")) for n in range(3)]
            while len(store._queue) < 3:
                threading.Event().wait(0.001)
            with pytest.raises(Unavailable, match="too many"):
                store.write(put("late"))
        assert sorted(one.result() for one in written) == ["0", "1", "2"]
    assert keys(store) == ["0", "1", "2"]
