"""The health checks of containers: exit statuses, and nothing of the application imported."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dbward.cli.env import Env
from dbward.cli.main import main
from tests.support.processes import POLICY, Farm


def check(*argv: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    status = main(argv, Env(io.StringIO(), out, err, {}, Path(), None))
    return status, out.getvalue(), err.getvalue()


def test_a_server_that_answers_and_one_that_does_not(farm: Farm, free_port: int) -> None:
    server = farm.server(config=POLICY)
    assert check("server", "healthcheck", f"{server.url}/health") == (0, "", "")
    assert check("server", "healthcheck", f"{server.url}/ready") == (0, "", "")
    status, _, err = check("server", "healthcheck", f"{server.url}/api/me")
    assert (status, err) == (1, "unhealthy: HTTP 401\n")
    status, _, err = check("server", "healthcheck", f"http://127.0.0.1:{free_port}/health")
    assert status == 1
    assert "refused" in err


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://", "nonsense", "http://127.0.0.1:x/", "http://[::1/"])
def test_what_is_no_url_is_unhealthy(url: str) -> None:
    assert check("server", "healthcheck", url)[0] == 1


def test_an_agents_file(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    assert check("agent", "healthcheck", str(alive))[0] == 1
    alive.touch()
    assert check("agent", "healthcheck", str(alive)) == (0, "", "")
    os.utime(alive, (1, 1))
    assert "was last renewed" in check("agent", "healthcheck", str(alive))[2]


def test_the_same_with_options_before_it(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    assert check("--format", "json", "agent", "healthcheck", str(alive))[0] == 1
    alive.touch()
    healthy = '{"ok": true, "data": {"healthy": true}}\n'
    assert check("--format", "json", "agent", "healthcheck", str(alive)) == (0, healthy, "")


@pytest.mark.parametrize("part", ["server", "agent"])
def test_a_wrong_call_says_how(part: str) -> None:
    assert check(part, "healthcheck")[0] == 2
    assert check(part, "healthcheck", "--verbose")[0] == 2
    status, out, _ = check(part, "healthcheck", "--help")
    assert (status, out.startswith(f"Usage: dbward {part} healthcheck")) == (0, True)


def test_nothing_heavy_is_imported() -> None:
    program = (
        "import sys; from dbward.cli.env import process_env; from dbward.cli.main import main; "
        "main(['server', 'healthcheck', 'http://127.0.0.1:1/'], process_env()); "
        "print(sorted({'click', 'flask', 'celery', 'sqlalchemy', 'pydantic', 'rich', 'httpx2'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
