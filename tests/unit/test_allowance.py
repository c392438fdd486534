"""How often in a minute, and how much at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from dbward.allowance import Allowances, NoneLeft, Places, Taken, TooManyHeld, Unshared

START = datetime(2026, 3, 1, 12, 0, 42, tzinfo=UTC)
MINUTE = int(START.timestamp()) // 60


def test_as_often_as_allowed_then_not_until_the_minute_is_over() -> None:
    allowances = Allowances()
    assert [allowances.take("a", 2, START) for _ in range(3)] == [
        Taken(ok=True, most=2, left=1, reset_secs=18),
        Taken(ok=True, most=2, left=0, reset_secs=18),
        Taken(ok=False, most=2, left=0, reset_secs=18),
    ]
    assert allowances.take("b", 2, START).ok
    assert not allowances.take("a", 2, START + timedelta(seconds=17.9)).ok
    assert allowances.take("a", 2, START + timedelta(seconds=18)) == Taken(ok=True, most=2, left=1, reset_secs=60)


def test_threads_together_get_exactly_what_is_allowed() -> None:
    allowances = Allowances()
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: allowances.take("a", 500, START).ok, range(2000)))
    assert sum(taken) == 500


def test_what_others_counted_counts_too() -> None:
    allowances = Allowances()
    allowances.take("a", 10, START)
    allowances.learn(allowances.unshared(), {"a": 8})
    assert [allowances.take("a", 10, START).ok for _ in range(2)] == [True, False]


def test_only_what_is_new_is_shared_until_it_is_known_to_have_been() -> None:
    allowances = Allowances()
    assert not allowances.changed.is_set()
    allowances.take("a", 10, START)
    allowances.take("b", 10, START)
    assert allowances.changed.is_set()
    sent = allowances.unshared()
    assert sent == Unshared(MINUTE, {"a": 1, "b": 1})
    assert not allowances.changed.is_set()
    allowances.take("a", 10, START)
    assert allowances.changed.is_set()
    allowances.learn(sent, {})
    assert allowances.unshared() == Unshared(MINUTE, {"a": 2})
    assert allowances.unshared() == Unshared(MINUTE, {"a": 2}), "it was not said that it had been shared"


def test_the_highest_counts_are_shared_first() -> None:
    allowances = Allowances()
    for name, times in (("a", 1), ("b", 3), ("c", 2)):
        for _ in range(times):
            allowances.take(name, 10, START)
    first = allowances.unshared(most=2)
    assert first.counts == {"b": 3, "c": 2}
    allowances.learn(first, {})
    assert allowances.changed.is_set(), "there is more"
    assert allowances.unshared(most=2).counts == {"a": 1}


def test_what_was_refused_is_not_shared() -> None:
    allowances = Allowances()
    for _ in range(5):
        allowances.take("a", 2, START)
    assert allowances.unshared().counts == {"a": 2}


def test_what_others_say_of_a_minute_that_is_over_does_not_count() -> None:
    allowances = Allowances()
    allowances.take("a", 2, START)
    sent = allowances.unshared()
    assert allowances.take("a", 2, START + timedelta(minutes=1)).left == 1
    allowances.learn(sent, {"a": 2})
    assert allowances.take("a", 2, START + timedelta(minutes=1)).left == 0
    assert allowances.unshared() == Unshared(MINUTE + 1, {"a": 2})


def test_one_holds_no_more_places_than_it_may_and_others_get_theirs() -> None:
    places = Places(4)
    with places.hold("a", 2, 100), places.hold("a", 2, 50):
        with pytest.raises(TooManyHeld) as refused, places.hold("a", 2, 1):
            pass
        assert 0 < refused.value.free_after <= 50, "the first of its own to end at the latest"
        with places.hold("b", 3, 10), places.hold("b", 3, 10):
            assert places.taken == 4
            with pytest.raises(NoneLeft), places.hold("b", 3, 10):
                pass
        assert places.taken == 2
    assert places.taken == 0
    with places.hold("a", 1, 10):
        assert places.taken == 1


def test_a_place_is_given_back_when_the_call_fails() -> None:
    places = Places(1)
    with pytest.raises(ZeroDivisionError), places.hold("a", 1, 10):
        raise ZeroDivisionError
    assert places.taken == 0
