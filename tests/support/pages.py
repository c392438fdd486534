"""The code blocks of the documentation, and the transcripts in them: what somebody types, and what they see."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted(
    str(page.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "bench/*.md", "deploy/**/*.md")
    for page in ROOT.glob(pattern)
)
ANYTHING: Final = "…"
"""Within a line of what is shown: some text. As a line of its own: any number of lines."""

_FENCE: Final = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_PROMPT: Final = re.compile(r"(?P<person>[a-z]*)\$ (?P<command>.*)")
_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_DATE: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME: Final = r"[0-9]{2}:[0-9]{2}"


@dataclass(frozen=True, slots=True)
class Varying:
    """What each run has of its own: how a page writes it, and what may stand there.

    With `learned`, what stood there is what later lines and commands of the page mean by the same text.
    """

    written: str
    real: str
    learned: bool = False


_VARYING: Final = (
    Varying(_UUID, _UUID, learned=True),
    # A page's example has a digit and a letter, so that no word and no number is taken for one.
    Varying(r"(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{8}", r"[0-9a-f]{8}", learned=True),
    Varying(r"dbw_[0-9a-f]{8,32}", r"dbw_[0-9a-f]{8,32}", learned=True),
    Varying(r"20[0-9]{12}", r"20[0-9]{12}", learned=True),
    Varying(rf"{_DATE}T{_TIME}:[0-9]{{2}}Z", rf"{_DATE}T{_TIME}:[0-9]{{2}}(?:\.[0-9]+)?Z"),
    Varying(rf"{_DATE} {_TIME}:[0-9]{{2}}", rf"{_DATE} {_TIME}:[0-9]{{2}}"),
    Varying(rf"{_DATE} {_TIME}", rf"{_DATE} {_TIME}"),
    Varying(_DATE, _DATE),
    Varying(_TIME, _TIME),
    Varying(r"[0-9]+(?:\.[0-9]+)? (?:ms|s)", r"[0-9]+(?:\.[0-9]+)? (?:ms|s)"),
)
_VARIES: Final = re.compile("|".join(f"(?<![0-9A-Za-z])({each.written})(?![0-9A-Za-z])" for each in _VARYING))


@dataclass(frozen=True, slots=True)
class Block:
    """`first` is its first line, which names it among the blocks of its page; `line` is where that stands."""

    page: str
    language: str
    text: str
    line: int

    @property
    def first(self) -> str:
        return self.text.partition("\n")[0]

    def __str__(self) -> str:
        return f"{self.page}:{self.line} ({self.language}): {self.first}"


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a transcript: who types it ("": no matter who), and what the page shows of it."""

    person: str
    command: str
    shown: tuple[str, ...]


def blocks(page: str, text: str | None = None) -> list[Block]:
    """Of a page, in order; those inside of lists without their indentation."""
    text = (ROOT / page).read_text() if text is None else text
    found = []
    for fence in _FENCE.finditer(text):
        indent, language, inner = fence.groups()
        body = "\n".join(line.removeprefix(indent) for line in inner.splitlines())
        found.append(Block(page, language, body, text.count("\n", 0, fence.start(3)) + 1))
    return found


def transcript(text: str) -> Iterator[Step]:
    """The commands of a `console` block: `$ command` or `alice$ command`, each with what follows it.

    A command goes on in the next line after a backslash, and in lines that begin with `> `. Raises `ValueError` when
    something is shown before the first command.
    """
    step: Step | None = None
    for line in text.splitlines():
        if step is not None and step.command.endswith("\\") and not step.shown:
            step = Step(step.person, f"{step.command}\n{line}", ())
        elif step is not None and not step.shown and (line == ">" or line.startswith("> ")):
            step = Step(step.person, f"{step.command}\n{line[2:]}", ())
        elif (typed := _PROMPT.fullmatch(line)) is not None:
            if step is not None:
                yield step
            step = Step(typed["person"], typed["command"], ())
        elif step is None:
            raise ValueError(f"shown before any command: {line}")
        else:
            step = Step(step.person, step.command, (*step.shown, line))
    if step is not None:
        yield step


@dataclass(slots=True)
class Reader:
    """Somebody who follows a page: ids, versions and tokens that it names, and what they are in this run."""

    known: dict[str, str] = field(default_factory=dict)

    def types(self, command: str) -> str:
        """A command of the page with what is known put in."""
        return _VARIES.sub(lambda found: self.known.get(found[0], found[0]), command)

    def sees(self, shown: tuple[str, ...], written: str) -> bool:
        """Whether `written` is what the page shows, but for what each run has of its own. Learns from it if so.

        Spaces, empty lines and the length of rules do not count.
        """
        new: dict[str, str] = {}
        lines = [self._pattern(line, new) for line in _tidy("\n".join(shown))]
        pattern = "".join(r"(?:.*\n)*?" if line is None else f"{line}\n" for line in lines)
        found = re.fullmatch(pattern, "".join(f"{line}\n" for line in _tidy(written)))
        if found is None:
            return False
        for name, group in new.items():
            self.known[name] = found[group]
            if re.fullmatch(_UUID, name):
                self.known.setdefault(name[:8], found[group][:8])
        return True

    def _pattern(self, line: str, new: dict[str, str]) -> str | None:
        """None for a line that stands for any lines."""
        if line == ANYTHING:
            return None
        parts, at = [], 0
        for found in _VARIES.finditer(line):
            parts += [_literal(line[at : found.start()]), self._varying(found, new)]
            at = found.end()
        return "".join([*parts, _literal(line[at:])])

    def _varying(self, found: re.Match[str], new: dict[str, str]) -> str:
        varying = _VARYING[(found.lastindex or 1) - 1]
        name = found[0]
        if not varying.learned:
            return varying.real
        if name in self.known:
            return re.escape(self.known[name])
        if name in new:
            return f"(?P={new[name]})"
        new[name] = f"new{len(new)}"
        return f"(?P<{new[name]}>{varying.real})"


def _literal(text: str) -> str:
    return ".*".join(re.escape(part) for part in text.split(ANYTHING))


def _tidy(text: str) -> list[str]:
    tidied = (re.sub(r"─+", "─", re.sub(r"\s+", " ", line)).strip() for line in text.splitlines())
    return [line for line in tidied if line]
