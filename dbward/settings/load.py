"""Reading a TOML file strictly: every mistake is collected with its key, then all are raised together.

`${VAR}` and `${VAR:-default}` are expanded inside the parsed string values, never in the raw text, so a value cannot
change the structure of the file and comments are left alone. `$${` stands for a literal `${`.

`${file:/absolute/path}` is the content of a file, without the line break at its end: the way in which platforms hand
secrets to a process. Only where the configuration is the machine's own; one that comes with a project could otherwise
have any file of whoever works in it sent somewhere.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from dbward.errors import Misconfigured
from dbward.settings.secret import Secret

L = TypeVar("L", bound=str)

MOST_SECS: Final = 100 * 366 * 86400
"""A century: beyond it a duration is a typing mistake, and dates overflow."""

CONFIG_VARIABLE: Final = "DBWARD_CONFIG_TOML"

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_FILE = "file:"
_MOST_FILE_BYTES = 64 * 1024


class _Broken:
    """Stands in for a value whose expansion failed: reported once, then left alone."""


class Expanded(str):
    """A text that came out of an expansion, and may therefore stand for a number or a boolean."""

    __slots__ = ()


class Problems:
    """Mistakes found in one file, in the order they were found."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._found: list[str] = []
        self._tables: list[Table] = []

    def add(self, key: str, what: str) -> None:
        self._found.append(f"{self.file}: {key}: {what}" if key else f"{self.file}: {what}")

    def watch(self, table: Table) -> None:
        self._tables.append(table)

    def finish(self) -> None:
        """Report the keys nobody asked for, then raise `Misconfigured` if there is any mistake at all."""
        for table in self._tables:
            table.report_unknown()
        self._tables.clear()
        self.raise_found()

    def raise_found(self) -> None:
        """Raise `Misconfigured` if there is any mistake so far."""
        if self._found:
            raise Misconfigured("\n".join(self._found), detail={"problems": list(self._found)})


