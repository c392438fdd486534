"""`dbward audit`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Exit, Outcome
from dbward.cli.tables import clean, table
from dbward.cli.times import Moment, shown

PAGE: Final = 200
"""The most events the server gives at once."""

CSV_FIELDS: Final = (
    "id",
    "event_type",
    "event_category",
    "outcome",
    "actor_id",
    "created_at",
    "environment",
    "database_name",
    "operation",
    "client_ip",
    "resource_type",
    "resource_id",
    "request_id",
    "event_hash",
    "reason",
)


F = TypeVar("F", bound=Callable[..., Any])

_FILTERS: Final = (
    click.option("--user", "actor_id", metavar="ID", help="Only what this person or agent did."),
    click.option("--request", "request_id", metavar="ID", help="Only what concerns this request (its whole id)."),
    click.option("--operation", metavar="NAME", help="In full: execute_select, execute_dml, migrate_up …"),
    click.option("--event-type", metavar="NAME", help="Such as request.approved."),
    click.option("--category", "event_category", metavar="NAME", help="Such as approval, execution, token."),
    click.option(
        "--outcome",
        "--status",
        "outcome",
        type=click.Choice(["success", "denied", "failure", "info"]),
        help="Only what ended so.",
    ),
    click.option("--since", type=Moment(), metavar="TIME", help="2026-05-01, 2026-05-01T12:00:00Z, 2h, 7d …"),
    click.option("--until", type=Moment(end=True), metavar="TIME", help="Likewise; a date means its end."),
)


def _filters(function: F) -> F:
    for option in reversed(_FILTERS):
        function = option(function)
    return function


@click.group("audit", epilog=EPILOG, invoke_without_command=True)
@click.option("--verify", is_flag=True, help="The same as `audit verify`.")
@click.option("--limit", type=click.IntRange(1), metavar="N", default=50, show_default=True, help="The most to show.")
@_filters
@click.option("--result-format", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@global_options(hidden=True)
@click.pass_context
def audit(ctx: click.Context, /, limit: int, result_format: str, *, verify: bool, **filters: Any) -> Outcome | None:
    """Search the audit log, newest first. --database and -e choose among the events."""
    app = ctx.find_object(App)
    assert app is not None
    if ctx.invoked_subcommand is not None:
        given = [p for p in ctx.command.params if ctx.get_parameter_source(p.name or "") is ParameterSource.COMMANDLINE]
        if misplaced := [p.opts[0] for p in given if p.expose_value]:
            raise click.UsageError(f"{misplaced[0]} belongs after `{ctx.invoked_subcommand}`, if it takes it")
        return None
    if verify:
        return _verify(app)
    _add_place(app, filters)
    found: list[dict[str, Any]] = []
    answer: dict[str, Any] = {}
    while len(found) < limit:
        size = min(PAGE, limit - len(found))
        before = {"before_seq": found[-1]["seq"]} if found else {}
        page = app.client.get("/api/audit/events", {"limit": size, **before, **filters})
        answer = answer or page
        found += page["events"]
        if len(page["events"]) < size:
            break
    total = answer["total"]
    _show(app, found, result_format)
    if not found:
        app.out.say("No events.")
    elif total > len(found):
        more = "" if answer["total_is_exact"] else "more than "
        app.out.say(f"({len(found)} of {more}{total}; --limit for more)")
    return Outcome({"events": found, "total": total})


@audit.command("export", epilog=EPILOG)
@click.option("--output", metavar="FILE", required=True, help="Where to, for example /dev/stdout.")
@click.option("--result-format", type=click.Choice(["ndjson", "csv"]), default="ndjson", show_default=True)
@_filters
@global_options(hidden=True)
@pass_app
def export(app: App, /, output: str, result_format: str, **filters: Any) -> Outcome:
    """Write the audit log to a file, oldest first, complete up to now. The file is there only once it is complete."""
    from dbward.cli.auditfile import download

    _add_place(app, filters)
    return download(app, {"format": result_format, **filters}, output)


@audit.command("verify", epilog=EPILOG)
@click.option("--file", "file", metavar="FILE", help="An export in NDJSON to verify without the server.")
@click.option("--keys", "ring", metavar="FILE", help="With --file: a copy of the server's audit-keys.json.")
@global_options(hidden=True)
@pass_app
def verify(app: App, /, file: str | None, ring: str | None) -> Outcome:
    """Check the whole chain: of the server, or of an export."""
    if (file is None) != (ring is None):
        raise click.UsageError("--file and --keys go together")
    if file is None or ring is None:
        return _verify(app)
    from dbward.cli.auditfile import verify_export

    return verdict_of(app, verify_export(app, file, ring))


def _add_place(app: App, filters: dict[str, Any]) -> None:
    for name in ("database", "environment"):
        filters[name] = app.options.get(name)


def _show(app: App, events: list[dict[str, Any]], form: str) -> None:
    if not app.out.human:
        return
    if form == "json":
        app.out.data([json.dumps(events, indent=2, ensure_ascii=True)])
    elif form == "csv":
        _write_csv(app, events)
    else:
        header = ("ID", "TIMESTAMP", "USER", "EVENT", "TARGET", "OUTCOME", "REQUEST", "DETAIL")
        rows = [
            (
                event["id"][:8],
                shown(event["created_at"]),
                event["actor_id"],
                event["event_type"],
                "/".join(filter(None, (event.get("database_name"), event.get("environment")))),
                event["outcome"],
                (event.get("request_id") or "")[:8],
                " ".join((event.get("detail_raw") or event.get("detail_fingerprint") or "").split())
                or event.get("reason"),
            )
            for event in events
        ]
        app.out.data(table(header, rows, limits=(0, 0, 24, 0, 30, 0, 0, 40)))


def _write_csv(app: App, events: list[dict[str, Any]]) -> None:
    """Bytes for a program stay as they are; a terminal is protected."""
    writer = csv.writer(app.env.stdout, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for event in events:
        cells = ["" if event.get(field) is None else str(event[field]) for field in CSV_FIELDS]
        writer.writerow([clean(cell) for cell in cells] if app.env.shows else cells)


def _verify(app: App) -> Outcome:
    """Reading the whole chain may take a while on a long one."""
    from dbward.cli.spinner import Spinner

    with Spinner(app.out, "verifying the chain"):
        verdict = app.client.get("/api/audit/verify", answer_secs=3600)
    return verdict_of(app, verdict)


def verdict_of(app: App, verdict: dict[str, Any]) -> Outcome:
    """What a verdict, as the server gives it, comes to."""
    count = verdict["total_events"]
    if verdict["valid"]:
        app.out.say(f"The chain is whole: {count:,} events, {verdict.get('checkpoints') or 0} signed checkpoints.")
        return Outcome(verdict)
    at = f" at event {verdict['first_broken_id']}" if verdict.get("first_broken_id") else ""
    why = f": {verdict['reason'].replace('_', ' ')}" if verdict.get("reason") else ""
    message = f"the audit chain is BROKEN{at}{why}"
    hint = "keep the state database and its backups as they are, and find out who could write to them"
    return Outcome(verdict, Exit.FAILED, "integrity_violation", message, hint)
