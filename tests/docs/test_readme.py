"""The quickstart in README.md does what it says: `dbward dev`, and what is typed in a second terminal."""

from __future__ import annotations

import os
import re
import signal

import pytest

from tests.support.pages import blocks
from tests.support.processes import DBWARD, Farm

pytestmark = pytest.mark.e2e


def test_the_quickstart_works_as_written(farm: Farm) -> None:
    start, use = (block.text for block in blocks("README.md") if "dbward" in block.text and "make" not in block.text)
    venv, install, dev = start.splitlines()
    assert (venv.split()[:3], install) == (["python3", "-m", "venv"], "pip install '.[server,agent]'")
    running = farm.spawn("dev", [*DBWARD, *dev.split()[1:], "--port", "0"])
    farm.until(lambda: "Ctrl-C" in running.log(), "it says what to type", running)
    told = re.findall(r"^ *(export .+)$", running.log(), re.MULTILINE)
    assert told, running.log()

    program = farm.dir / "bin" / "dbward"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {DBWARD[0]} {DBWARD[1]} "{DBWARD[2]}" "$@"\n')
    program.chmod(0o755)
    script = "\n".join(["set -e", *told, use])
    second = farm.spawn(
        "second terminal", ["bash", "-c", script], env={"PATH": f"{program.parent}:{os.environ['PATH']}"}
    )
    assert second.wait(120) == 0, second.log()
    for shown in ("(1 row, ", "executed", "The chain is whole"):
        assert shown in second.log()
    running.signal(signal.SIGINT)
    assert running.wait(60) == 0, running.log()
