"""The units of deploy/systemd: systemd takes them, and they are confined. test_hosts.py starts them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dbward.settings.agent import load_agent
from dbward.settings.server import load_server
from tests.support.processes import DBWARD

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
PROGRAMS = ("server", "agent")
PAGES = UNITS.parents[1] / "docs" / "deployment"
MOST_EXPOSED = 1.5
"""On systemd's scale from 0 to 10, which calls up to 2 OK and less than 1 what no network service reaches."""


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
