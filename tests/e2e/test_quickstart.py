"""docs/quickstart.md does what it says: its files are written and its commands are run as they stand there."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.support.processes import Farm
from tests.support.services import free_port

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"
FILES = re.compile(r"`([a-z]+\.toml)`:\n\n```toml\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```sh\n(.*?)```", re.DOTALL)

DBWARD = f"""#!/bin/sh
exec {sys.executable} -c 'from dbward.cli.main import run; run()' "$@"
"""
NEWEST = "$(dbward request list | awk 'NR == 3 { print $1 }')"
START = "dbward server start --config server.toml"

SHOWN = (
    "(5 rows, ",
    "waits for approval by role:approver",
    "pending",
    "Approved ",
    "1 row affected",
    "(1 pending)",
    "apply what is pending: dbward migrate up -e production",
    "| ALTER TABLE plans ADD COLUMN name TEXT;",
    "(1 applied)",
    "request.approved",
    "The chain is whole",
)


def test_it_works_as_written(farm: Farm) -> None:
    text = PAGE.read_text()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    for name, content in FILES.findall(text):
        (farm.dir / name).write_text(content.replace("http://127.0.0.1:3000", url))
    program = farm.dir / "bin" / "dbward"
    program.parent.mkdir()
    program.write_text(DBWARD)
    program.chmod(0o755)

    install, *rest = COMMANDS.findall(text)
    assert "pip install '.[server,agent]'" in install
    lines = ["set -e"]
    for line in "".join(rest).splitlines():
        now = line.replace("<id>", NEWEST).replace("http://127.0.0.1:3000", url)
        if line.startswith(START):
            lines.append(now.replace(START, f"{START} --listen 127.0.0.1:{port}"))
        elif re.match("dbward (execute|migrate up) -e production", line):
            lines.append(f"{now} || [ $? = 2 ]")  # it waits, as the page says
        else:
            lines.append(now)
    script = farm.dir / "script"
    script.write_text("\n".join([*lines, "wait", ""]))

    run = farm.spawn("quickstart", ["bash", str(script)], env={"PATH": f"{program.parent}:{os.environ['PATH']}"})
    assert run.wait(120) == 0, run.log()
    for shown in SHOWN:
        assert shown in run.log()
