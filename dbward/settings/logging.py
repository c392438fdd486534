"""How much is logged and in which form, for server and agent alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from dbward.settings.load import Table

LEVELS = ("trace", "debug", "info", "warning", "warn", "error")
_SAME = {"trace": "debug", "warn": "warning"}


@dataclass(frozen=True, slots=True)
class LogSettings:
    level: str = "info"
    format: Literal["text", "json"] = "text"


def read_logging(table: Table, env: Mapping[str, str]) -> LogSettings:
    """`level` and `format`; DBWARD_LOG_LEVEL and DBWARD_LOG_FORMAT win over the file."""
    level = table.choice("level", "info", LEVELS)
    form = table.choice("format", "text", ("text", "json"))
    level = _from_env(table, env, "DBWARD_LOG_LEVEL", level, LEVELS)
    form = _from_env(table, env, "DBWARD_LOG_FORMAT", form, ("text", "json"))
    return LogSettings(_SAME.get(level, level), cast(Literal["text", "json"], form))


def _from_env(table: Table, env: Mapping[str, str], name: str, value: str, choices: tuple[str, ...]) -> str:
    given = env.get(name, "").strip().lower()
    if given and given not in choices:
        table.wrong("", f"environment variable {name} is not one of {', '.join(choices)}")
        return value
    return given or value
