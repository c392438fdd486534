"""`dbward execute`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import click

from dbward.cli import follow, submitting
from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome
from dbward.cli.input import sql_file, sql_of
from dbward.cli.tables import clean, cut

_COMMENTS: Final = re.compile(r"\s+|--[^\n]*(?:\n|$)|/\*(?!\s*M?!).*?\*/|\(", re.DOTALL)
_WORD: Final = re.compile(r"[A-Za-z]+")
_READS: Final = frozenset({"select", "with", "values", "table", "show", "explain", "describe", "desc"})
_CHANGES: Final = re.compile(r"\b(insert|update|delete|merge|replace|into|analyze|call)\b|;\s*\S", re.IGNORECASE)


@click.command("execute", epilog=EPILOG)
@click.argument("sql", required=False)
@sql_file
@submitting.emergency_options
@submitting.waiting_options
@follow.result_options
@click.option("--no-result-store", is_flag=True, help="Do not keep the result on the server.")
@submitting.record_options
@global_options(hidden=True)
@pass_app
def execute(
    app: App,
    /,
    sql: str | None,
    file: str | None,
    timeout: int | None,
    output: Path | None,
    result_format: Any,
    *,
    wait: bool,
    no_save: bool,
    **asked: Any,
) -> Outcome:
    """Submit a statement and wait for its result. SQL may be `-` for standard input.

    Exit status: 0 it ran; 1 it was refused or failed; 2 it waits for an approval or for being resumed; 124 --timeout;
    130 Ctrl-C.
    """
    submitting.check_emergency(asked)
    text = sql_of(app, sql, file)
    settings = app.settings
    target = (settings.database(), settings.environment())
    wishes = follow.Wishes(output, result_format, timeout, wait, keep=not no_save)
    if output is not None:
        from dbward.cli.render import check_writable

        check_writable(app.env.cwd / output.expanduser())
    if needs_asking(text, target[1], emergency=asked["emergency"]):
        app.confirm(_question(text, target, emergency=asked["emergency"]))
    made = submitting.submit(app, submitting.body("execute_query", target, text, asked))
    if asked["no_result_store"]:
        app.out.warn("the result is not stored on the server: it can be read now, and not again")
    return follow.follow(app, made["id"], made["status"], wishes, made.get("approvers"))


def needs_asking(sql: str, environment: str, *, emergency: bool) -> bool:
    """Whether a person should be asked first. A guess that only decides about the question; the server decides."""
    return emergency or "prod" in environment or not _only_reads(sql)


def _only_reads(sql: str) -> bool:
    at = 0
    while (skipped := _COMMENTS.match(sql, at)) is not None and skipped.end() > at:
        at = skipped.end()
    word = _WORD.match(sql, at)
    return word is not None and word.group().lower() in _READS and _CHANGES.search(sql, at) is None


def _question(sql: str, target: tuple[str, str], *, emergency: bool) -> str:
    shown = [cut(clean(line), 100) for line in sql.strip().splitlines()]
    if len(shown) > 10:
        shown = [*shown[:9], f"… and {len(shown) - 9} more lines"]
    lines = "\n".join(f"  {line}" for line in shown)
    how = "WITHOUT APPROVAL " if emergency else ""
    return f"{lines}\nRun this {how}on {'/'.join(target)}?"
