"""Asking before a statement runs: when it changes something, is an emergency, or goes to production."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dbward.cli.app import App
from dbward.cli.tables import clean, pairs
from dbward.errors import RateLimited, Refused, Unavailable

LINES_SHOWN: Final = 200
LAST_SHOWN: Final = 20

_COMMENTS: Final = re.compile(r"\s+|--[^\n]*(?:\n|$)|/\*(?!\s*M?!).*?\*/|\(", re.DOTALL)
_WORD: Final = re.compile(r"[A-Za-z]+")
_READS: Final = frozenset({"select", "with", "values", "table", "show", "explain", "describe", "desc"})
_CHANGES: Final = re.compile(r"\b(insert|update|delete|merge|replace|into|analyze|call)\b|;\s*\S", re.IGNORECASE)
_CALLED: Final = re.compile(r"([^\s(,=<>+*|-]+)\s*\(")
_HARMLESS: Final = re.compile(
    "all|and|any|as|avg|by|cast|coalesce|count|distinct|exists|filter|from|in|join|length|lower|max|min|not|nullif|on|or|"
    "over|round|select|some|sum|trim|union|upper|using|values|when|where",
    re.IGNORECASE,
)
"""What may stand before a bracket in a statement that surely only reads; of anything else the server is asked."""


def confirm(app: App, sql: str, target: tuple[str, str], *, emergency: bool) -> None:
    """Have a person look at what would run, where somebody should. Raises `Stop` when they say no, or are not there.

    This only decides about the question. What may run is the server's decision, here as everywhere.
    """
    special = emergency or is_production(target[1])
    if app.yes or (not special and surely_reads(sql)):
        return
    found = _judged(app, sql, target)
    if isinstance(found, dict) and not emergency:
        if found["status"] == "blocked":
            return  # the server refuses it, and says why better than a question about it could
        if not special and found["classification"]["operation"] == "execute_select":
            return
    how = "WITHOUT APPROVAL " if emergency else ""
    shown = pairs([*_verdict(found), ("SQL", excerpt(sql))])
    app.confirm("\n".join([*shown, f"Run this {how}on {clean('/'.join(target))}?"]))


def is_production(environment: str) -> bool:
    return "prod" in environment.lower()


def surely_reads(sql: str) -> bool:
    """Whether it can be seen from here that a statement changes nothing: one read, of no unknown function."""
    at = 0
    while (skipped := _COMMENTS.match(sql, at)) is not None and skipped.end() > at:
        at = skipped.end()
    word = _WORD.match(sql, at)
    if word is None or word.group().lower() not in _READS or _CHANGES.search(sql, at):
        return False
    called = _CALLED.findall(sql, at)
    hidden = "(" in sql[at:] and ("--" in sql[at:] or "#" in sql[at:])  # a comment may stand between name and bracket
    return not hidden and all(_HARMLESS.fullmatch(name) for name in called)


def excerpt(sql: str) -> str:
    """The SQL as it stands. Lines are left out only of a very long one, from its middle, and are counted."""
    lines = sql.strip().splitlines()
    if len(lines) > LINES_SHOWN:
        left_out = f"… {len(lines) - LINES_SHOWN:,} lines are not shown …"
        lines = [*lines[: LINES_SHOWN - LAST_SHOWN], left_out, *lines[-LAST_SHOWN:]]
    return "\n".join(map(clean, lines))


def _judged(app: App, sql: str, target: tuple[str, str]) -> dict[str, Any] | str:
    """What a preflight says, or why there is none: not everybody may make one, nor as many as they like."""
    body = {"database": target[0], "environment": target[1], "sql": sql, "include_explain": False}
    try:
        answer: dict[str, Any] = app.client.post("/api/preflight", body)
    except (Refused, RateLimited, Unavailable) as e:
        return e.message
    return answer


def _verdict(found: Mapping[str, Any] | str) -> Iterator[tuple[str, object]]:
    from dbward.cli.preflight import entries

    if isinstance(found, str):
        yield "Preflight", f"not possible: {found}"
    else:
        yield from entries(found)
