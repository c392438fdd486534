"""`--format quiet` and `--format json`, for every command there is: what programs read, and nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click
import pytest

from dbward.cli.main import COMMANDS, load
from tests.cli.conftest import Person

GIVEN: dict[str, tuple[str, ...]] = {
    "agent": ("--config", "missing.toml"),
    "agent healthcheck": ("missing",),
    "completion": ("bash",),
    "dev": ("--database-url", "nonsense"),
    "doctor": ("--timeout", "1"),
    "execute": ("SELECT 1", "--timeout", "0"),
    "init": ("--non-interactive", "--output-dir", "made"),
    "login": ("--no-browser",),
    "migrate repair": ("--action", "remove", "--version", "1"),
    "policy show": ("workflow", "x"),
    "preflight": ("SELECT 1",),
    "server backup": ("--server-config", "missing.toml"),
    "server healthcheck": ("http://127.0.0.1:1/health",),
    "server reload": ("--server-config", "missing.toml"),
    "server restore": ("latest", "--server-config", "missing.toml"),
    "server start": ("--config", "missing.toml"),
    "token create": ("--expires", "1d"),
    "audit export": ("--output", "events"),
}
"""What else a command needs than a word for each argument. None of these may start anything that stays."""


def leaves() -> Iterator[str]:
    def below(path: str, command: click.Command) -> Iterator[str]:
        if isinstance(command, click.Group):
            if command.invoke_without_command:
                yield path
            for name, sub in command.commands.items():
                yield from below(f"{path} {name}", sub)
        else:
            yield path

    for name in COMMANDS:
        command = load(name)
        assert command is not None
        yield from below(name, command)


def words(path: str) -> list[str]:
    """A call of that command: with what it needs, and otherwise a word for each argument."""
    if path in GIVEN:
        return [*path.split(), *GIVEN[path]]
    first, *rest = path.split()
    command = load(first)
    for name in rest:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert command is not None
    needed = [param for param in command.params if isinstance(param, click.Argument) and param.required]
    return [*path.split(), *("x" for _ in needed)]


@pytest.mark.parametrize("path", list(leaves()))
def test_an_answer_for_programs(person: Callable[[str], Person], offline: Person, path: str) -> None:
    """Whether it goes well or not: one line on stdout; on stderr nothing, or with json the message of the error."""
    for someone in (person("admin"), offline):
        quiet = someone("--format", "quiet", *words(path))
        assert quiet.err == ""
        assert quiet.json.keys() <= {"ok", "data", "warnings", "error"}
        told = someone("--format", "json", *words(path))
        assert told.json["ok"] or told.json["error"].keys() <= {"code", "message", "hint"}
        assert told.err == ("" if told.status == 0 else f"Error: {told.json['error']['message']}\n")
