"""What the shells complete, asked of real shells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dbward.cli.completion import SHELLS
from tests.cli.conftest import Person
from tests.cli.terminal import ANOTHER, OnTerminal
from tests.support.processes import DBWARD

BASH = """
eval "$(dbward completion bash)"
COMP_WORDS=({words} '{last}'); COMP_CWORD={at}
_dbward_completion dbward
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def world(tmp_path: Path) -> dict[str, str]:
    """A project with two databases, a server that nobody could reach, and the program on PATH."""
    (tmp_path / "dbward.toml").write_text(
        'default_environment = "staging"\n[server]\nurl = "http://127.0.0.1:1"\n[databases.shop]\n[databases.stock]\n'
    )
    return {"PATH": f"{Path(DBWARD[0]).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def shell(world: dict[str, str], *argv: str) -> list[str]:
    ran = subprocess.run(
        argv, env=world, cwd=world["HOME"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.splitlines()


@pytest.mark.parametrize("name", SHELLS)
def test_the_script_is_data(offline: Person, name: str) -> None:
    script = offline("completion", name)
    assert (script.status, script.err) == (0, "")
    made = offline("completion", name, "--format", "json").data
    assert made == {"shell": name, "script": script.out.removesuffix("\n")}


@pytest.mark.parametrize(
    ("words", "last", "found"),
    [
        ("dbward", "requ", {"request"}),
        ("dbward request", "re", {"reject", "resume", "result", "results"}),
        ("dbward request list", "--st", {"--status"}),
        ("dbward request list --status", "rej", {"rejected"}),
        ("dbward execute --format", "", {"human", "json", "quiet"}),
        ("dbward execute --database", "s", {"shop", "stock"}),
        ("dbward request list -e", "", {"staging"}),
        ("dbward completion", "", {"bash", "zsh", "fish"}),
    ],
)
def test_bash(world: dict[str, str], words: str, last: str, found: set[str]) -> None:
    script = BASH.format(words=words, last=last, at=len(words.split()))
    assert set(shell(world, "bash", "--norc", "-c", script)) == found


def test_a_wrong_configuration_leaves_the_shell_alone(world: dict[str, str]) -> None:
    (Path(world["HOME"]) / "dbward.toml").write_text("nonsense\n")
    script = BASH.format(words="dbward execute --database", last="", at=3)
    assert shell(world, "bash", "--norc", "-c", script) == [""]


def test_fish(world: dict[str, str]) -> None:
    script = (
        "dbward completion fish | source; complete -C 'dbward request app'; complete -C 'dbward agents --database s'"
    )
    lines = shell(world, "fish", "--no-config", "-c", script)
    assert [line.split("\t")[0] for line in lines] == ["approve", "shop", "stock"]


@pytest.fixture
def zsh(world: dict[str, str]) -> Iterator[OnTerminal]:
    path = shutil.which("zsh")
    assert path is not None
    with closing(OnTerminal((path, "-f", "-i"), world, Path(world["HOME"]), code=ANOTHER)) as shell:
        yield shell


def test_zsh(zsh: OnTerminal) -> None:
    zsh.type('autoload -U compinit && compinit -u -D && eval "$(dbward completion zsh)" && echo rea""dy\n')
    zsh.wait_for("ready")
    zsh.type("dbward whoa\t--database sho\t--format q\t\n")
    zsh.wait_for('"auth_error"')
    zsh.type("exit 0\n")
    assert zsh.end() == 0


def test_the_json_of_a_script_is_one_line(offline: Person) -> None:
    assert json.loads(offline("completion", "bash", "--format", "quiet").out)["ok"] is True
