"""docs/deployment/server.md and agent.md on two hosts: Debian with systemd as its first process, in a container each.

What the pages show is run there as it is written, but for what fills the virtual environment: that comes from the
images, which are made by the same commands. The units, their users, credentials and sandboxes are systemd's own.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support import engine
from tests.support.processes import Farm

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

PAGES = engine.ROOT / "docs" / "deployment"
HOST = "localhost/systemd-host:test"
DOCKERFILE = f"""
FROM {engine.PYTHON_IMAGE}
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends systemd dbus \\
    && rm -rf /var/lib/apt/lists/* && ln -s /image/opt/dbward /opt/dbward
"""
KERNEL = "systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
"""Also where the machine has cgroups of the first version; without meaning where it has the second only."""

INIT = "mount --make-rshared / && exec /lib/systemd/systemd --log-target=console"
"""As a kernel's first process finds it: systemd hands credentials over through a mount that has to spread."""


@pytest.fixture(autouse=True)
def host_image(farm: Farm) -> None:
    try:
        engine.build_all()
    except engine.Unusable as e:
        if os.geteuid() == 0:
            raise
        pytest.skip(f"the units are NOT started: {e}")
    if os.geteuid() != 0:
        pytest.skip("the units are NOT started: systemd in a container needs root here")
    (farm.dir / "host").mkdir()
    (farm.dir / "host" / "Dockerfile").write_text(DOCKERFILE)
    engine.build(HOST, farm.dir / "host" / "Dockerfile", farm.dir / "host")


def test_the_pages_work_as_written(farm: Farm) -> None:
    with booted(farm, "server", "--network", "none") as server:
        install, start = blocks("server")
        run(server, without_libraries(install, "server"))
        configure(server, "server", example("server"))
        shown = run(server, patient(start))
        admin, agent_token = re.findall(r"dbw_[0-9a-f]{32}", shown)
        status = confinement(server, "server")
        assert {status["CapBnd"], status["NoNewPrivs"], status["Seccomp"]} == {"0" * 16, "1", "2"}
        assert "nothing has changed" in run(server, "systemctl reload dbward-server; journalctl -u dbward-server -n 5")

        with booted(farm, "agent", "--network", f"container:{server.name}") as agent:
            install, secrets, start = blocks("agent")
            run(agent, without_libraries(install, "agent"))
            configure(agent, "agent", example("agent").replace("https://dbward.example.com", "http://127.0.0.1:3000"))
            secrets = secrets.replace("dbw_…", agent_token)
            run(agent, re.sub(r"postgresql://\S*app", "sqlite:////srv/app.db", secrets))
            run(agent, "install -o dbward-agent -m 600 /dev/null /srv/app.db")
            run(agent, "mkdir /etc/systemd/system/dbward-agent.service.d")
            run(agent, "echo '[Service]\nReadWritePaths=/srv' > /etc/systemd/system/dbward-agent.service.d/sqlite.conf")
            run(agent, patient(start))
            look = f"DBWARD_SERVER_URL=http://127.0.0.1:3000 DBWARD_TOKEN={admin} /opt/dbward/bin/dbward agents"
            farm.until(lambda: "healthy" in run(server, look), "the server sees the agent")
            assert confinement(agent, "agent")["CapBnd"] == "0" * 16
            assert stopped(agent, "agent") == "success 0"
        assert stopped(server, "server") == "success 0"


@contextmanager
def booted(farm: Farm, target: engine.Target, *options: str) -> Iterator[engine.Container]:
    """A host with systemd, and the environment of that image in /opt/dbward; the repository is where commands run."""
    about = ["--privileged", "--systemd=always", "--env", f"SYSTEMD_PROC_CMDLINE={KERNEL}"]
    mounts = ["--mount", f"type=image,source={engine.image(target)},destination=/image"]
    source = ["--volume", f"{engine.ROOT}:/source:ro", "--workdir", "/source"]
    with engine.started(
        farm,
        f"host-{target}",
        HOST,
        [*about, *mounts, *source, *options],
        ["sh", "-c", INIT],
    ) as host:
        up = {"running", "degraded"}
        is_up = ("systemctl", "is-system-running")
        farm.until(lambda: host.exec(*is_up).stdout.strip() in up, f"{host.name} has booted", host.process)
        yield host


def blocks(page: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", (PAGES / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)


def example(page: str) -> str:
    found = re.search(r"^```toml\n(.*?)^```", (PAGES / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def without_libraries(install: str, image: engine.Target) -> str:
    """Without the lines that fill the virtual environment, which are what the Dockerfile does for that image."""
    venv, libraries, program, *rest = install.splitlines()
    assert venv == "python3 -m venv /opt/dbward"
    assert libraries == f"/opt/dbward/bin/pip install --require-hashes -r deploy/docker/requirements/{image}.txt"
    assert f"install --require-hashes -r {image}.txt" in engine.DOCKERFILE.read_text()
    assert program == "/opt/dbward/bin/pip install --no-deps ."
    return "\n".join(rest)


def patient(start: str) -> str:
    """A person looks again when it is not up yet, and into the journal when it does not come."""
    again = r"for i in $(seq 100); do \1 2>/dev/null && break || sleep 0.2; done; \1 || { journalctl -n 40; exit 1; }"
    return re.sub(r"^(.* healthcheck .*)$", again, start, flags=re.MULTILINE)


def configure(host: engine.Container, program: str, text: str) -> None:
    run(host, f"printf %s {shlex.quote(text)} > /etc/dbward/{program}.toml; systemd-tmpfiles --create")


def run(host: engine.Container, commands: str) -> str:
    done = host.exec("sh", "-ec", commands)
    assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
    return done.stdout


def confinement(host: engine.Container, program: str) -> dict[str, str]:
    """What the kernel says of the process; and that it may write nothing it should not."""
    pid = run(host, f"systemctl show --property MainPID --value dbward-{program}").strip()
    inside = ("nsenter", "--target", pid, "--mount")
    assert "Read-only file system" in host.exec(*inside, "touch", "/etc/dbward/x").stderr
    assert host.exec(*inside, "ls", "-A", "/home", "/root").stdout.split() == ["/home:", "/root:"]
    return dict(line.split(":\t", 1) for line in run(host, f"cat /proc/{pid}/status").splitlines() if ":\t" in line)


def stopped(host: engine.Container, program: str) -> str:
    """How the unit ended, and with which status."""
    run(host, f"systemctl stop dbward-{program}")
    shown = run(host, f"systemctl show --property Result --property ExecMainStatus --value dbward-{program}")
    return " ".join(sorted(shown.split(), reverse=True))
