"""The test suite's own ground: what it starts ends with it."""

from __future__ import annotations

import sys

import psutil

from tests.support import order
from tests.support.processes import Farm

LEAVES_HOME = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("child", child.pid, flush=True)
child.wait()
"""


def test_a_child_that_left_its_parents_group_ends_with_the_farm(farm: Farm) -> None:
    parent = farm.spawn("parent", [sys.executable, "-c", LEAVES_HOME])
    farm.until(lambda: "child" in parent.log(), "it has a child", parent)
    child = psutil.Process(int(parent.log().split()[1]))
    parent.kill()
    assert child.is_running()
    farm.close()
    farm.until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child is gone")


def spread(items: list[str], runs: int) -> list[str]:
    return order.spread(items, runs, file=lambda item: item[0], long=lambda item: not item.startswith("short"))


def test_long_tests_are_spread_a_file_at_a_time() -> None:
    short = [f"short-{n}" for n in range(14)]
    found = spread([*short[:10], "a-1", "a-2", "b-1", "c-1", *short[10:]], 2)
    first, second = found[:9], found[9:]
    assert first == ["a-1", "a-2", *short[:7]]
    assert second == ["b-1", *short[7:9], "c-1", *short[9:]]


def test_more_long_tests_than_a_run_has_room_for_lose_nothing() -> None:
    items = [*(f"a-{n}" for n in range(9)), "short"]
    assert spread(items, 3) == items
    assert spread(["short"] * 3, 2) == ["short"] * 3
    assert spread([], 4) == []
