"""Write the commands in docs/reference/cli.md anew, out of what `--help` says. What stands around them is kept.

`make cli-docs`. Exit status 1 with `--check` when the page is not what would be written.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from dbward.cli.app import GlobalOption
from dbward.cli.main import COMMANDS, load

PAGE = Path(__file__).parents[2] / "docs/reference/cli.md"
BEGIN = "<!-- The commands: written by `make cli-docs`, changed in the program. -->"
END = "<!-- The end of the commands. -->"

Named = tuple[str, click.Command]
Known = dict[Callable[..., Any], Named]
"""What was described already: the function that runs, and the command it was seen as first."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    old = PAGE.read_text()
    new = renewed(old)
    if parser.parse_args().check:
        return int(new != old)
    PAGE.write_text(new)
    return 0


def renewed(page: str) -> str:
    """The page with its commands as they are now."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert begin, f"{PAGE} has lost its mark: {BEGIN}"
    assert end, f"{PAGE} has lost its mark: {END}"
    return f"{head}{BEGIN}\n\n{commands()}\n{END}{tail}"


def commands() -> str:
    """A list of every command, then each with its text and its options."""
    known: Known = {}
    entries = [entry for name in COMMANDS for entry in described(name, loaded(name), known)]
    index = ["| Command | Does |", "|---|---|"]
    index += [f"| {link(path)} | {short(command)} |" for path, command, _ in entries]
    return "\n\n".join(["\n".join(index), *(made for _, _, made in entries)]) + "\n"


def described(path: str, command: click.Command, known: Known) -> Iterator[tuple[str, click.Command, str]]:
    """The command and what is said about it, or where it is a group that of each of the group.

    What runs the same as one of `known` is told by that one's name.
    """
    if isinstance(command, click.Group):
        if (copied := original(command, known)) is not None:
            yield path, command, copy(path, command, copied, known)
            return
        if command.invoke_without_command:
            yield path, command, section(path, command)
        for name, sub in command.commands.items():
            yield from described(f"{path} {name}", sub, known)
    else:
        first = known.setdefault(function_of(command), (path, command))
        yield path, command, section(path, command) if first[0] == path else alias(path, command, first)


def original(group: click.Group, known: Known) -> str | None:
    """The name of the group that this one repeats, command by command."""
    found = {(known.get(function_of(sub), ("", sub))[0], name) for name, sub in group.commands.items()}
    origins = {path.removesuffix(f" {name}") for path, name in found if path.endswith(f" {name}")}
    return origins.pop() if len(origins) == 1 and all(path for path, _ in found) else None


def loaded(name: str) -> click.Command:
    command = load(name)
    assert command is not None
    return command


def function_of(command: click.Command) -> Callable[..., Any]:
    """What a command runs, below what was put around it."""
    assert command.callback is not None
    function: Callable[..., Any] = inspect.unwrap(command.callback)
    return function


def short(command: click.Command) -> str:
    return escaped(command.get_short_help_str(limit=200))


def section(path: str, command: click.Command) -> str:
    usage = " ".join(["dbward", path, *pieces(command)])
    return paragraphs(f"### `dbward {path}`", f"`{usage}`", text(command), options(own(command)))


def alias(path: str, command: click.Command, first: Named) -> str:
    """A second name for what another command does, and the options it has on top of that one's."""
    more = options(added(command, first[1]))
    same = f"The same as {link(first[0])}" + (", and:" if more else ".")
    return paragraphs(f"### `dbward {path}`", same, more)


def copy(path: str, group: click.Group, origin: str, known: Known) -> str:
    """A group whose commands are those of another, and the options that each of them has on top."""
    names = ", ".join(f"[`{name}`](#{anchor(f'{origin} {name}')})" for name in group.commands)
    sub = next(iter(group.commands.values()))
    more = options(added(sub, known[function_of(sub)][1]))
    same = f"The commands of `dbward {origin}`: {names}." + (" Each also takes:" if more else "")
    return paragraphs(f"### `dbward {path}`", text(group), same, more)


def added(command: click.Command, first: click.Command) -> list[click.Option]:
    names = {option.name for option in own(first)}
    return [option for option in own(command) if option.name not in names]


def link(path: str) -> str:
    return f"[`dbward {path}`](#{anchor(path)})"


def anchor(path: str) -> str:
    return f"dbward-{path.replace(' ', '-')}"


def paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def pieces(command: click.Command) -> list[str]:
    context = click.Context(command)
    given = [piece for argument in arguments(command) for piece in argument.get_usage_pieces(context)]
    return [*(["[OPTIONS]"] if own(command) else []), *given]


def arguments(command: click.Command) -> list[click.Argument]:
    return [param for param in command.params if isinstance(param, click.Argument)]


def own(command: click.Command) -> list[click.Option]:
    """Its options, without those that every command has."""
    found = [param for param in command.params if isinstance(param, click.Option)]
    return [option for option in found if not isinstance(option, GlobalOption) and not option.hidden]


def options(which: list[click.Option]) -> str:
    if not which:
        return ""
    rows = ["| Option | Meaning |", "|---|---|"]
    for option in which:
        record = option.get_help_record(click.Context(click.Command("dbward")))
        assert record is not None, option.name
        given, meaning = record[0].replace("|", "\\|"), " ".join(record[1].split())
        rows.append(f"| `{given}` | {escaped(meaning)} |")
    return "\n".join(rows)


def text(command: click.Command) -> str:
    """Its help as Markdown: a paragraph that begins with `\\b` keeps its lines."""
    made = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            made.append(f"```text\n{paragraph[1:].strip(chr(10))}\n```")
        else:
            made.append(escaped(" ".join(paragraph.split())))
    return "\n\n".join(made)


def escaped(words: str) -> str:
    """Text without what Markdown would take for marks, outside of `code`."""
    parts = re.split(r"(`[^`]*`)", words)
    parts[::2] = [re.sub(r"([|*_]|<(?=[A-Za-z/!]))", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


if __name__ == "__main__":
    sys.exit(main())
