"""The units of deploy/systemd: systemd takes them, they are confined, and the programs can live with that."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dbward.settings.agent import load_agent
from dbward.settings.server import load_server
from tests.support.processes import DBWARD, Farm, call

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
PROGRAMS = ("server", "agent")
PAGES = UNITS.parents[1] / "docs" / "deployment"
MOST_EXPOSED = 1.5
"""On systemd's scale from 0 to 10, which calls up to 2 OK and less than 1 what no network service reaches."""
NO_EXECUTABLE_MEMORY = """
import ctypes, errno, os, sys
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0):
    sys.exit(f"PR_SET_MDWE: {errno.errorcode[ctypes.get_errno()]}")
os.execvp(sys.argv[1], sys.argv[1:])
"""


def unit(program: str) -> dict[str, list[str]]:
    """What stands under [Service], each key with all its values."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (UNITS / f"dbward-{program}.service").read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def analyze(*arguments: str) -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("the units are NOT checked: systemd-analyze is not installed")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_systemd_takes_it(program: str, tmp_path: Path) -> None:
    text = (UNITS / f"dbward-{program}.service").read_text()
    mine = tmp_path / f"dbward-{program}.service"
    mine.write_text(text.replace("/opt/dbward/bin/dbward", shutil.which("true") or "/bin/true"))
    said = analyze("verify", "--man=no", str(mine))
    assert not re.search(r"Unknown|not executable|Failed|ignoring|Invalid", said), said


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_is_exposed_to_little(program: str) -> None:
    said = analyze("security", "--offline=true", "--no-pager", str(UNITS / f"dbward-{program}.service"))
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert exposure is not None
    assert float(exposure[1]) <= MOST_EXPOSED, said


def test_a_misspelt_key_is_found(tmp_path: Path) -> None:
    broken = tmp_path / "broken.service"
    broken.write_text("[Service]\nExecStart=/bin/true\nProtectHom=yes\n")
    assert "ProtectHom" in analyze("verify", "--man=no", str(broken))


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_may_take_as_long_to_stop_as_the_program_does(program: str, tmp_path: Path) -> None:
    (tmp_path / "server").write_text('state_dir = "/data"')
    (tmp_path / "agent").write_text(
        'server = {url = "http://s", agent_token = "x"}\ndatabases.a.b.url = "sqlite:////x"'
    )
    drain = {
        "server": load_server(tmp_path / "server", {}).http.graceful_timeout,
        "agent": load_agent(tmp_path / "agent", {}).drain_timeout,
    }[program]
    assert int(unit(program)["TimeoutStopSec"][0]) > drain.total_seconds()


@pytest.mark.parametrize("program", PROGRAMS)
def test_its_commands_are_commands(program: str) -> None:
    """With the options that they have, as `dbward … --help` tells."""
    for line in unit(program)["ExecStart"] + unit(program).get("ExecReload", []):
        _, *words = line.split()
        names = [word for word in words if not word.startswith(("-", "/"))]
        told = subprocess.run([*DBWARD, *names, "--help"], capture_output=True, text=True, check=True).stdout
        assert [word for word in words if word.startswith("--") and word not in told] == []


def test_the_agent_does_not_come_back_when_its_token_is_refused() -> None:
    assert unit("agent")["RestartPreventExitStatus"] == ["77"]


def test_users_and_directories_are_made(tmp_path: Path) -> None:
    for name in ("systemd-sysusers", "systemd-tmpfiles"):
        if shutil.which(name) is None:
            pytest.skip(f"the users and directories are NOT checked: {name} is not installed")
    (tmp_path / "etc").mkdir()
    root = f"--root={tmp_path}"
    subprocess.run(["systemd-sysusers", root, str(UNITS / "sysusers.conf")], check=True, capture_output=True)
    users = {line.split(":")[0] for line in (tmp_path / "etc" / "passwd").read_text().splitlines()}
    assert users == {unit(program)["User"][0] for program in PROGRAMS}
    (tmp_path / "etc" / "dbward").mkdir()
    for name in ("server.toml", "agent.toml", "server.env"):
        (tmp_path / "etc" / "dbward" / name).touch()
    subprocess.run(
        ["systemd-tmpfiles", root, "--create", str(UNITS / "tmpfiles.conf")], check=True, capture_output=True
    )
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "etc" / "dbward").iterdir()}
    assert modes == {"server.toml": 0o640, "agent.toml": 0o640, "server.env": 0o600, "credentials": 0o700}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_page_configures_what_the_unit_starts(program: str, tmp_path: Path) -> None:
    """The example is taken, and keeps what it writes where the unit lets it write."""
    text = re.findall(r"```toml\n(.*?)```", (PAGES / f"{program}.md").read_text(), re.DOTALL)[0]
    if program == "agent":
        for name in ("agent-token", "database-url"):
            (tmp_path / name).write_text("postgresql://db/app")
        text = text.replace("/run/credentials/dbward-agent.service", str(tmp_path))
        assert {c.partition(":")[0] for c in unit("agent")["LoadCredential"]} == {"agent-token", "database-url"}
    (tmp_path / "config.toml").write_text(text)
    if program == "server":
        assert (
            load_server(tmp_path / "config.toml", {}).state_dir
            == Path("/var/lib") / unit("server")["StateDirectory"][0]
        )
    else:
        settings = load_agent(tmp_path / "config.toml", {})
        assert settings.alive_file.parent == Path("/run") / unit("agent")["RuntimeDirectory"][0]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_page_installs_what_is_there(program: str, tmp_path: Path) -> None:
    """Its commands as written, below a directory instead of /; the libraries are installed so in the images' tests."""
    text = (PAGES / f"{program}.md").read_text()
    install, *_ = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    _, libraries, ours, *rest = install.splitlines()
    dockerfile = (UNITS.parent / "docker" / "Dockerfile").read_text()
    assert libraries == f"/opt/dbward/bin/pip install --require-hashes -r deploy/docker/requirements/{program}.txt"
    assert f"install --require-hashes -r {program}.txt" in dockerfile
    assert ours == "/opt/dbward/bin/pip install --no-deps ."
    for line in rest:
        if line.startswith("systemd-") and shutil.which(line.split()[0]) is None:
            pytest.skip(f"the users are NOT made: {line.split()[0]} is not installed")
        command = line.replace(" /etc/", f" {tmp_path}/etc/").replace(
            "systemd-sysusers", f"systemd-sysusers --root={tmp_path}"
        )
        command = command.replace("systemd-tmpfiles", f"systemd-tmpfiles --root={tmp_path}")
        subprocess.run(["sh", "-ec", command], cwd=UNITS.parents[1], check=True, capture_output=True)
    assert (tmp_path / "etc/systemd/system" / f"dbward-{program}.service").stat().st_mode & 0o777 == 0o644
    assert unit(program)["User"][0] in (tmp_path / "etc/passwd").read_text()
    assert (tmp_path / "etc/dbward/credentials").stat().st_mode & 0o777 == 0o700
    if program == "agent":
        secrets = next(b for b in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if "/dev/stdin" in b)
        subprocess.run(["sh", "-ec", secrets.replace(" /etc/", f" {tmp_path}/etc/")], check=True, capture_output=True)
        assert (tmp_path / "etc/dbward/credentials/agent-token").read_text() == "dbw_…"
        assert (tmp_path / "etc/dbward/credentials/agent-token").stat().st_mode & 0o777 == 0o600


@pytest.mark.e2e
def test_the_programs_need_no_memory_that_is_writable_and_executable(farm: Farm, postgres_url: str) -> None:
    """MemoryDenyWriteExecute=, with the means of the kernel itself."""
    confined = (sys.executable, "-c", NO_EXECUTABLE_MEMORY)
    probe = subprocess.run([*confined, "true"], capture_output=True, text=True, check=False)
    if "EINVAL" in probe.stderr:
        pytest.skip("NOT checked: this kernel, older than 6.3, cannot deny executable memory")
    server = farm.server(program=(*confined, *DBWARD))
    farm.agent(server, {("app", "development"): postgres_url}, program=(*confined, *DBWARD))
    body = {"database": "app", "environment": "development", "operation": "execute_select", "detail": "SELECT 1"}
    status, made = call("POST", f"{server.url}/api/requests", server.admin_token, body)
    assert status == 201, made
    status, result = call("GET", f"{server.url}/api/requests/{made['id']}/result/stream", server.admin_token)
    assert status == 200, result
