"""`dbward execute`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dbward.cli import asking, follow, submitting
from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome
from dbward.cli.input import sql_file, sql_of


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
    asking.confirm(app, text, target, emergency=asked["emergency"])
    made = submitting.submit(app, submitting.body("execute_query", target, text, asked))
    if asked["no_result_store"]:
        app.out.warn("the result is not stored on the server: it can be read now, and not again")
    return follow.follow(app, made["id"], made["status"], wishes, made.get("approvers"))
