"""Reading a directory of migration files. Nothing in it is skipped silently: what is not understood is a mistake.

A file is `<version>_<name>.sql`, its version made of digits. In it, each at the beginning of a line and once:

    -- migrate:up [transaction:false]
    …
    -- migrate:down [transaction:false]
    …
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dbward.canonical import sha256_hex
from dbward.errors import Invalid

MAX_FILE_BYTES: Final = 1024 * 1024
_NAME: Final = re.compile(r"(?P<version>[0-9]{1,32})_(?P<name>[^/\\\x00]+)\.sql")
_MARKER: Final = re.compile(r"--\s*migrate:(?P<direction>\w*)(?P<options>.*)", re.ASCII)
_OPTIONS: Final = {"transaction:true": True, "transaction:false": False}


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong in a file; `line` counts from 1, None when it is the file itself."""

    file: str
    line: int | None
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.line is not None else f"{self.file}: {self.text}"


class BadFiles(Invalid):
    """Some of the files cannot be used, so none is. `mistakes` are all of them."""

    code = "migration.files"

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("; ".join(map(str, mistakes)), hint="mend the files named, then try again")
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True)
class Script:
    """One direction of a migration. `line` is where its SQL begins in the file."""

    sql: str
    transactional: bool
    line: int


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `checksum` is the SHA-256 of its bytes, in hex; `down` None when it cannot be undone."""

    version: str
    name: str
    file: str
    checksum: str
    up: Script
    down: Script | None


def read_directory(path: Path) -> tuple[Migration, ...]:
    """The migrations of a directory in the order they are applied.

    Raises `BadFiles` with every mistake found, and `Invalid` (`migration.directory`) when there is no such directory.
    """
    try:
        files = sorted(entry for entry in path.iterdir() if entry.suffix.lower() == ".sql")
    except OSError as e:
        raise Invalid(
            f"{path}: {e.strerror or e}", code="migration.directory", hint="make it with `dbward migrate create NAME`"
        ) from e
    mistakes: list[Mistake] = []
    found: list[Migration] = []
    for file in files:
        try:
            found.append(parse(file.name, _read(file)))
        except BadFiles as e:
            mistakes += e.mistakes
    mistakes += _versions_used_twice(found)
    if mistakes:
        raise BadFiles(mistakes)
    return tuple(sorted(found, key=lambda one: order(one.version)))


def order(version: str) -> tuple[int, str]:
    """Sorts versions as numbers: 9 comes before 10."""
    return int(version), version


def parse(file: str, content: bytes) -> Migration:
    """One file by its name and bytes. Raises `BadFiles`."""
    named = _NAME.fullmatch(file)
    if named is None or not named["name"].isprintable():
        raise BadFiles([Mistake(file, None, "is not named <digits>_<name>.sql")])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise BadFiles([Mistake(file, line, "is not UTF-8")]) from e
    if "\0" in text:
        raise BadFiles([Mistake(file, text.count("\n", 0, text.index("\0")) + 1, "holds a NUL character")])
    scripts = _scripts(file, text.split("\n"))
    return Migration(
        version=named["version"],
        name=named["name"],
        file=file,
        checksum=sha256_hex(content),
        up=scripts["up"],
        down=scripts.get("down"),
    )


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as e:
        raise BadFiles([Mistake(file.name, None, f"cannot be read: {e.strerror}")]) from e
    if len(content) > MAX_FILE_BYTES:
        raise BadFiles([Mistake(file.name, None, f"is over {MAX_FILE_BYTES} bytes")])
    return content


@dataclass(frozen=True, slots=True)
class _Marker:
    line: int
    direction: str
    transactional: bool


def _scripts(file: str, lines: Sequence[str]) -> dict[str, Script]:
    mistakes: list[Mistake] = []
    markers = [marker for n, line in enumerate(lines, 1) if (marker := _marker(file, n, line, mistakes)) is not None]
    mistakes += _wrong_order(file, markers)
    if markers and (early := _first_code(lines[: markers[0].line - 1])) is not None:
        mistakes.append(Mistake(file, early, "stands before `-- migrate:up` and would never run"))
    if not markers and not mistakes:
        mistakes.append(Mistake(file, 1, "has no line `-- migrate:up`"))
    if mistakes:
        raise BadFiles(mistakes)
    scripts = {}
    ends = [marker.line - 1 for marker in markers[1:]] + [len(lines)]
    for marker, end in zip(markers, ends, strict=True):
        body = lines[marker.line : end]
        if _first_code(body) is not None:
            blank = next(n for n, line in enumerate(body) if line.strip())
            sql = "\n".join(body).strip()
            scripts[marker.direction] = Script(sql, marker.transactional, marker.line + blank + 1)
    if "up" not in scripts:
        raise BadFiles([Mistake(file, markers[0].line, "nothing follows `-- migrate:up`")])
    return scripts


def _marker(file: str, number: int, line: str, mistakes: list[Mistake]) -> _Marker | None:
    found = _MARKER.fullmatch(line.rstrip())
    if found is None:
        return None
    if found["direction"] not in {"up", "down"} or (found["options"] and not found["options"][0].isspace()):
        mistakes.append(Mistake(file, number, f"`{line.strip()[:80]}` is neither `migrate:up` nor `migrate:down`"))
        return None
    transactional = True
    for option in found["options"].split():
        if option not in _OPTIONS:
            mistakes.append(Mistake(file, number, f"unknown option {option[:80]!a}; there is `transaction:false`"))
        transactional = _OPTIONS.get(option, True)
    return _Marker(number, found["direction"], transactional)


def _wrong_order(file: str, markers: Sequence[_Marker]) -> Iterable[Mistake]:
    seen: set[str] = set()
    for marker in markers:
        if marker.direction in seen:
            yield Mistake(file, marker.line, f"a second `-- migrate:{marker.direction}`")
        elif marker.direction == "down" and "up" not in seen:
            yield Mistake(file, marker.line, "`-- migrate:down` comes before `-- migrate:up`")
        seen.add(marker.direction)


def _first_code(lines: Sequence[str]) -> int | None:
    """Which of the lines, from 1, is the first that is neither blank nor a `--` comment; None when none is."""
    return next((n for n, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("--")), None)


def _versions_used_twice(found: Iterable[Migration]) -> Iterable[Mistake]:
    first: dict[int, str] = {}
    for one in sorted(found, key=lambda migration: migration.file):
        other = first.setdefault(int(one.version), one.file)
        if other != one.file:
            yield Mistake(one.file, None, f"has the version of {other}")