class Table:
    """One TOML table being read. Asking for a key makes it known; a key never asked for is a mistake.

    A getter that finds a mistake reports it and returns its default (or an empty value), so that reading goes on.
    """

    def __init__(self, values: Mapping[str, Any], path: str, problems: Problems, *, present: bool = True) -> None:
        self._values = values
        self._path = path
        self._problems = problems
        self._known: dict[str, None] = {}
        self.present = present
        problems.watch(self)

    def at(self, key: str) -> str:
        """The full path of `key`, as it stands in messages."""
        return f"{self._path}.{key}" if self._path else key

    @property
    def path(self) -> str:
        return self._path

    def wrong(self, key: str, what: str) -> None:
        """Report a mistake in `key`; an empty key means the table itself."""
        self._problems.add(self.at(key) if key else self._path, what)

    def has(self, key: str) -> bool:
        return key in self._values

    def names(self) -> list[str]:
        """All keys that are there, for tables whose keys are names."""
        return list(self._values)

    def retired(self, key: str, advice: str) -> None:
        """A key of earlier versions: say what replaced it."""
        if key in self._values:
            self._known[key] = None
            self.wrong(key, advice)

    def report_unknown(self) -> None:
        for key in self._values:
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, n=1)
                self.wrong(key, "unknown key" + (f"; did you mean `{near[0]}`?" if near else ""))

    def required(self, key: str) -> str:
        """A text that must be there and not be empty; "" after a mistake."""
        if key not in self._values:
            self._known[key] = None
            self.wrong(key, "is required")
            return ""
        value = self._text(key)
        if value == "":
            self.wrong(key, "is empty")
        return value or ""

    def text(self, key: str, default: str) -> str:
        value = self._text(key)
        return default if value is None else value

    def maybe(self, key: str) -> str | None:
        """A text, or None when it is absent or empty."""
        return self._text(key) or None

    def secret(self, key: str) -> Secret | None:
        value = self.maybe(key)
        return None if value is None else Secret(value)

    def required_secret(self, key: str) -> Secret:
        return Secret(self.required(key))

    def choice(self, key: str, default: L, choices: Iterable[L]) -> L:
        value = self._text(key)
        if value is None:
            return default
        allowed = list(choices)
        for choice in allowed:
            if value == choice:
                return choice
        self.wrong(key, f"{value!a} is not one of {', '.join(allowed)}")
        return default

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; absent means empty."""
        value = self._take(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str | _Broken) for item in value):
            self.wrong(key, f"must be a list of texts, not {_kind(value)}")
            return ()
        return tuple(str(item) for item in value if isinstance(item, str))

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._take(key)
        if isinstance(value, Expanded):
            value = {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower(), str(value))
        if value is None:
            return default
        if not isinstance(value, bool):
            self.wrong(key, f"must be true or false, not {_kind(value)}")
            return default
        return value

    def integer(self, key: str, default: int, *, least: int = 0, most: int = 2**53) -> int:
        value = self.maybe_integer(key, least=least, most=most)
        return default if value is None else value

    def maybe_integer(self, key: str, *, least: int = 0, most: int = 2**53) -> int | None:
        value = self._take(key)
        if isinstance(value, Expanded) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value):
            value = int(value)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            self.wrong(key, f"must be a whole number, not {_kind(value)}")
            return None
        if not least <= value <= most:
            self.wrong(key, f"must be {'at least ' + str(least) if value < least else 'at most ' + str(most)}")
            return None
        return value

    def secs(self, key: str, default: timedelta, *, least: int = 0) -> timedelta:
        value = self.maybe_secs(key, least=least)
        return default if value is None else value

    def maybe_secs(self, key: str, *, least: int = 0) -> timedelta | None:
        value = self.maybe_integer(key, least=least, most=MOST_SECS)
        return None if value is None else timedelta(seconds=value)

    def days(self, key: str, default: timedelta, *, least: int = 1) -> timedelta:
        value = self.maybe_integer(key, least=least, most=MOST_SECS // 86400)
        return default if value is None else timedelta(days=value)

    def table(self, key: str) -> Table:
        """The table under `key`; an empty one with `present` False when it is not there."""
        value = self._take(key)
        if value is None:
            return Table({}, self.at(key), self._problems, present=False)
        if not isinstance(value, dict):
            self.wrong(key, f"must be a table, [{self.at(key)}], not {_kind(value)}")
            return Table({}, self.at(key), self._problems, present=False)
        return Table(value, self.at(key), self._problems)

    def tables(self, key: str) -> list[Table]:
        """The array of tables under `key`; its entries are named `key[0]`, `key[1]` …"""
        value = self._take(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.wrong(key, f"must be an array of tables, [[{self.at(key)}]], not {_kind(value)}")
            return []
        return [Table(item, f"{self.at(key)}[{i}]", self._problems) for i, item in enumerate(value)]

    def _text(self, key: str) -> str | None:
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self.wrong(key, f"must be a text in quotes, not {_kind(value)}")
            return None
        return str(value)

    def _take(self, key: str) -> Any:
        self._known[key] = None
        value = self._values.get(key)
        return None if isinstance(value, _Broken) else value


@dataclass(frozen=True, slots=True)
class FromVariable:
    """The text in the environment variable `DBWARD_CONFIG_TOML`, in place of a file; relative paths start at `base`."""

    base: Path


Source = Path | FromVariable


def choose(given: Path | None, usual: Path, env: Mapping[str, str], *, cwd: Path) -> Source:
    """The file that was named, else the text in the environment, else the usual file; true wherever we are by then."""
    if given is None and env.get(CONFIG_VARIABLE):
        return FromVariable(cwd)
    return cwd / (given or usual)


def base_of(source: Source) -> Path:
    """Where relative paths in it start."""
    return source.base if isinstance(source, FromVariable) else source.absolute().parent


def environment() -> Mapping[str, str]:
    """This process's environment: the only place it is read."""
    return os.environ  # noqa: TID251 - settings are where the environment is read


def open_file(
    source: Source,
    env: Mapping[str, str],
    *,
    shown: str | None = None,
    only: tuple[str, ...] | None = None,
    overrides: Mapping[str, tuple[str, str]] | None = None,
    files: bool = False,
) -> tuple[Table, Problems, bytes]:
    """The root table of a TOML file with its references expanded, where to report, and the file's bytes.

    `shown` is how messages name the file; with `only`, no other top-level keys are looked at. `overrides`: environment
    variables that win over the file where they are set and not empty, each with the table and the key it stands for.
    With `files`, values may refer to the content of files.

    Raises `Misconfigured` when it cannot be read or is not TOML.
    """
    raw, problems = _raw(source, env, shown)
    values = _parse(raw, problems)
    if only is not None:
        values = {key: value for key, value in values.items() if key in only}
    expanded = _expand_tree(values, "", partial(expand, env=env, files=files), problems)
    for variable, (table, key) in (overrides or {}).items():
        if (value := env.get(variable)) and isinstance(inside := expanded.setdefault(table, {}), dict):
            inside[key] = Expanded(value)
    return Table(expanded, "", problems), problems, raw


