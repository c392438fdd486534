"""How much is logged and in which form, for server and agent alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from dbward.settings.load import Table

L = TypeVar("L", bound=str)

LEVELS = ("trace", "debug", "info", "warning", "warn", "error")
_SAME = {"trace": "debug", "warn": "warning"}


@dataclass(frozen=True, slots=True)
class LogSettings:
    level: str = "info"
    format: Literal["text", "json"] = "text"


def read_logging(table: Table, env: Mapping[str, str]) -> LogSettings:
    """`level` and `format`; DBWARD_LOG_LEVEL and DBWARD_LOG_FORMAT win over the file."""
    level = table.choice("level", "info", LEVELS)
    form: Literal["text", "json"] = table.choice("format", "text", ("text", "json"))
    level = _from_env(table, env, "DBWARD_LOG_LEVEL", level, LEVELS)
    form = _from_env(table, env, "DBWARD_LOG_FORMAT", form, ("text", "json"))
    return LogSettings(_SAME.get(level, level), form)


def _from_env(table: Table, env: Mapping[str, str], name: str, value: L, choices: tuple[L, ...]) -> L:
    given = env.get(name, "").strip().lower()
    for choice in choices:
        if given == choice:
            return choice
    if given:
        table.wrong("", f"environment variable {name} is not one of {', '.join(choices)}")
    return value
