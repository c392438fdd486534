"""The images are built and run by a real container engine: a server, an agent and the command line together.

They share one network that holds nothing else, so the addresses and health checks of the image are what is tested.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbward import VERSION
from tests.support import engine
from tests.support.processes import POLICY, Farm

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

AGENT = """
[server]
url = "http://server:3000"
agent_token = "${DBWARD_AGENT_TOKEN}"

[databases.app.development]
url = "sqlite:////targets/app.db"
"""
DRAIN_SECS = 60


@pytest.fixture(autouse=True)
def images() -> None:
    """Built, or else the test fails as root and is skipped, with the reason, for others."""
    try:
        engine.build_all()
    except engine.Unusable as e:
        if os.geteuid() == 0:
            raise
        pytest.skip(f"the images are NOT tested: {e}")


@pytest.fixture
def server(farm: Farm) -> Iterator[engine.Container]:
    config = _readable(farm.dir / "server")
    (config / "dbward-server.toml").write_text(f'state_dir = "/data"\n{POLICY}')
    with engine.running(farm, "server", "--network", "none", "--volume", f"{config}:/etc/dbward:ro") as server:
        farm.until(server.healthy, "the server is healthy", server.process)
        ready = ("dbward", "server", "healthcheck", "http://127.0.0.1:3000/ready")
        farm.until(lambda: server.exec(*ready).returncode == 0, "the server is ready", server.process)
        yield server


def test_a_statement_goes_through_all_three(farm: Farm, server: engine.Container) -> None:
    tokens = {name: server.exec("cat", f"/data/{name}-token").stdout for name in ("admin", "agent")}
    assert tokens["admin"].startswith("dbw_")
    config = _readable(farm.dir / "agent")
    (config / "dbward-agent.toml").write_text(AGENT)
    targets = _readable(farm.dir / "targets", mode=0o777)
    (targets / "app.db").touch()
    (targets / "app.db").chmod(0o666)
    (farm.dir / "hosts").write_text("127.0.0.1 server localhost\n")
    together = ("--network", f"container:{server.name}", "--volume", f"{farm.dir / 'hosts'}:/etc/hosts:ro")
    mounts = ("--volume", f"{config}:/etc/dbward:ro", "--volume", f"{targets}:/targets")
    with engine.running(farm, "agent", *together, *mounts, "--env", f"DBWARD_AGENT_TOKEN={tokens['agent']}") as agent:
        farm.until(agent.healthy, "the agent is healthy", agent.process)
        client = ("--env", f"DBWARD_TOKEN={tokens['admin']}", "--env", "DBWARD_SERVER_URL=http://server:3000")
        words = ["execute", "--database", "app", "-e", "development", "--format", "json", "SELECT 6 * 7 AS answer"]
        with engine.running(farm, "cli", *together, *client, arguments=words) as cli:
            assert cli.process.wait(60) == 0, cli.process.log()
        assert "42" in cli.process.log()
        assert agent.stop(DRAIN_SECS) == 0
    assert server.stop(DRAIN_SECS) == 0


def test_the_server_runs_confined(server: engine.Container) -> None:
    assert server.exec("id", "-u").stdout == "10001\n"
    assert server.exec("touch", "/opt/dbward/x").returncode != 0
    assert server.exec("touch", "/tmp/x").returncode == 0
    status = dict(line.split(":\t", 1) for line in server.exec("cat", "/proc/1/status").stdout.splitlines())
    assert (status["Name"], status["CapBnd"], status["NoNewPrivs"]) == ("tini", "0" * 16, "1")
    assert server.exec("sh", "-c", "command -v curl wget gcc").stdout == ""


@pytest.mark.parametrize("target", engine.TARGETS)
def test_it_holds_what_its_lock_file_says_and_dbward(target: engine.Target) -> None:
    program = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    said = engine.podman(
        "run",
        "--rm",
        "--network",
        "none",
        "--entrypoint",
        "python",
        engine.image(target),
        "-I",
        "-c",
        program,
    )
    ours = {d.lower().replace("_", "-") for d in said.split()}
    lock = (engine.DOCKERFILE.parent / "requirements" / f"{target}.txt").read_text()
    locked = {line.split()[0].lower() for line in lock.splitlines() if "==" in line.partition(";")[0]}
    assert ours - locked == {f"dbward=={VERSION}"}
    assert {line.partition("==")[0] for line in locked - ours} <= {"httpx2-jsfetch", "tzdata"}, "of other platforms"


@pytest.mark.parametrize("target", engine.TARGETS)
def test_what_is_written_on_it(target: engine.Target) -> None:
    about = json.loads(engine.podman("image", "inspect", engine.image(target)))[0]
    labels = about["Config"]["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == engine.BUILT_VERSION
    assert about["Config"]["User"] == "10001:10001"
    assert about["Config"]["Entrypoint"][:3] == ["tini", "--", "dbward"]
    assert ("/tmp" in about["Config"].get("Volumes", {})) == (target != "cli")


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run([engine.TOOLS / "hadolint", engine.DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def _readable(directory: Path, mode: int = 0o755) -> Path:
    """Made for the container's user, who is somebody else here."""
    directory.mkdir()
    directory.chmod(mode)
    return directory
