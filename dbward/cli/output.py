"""The one place a command's output goes through: human, json or quiet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TextIO

from dbward.cli.env import Env
from dbward.cli.exits import Outcome
from dbward.cli.tables import clean

Format = Literal["human", "json", "quiet"]


class Output:
    """Collects what a command says and prints it in the chosen format.

    human: data on stdout, everything else on stderr. json: one line on stdout, the envelope; an error's message on
    stderr. quiet: the envelope and nothing else.
    """

    def __init__(self, env: Env, form: Format) -> None:
        self.env = env
        self.form = form
        self.warnings: list[str] = []
        self.streamed: Callable[[TextIO], None] | None = None
        """Writes the JSON of `data` in place of `Outcome.data`, when it is too big to be one value."""

    @property
    def human(self) -> bool:
        return self.form == "human"

    def data(self, lines: Iterable[str]) -> None:
        """What was asked for, on stdout, for people. The lines must be clean already."""
        if self.human:
            for line in lines:
                self.env.stdout.write(line + "\n")

    def listing(self, lines: Sequence[str], none: str) -> None:
        """A table on stdout; where it has no rows, `none` on stderr."""
        self.data(lines)
        if not lines:
            self.say(none)

    def say(self, text: str) -> None:
        """What happened, on stderr, for people."""
        self._err(clean(text, keep="\n"))

    def notice(self, text: str) -> None:
        """What a person has to do for the command to go on: on stderr in every format."""
        self._flush_out()
        self.env.stderr.write(clean(text, keep="\n") + "\n")
        self.env.stderr.flush()

    def hint(self, text: str) -> None:
        """What can be done next, on stderr, for people."""
        self._err(f"💡 {clean(text, keep=chr(10))}")

    def warn(self, text: str) -> None:
        """What may be a problem: part of the envelope, or a line on stderr."""
        self.warnings.append(text)
        self._err(f"⚠ {clean(text, keep=chr(10))}")

    def finish(self, outcome: Outcome) -> None:
        """Print the envelope, and the error if there is one."""
        if self.human:
            self._flush_out()
            if not outcome.ok and not outcome.said:
                self.say(f"Error: {outcome.message}")
            if outcome.hint and outcome.hint not in (outcome.message or ""):
                self.hint(outcome.hint)
            return
        self._envelope(outcome)
        self._flush_out()
        if self.form == "json" and not outcome.ok and outcome.message:
            self.env.stderr.write(f"Error: {clean(outcome.message, keep=chr(10))}\n")

    def _envelope(self, outcome: Outcome) -> None:
        out = self.env.stdout
        out.write(f'{{"ok": {"true" if outcome.ok else "false"}, "data": ')
        if self.streamed is not None:
            self.streamed(out)
        else:
            out.write(to_json(outcome.data))
        rest: dict[str, Any] = {}
        if self.warnings:
            rest["warnings"] = self.warnings
        if not outcome.ok:
            rest["error"] = {"code": outcome.code or "internal_error", "message": outcome.message or ""}
            if outcome.hint:
                rest["error"]["hint"] = outcome.hint
        out.write("".join(f', "{key}": {to_json(value)}' for key, value in rest.items()) + "}\n")

    def _err(self, text: str) -> None:
        if self.human:
            self._flush_out()
            self.env.stderr.write(text + "\n")
            self.env.stderr.flush()

    def _flush_out(self) -> None:
        self.env.stdout.flush()


def to_json(value: Any) -> str:
    """One line of JSON that every terminal and every encoding takes."""
    return json.dumps(value, ensure_ascii=True, default=str)


def picked(source: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Those keys of an answer, None where it has none."""
    return {key: source.get(key) for key in keys}


def given(**values: Any) -> dict[str, Any]:
    """A body of what was given; None was not."""
    return {key: value for key, value in values.items() if value is not None}