@dataclass(frozen=True, slots=True)
class Reference:
    """One `${…}` of a file: `name` of a variable or, where `file`, a path. `default`: it says what else to take."""

    name: str
    file: bool = False
    default: bool = False


def references(source: Source, env: Mapping[str, str]) -> list[Reference]:
    """What the values in it refer to, each once, whether it is there or not. Raises `Misconfigured` as `open_file`."""
    raw, problems = _raw(source, env, None)
    found: dict[Reference, None] = {}

    def note(text: str) -> str:
        for match in _REFERENCE.finditer(text):
            inside = match[1] or ""
            variable = _VARIABLE.fullmatch(inside)
            if inside.startswith(_FILE):
                found[Reference(inside.removeprefix(_FILE), file=True)] = None
            elif variable is not None:
                found[Reference(variable[1], default=variable[2] is not None)] = None
        return text

    _expand_tree(_parse(raw, problems), "", note, problems)
    return list(found)


def expand(text: str, env: Mapping[str, str], *, files: bool = False) -> str:
    """`text` with its references replaced. Raises `ValueError` saying what is wrong, never showing a value."""

    def replace(match: re.Match[str]) -> str:
        if match.group() == "$${":
            return "${"
        inside, end = match.groups()
        if files and end and inside.startswith(_FILE):
            return _content(Path(inside.removeprefix(_FILE)))
        variable = _VARIABLE.fullmatch(inside)
        if variable is None or not end:
            msg = "malformed `${`: write ${NAME} or ${NAME:-default}, and `$${` for a literal `${`"
            raise ValueError(msg)
        name, default = variable.groups()
        if default is not None and "${" in default:
            msg = f"the default of ${{{name}}} holds another `${{`; nesting is not supported"
            raise ValueError(msg)
        value = env.get(name, default)
        if value is None:
            msg = f"environment variable {name} is not set"
            raise ValueError(msg)
        return value

    return _REFERENCE.sub(replace, text)


def _content(path: Path) -> str:
    """What a file holds, without the line break at its end. Raises `ValueError`, which names the file only."""
    if not path.is_absolute():
        raise ValueError(f"${{file:{path}}} needs an absolute path")
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_FILE_BYTES + 1)
        text = raw.decode()
    except OSError as e:
        raise ValueError(f"{path} cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise ValueError(f"{path} is not UTF-8 text") from e
    if len(raw) > _MOST_FILE_BYTES:
        raise ValueError(f"{path} is larger than {_MOST_FILE_BYTES} bytes")
    return text.removesuffix("\n").removesuffix("\r")


def env_flag(env: Mapping[str, str], name: str) -> bool | None:
    """None when unset or empty; `true`, `1`, `yes` and `on` mean true, anything else false."""
    value = env.get(name, "").strip().lower()
    return None if not value else value in {"true", "1", "yes", "on"}


def _raw(source: Source, env: Mapping[str, str], shown: str | None) -> tuple[bytes, Problems]:
    if isinstance(source, FromVariable):
        # What is no UTF-8 comes as surrogates, and goes back to the bytes it was.
        return env.get(CONFIG_VARIABLE, "").encode("utf-8", "surrogateescape"), Problems(shown or CONFIG_VARIABLE)
    problems = Problems(shown or str(source))
    return _read(source, problems), problems


def _read(path: Path, problems: Problems) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        missing = isinstance(e, FileNotFoundError)
        problems.add("", "there is no such file" if missing else f"cannot be read: {e.strerror}")
        problems.finish()
        raise


def _parse(raw: bytes, problems: Problems) -> dict[str, Any]:
    try:
        return tomllib.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        problems.add("", "is not UTF-8 text")
    except tomllib.TOMLDecodeError as e:
        hint = "; put ${…} inside quotes" if re.search(rb"=\s*\$\{", raw) else ""
        problems.add("", f"is not valid TOML: {e}{hint}")
    except RecursionError:
        problems.add("", "is not valid TOML: nested too deep")
    problems.finish()
    raise AssertionError


def _expand_tree(value: Any, path: str, expand_text: Callable[[str], str], problems: Problems) -> Any:
    if isinstance(value, dict):
        return {k: _expand_tree(v, f"{path}.{k}" if path else k, expand_text, problems) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand_tree(item, f"{path}[{i}]", expand_text, problems) for i, item in enumerate(value)]
    if isinstance(value, str) and "${" in value:
        try:
            return Expanded(expand_text(value))
        except ValueError as e:
            problems.add(path, str(e))
            return _Broken()
    return value


def _kind(value: object) -> str:
    """What was found, by type only: the value itself may be a secret."""
    match value:
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"
