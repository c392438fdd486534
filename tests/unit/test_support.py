"""The test suite's own ground: what it starts ends with it."""

from __future__ import annotations

import sys

import psutil

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
