"""Advice on PostgreSQL DDL from `squawk`, a linter for migrations. It never blocks anything, and nothing waits for it.

The program runs on the text without comments, because a comment can switch it off, and with an empty configuration of
its own, because it would look for one in the folder it runs in and above.
"""

from __future__ import annotations

import logging
import subprocess
import sysconfig
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import Final

from pydantic import BaseModel, TypeAdapter, ValidationError

from dbward.domain.model import Action
from dbward.domain.review_rules import SQUAWK
from dbward.domain.sql.lex import words
from dbward.domain.sql.statements import Classification, Finding, Kind, Statement

PROGRAM: Final = Path(sysconfig.get_path("scripts")) / "squawk"
TIMEOUT: Final = timedelta(seconds=2)
"""It needs a hundredth of that for ordinary texts."""

_RULES: Final = words(
    """
    adding-field-with-default ban-truncate-cascade identifier-too-long require-concurrent-partition-detach
    require-concurrent-reindex
    """
)
"""What it knows beyond our own rules. Its opinions on style (types, IF EXISTS, time-outs) fit no ordinary statement."""

_PG_VERSION: Final = "14"
"""The oldest that is still maintained: later ones lock no more than it does."""

_BETWEEN: Final = ";\n"

_log = logging.getLogger(__name__)


class _Said(BaseModel):
    """One finding as squawk prints it. `line` counts from 0, `column` as well, in bytes."""

    line: int
    column: int
    message: str
    rule_name: str
    help: str | None = None


_SAID: Final = TypeAdapter(list[_Said])


def advice(
    classification: Classification, *, program: Path = PROGRAM, timeout: timedelta = TIMEOUT
) -> tuple[Finding, ...]:
    """Warnings about the PostgreSQL DDL of a text; rules are named `squawk:<rule>`. None for anything else.

    Never raises: a program that is missing, late or talks nonsense leaves no advice and a line in the log.
    """
    asked = [(index, it) for index, it in enumerate(classification.statements) if _is_postgresql_ddl(it)]
    if not asked:
        return ()
    text = _BETWEEN.join(statement.text for _, statement in asked)
    try:
        said = _SAID.validate_json(_run(text, program, timeout))
    except (OSError, subprocess.SubprocessError, ValidationError) as e:
        _log.warning("squawk gave no advice: %s", type(e).__name__)
        return ()
    return tuple(dict.fromkeys(_findings(said, text, asked)))


def _is_postgresql_ddl(statement: Statement) -> bool:
    return statement.kind in {Kind.DDL, Kind.DESTRUCTIVE_DDL} and isinstance(statement.tree, dict)


def _run(text: str, program: Path, timeout: timedelta) -> bytes:
    """What it prints. It exits with 1 when it has findings, so its status says nothing."""
    return subprocess.run(  # noqa: S603 - the program of our own installation, and no argument comes from outside
        [program, "--reporter", "json", "--config", "/dev/null", "--pg-version", _PG_VERSION],
        input=text.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=timeout.total_seconds(),
        cwd="/",
        env={},
        check=False,
    ).stdout


def _findings(said: Sequence[_Said], text: str, asked: Sequence[tuple[int, Statement]]) -> Iterator[Finding]:
    lines = text.split("\n")
    line_starts = [0, *accumulate(len(line) + 1 for line in lines)]
    starts = [0, *accumulate(len(statement.text) + len(_BETWEEN) for _, statement in asked)]
    for one in said:
        if one.rule_name not in _RULES or not 0 <= one.line < len(lines):
            continue
        at = line_starts[one.line] + len(lines[one.line].encode()[: max(one.column, 0)].decode(errors="ignore"))
        which = min(bisect_right(starts, at), len(asked)) - 1
        index, statement = asked[which]
        yield Finding(
            rule=f"{SQUAWK}:{one.rule_name}",
            action=Action.WARN,
            message=one.message,
            hint=one.help or "",
            statement_index=index,
            position=min(at - starts[which], len(statement.text) - 1) + 1,
        )
