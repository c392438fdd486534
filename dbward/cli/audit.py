"""`dbward audit`."""

from __future__ import annotations

import csv
import json
from typing import Any, Final

import click

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


@click.command("audit", epilog=EPILOG)
@click.option("--verify", is_flag=True, help="Check the whole chain instead of searching.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The most to show.")
@click.option("--user", "actor_id", metavar="ID", help="Only what this person or agent did.")
@click.option("--request", "request_id", metavar="ID", help="Only what concerns this request (its whole id).")
@click.option("--operation", metavar="NAME")
@click.option("--event-type", metavar="NAME", help="Such as request.approved.")
@click.option("--category", "event_category", metavar="NAME", help="Such as approval, execution, token.")
@click.option("--outcome", "--status", "outcome", type=click.Choice(["success", "denied", "failure", "info"]))
@click.option("--since", type=Moment(), metavar="TIME", help="2026-05-01, 2026-05-01T12:00:00Z, 2h, 7d …")
@click.option("--until", type=Moment(end=True), metavar="TIME", help="Likewise; a date means its end.")
@click.option("--result-format", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@global_options(hidden=True)
@pass_app
def audit(app: App, /, limit: int, result_format: str, *, verify: bool, **filters: Any) -> Outcome:
    """Search the audit log, newest first, or verify its chain. --database and -e choose among the events."""
    if verify:
        return _verify(app)
    for name in ("database", "environment"):
        filters[name] = app.options.get(name)
    found: list[dict[str, Any]] = []
    total = 0
    while len(found) < limit:
        size = min(PAGE, limit - len(found))
        answer = app.client.get("/api/audit/events", {"limit": size, "offset": len(found), **filters})
        found += answer["events"]
        total = answer.get("total", len(found))
        if len(answer["events"]) < size:
            break
    _show(app, found, result_format)
    if not found:
        app.out.say("No events.")
    elif total > len(found):
        app.out.say(f"({len(found)} of {total}; --limit for more)")
    return Outcome({"events": found, "total": total})


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
    count = verdict["total_events"]
    if verdict["valid"]:
        app.out.say(f"The chain is whole: {count:,} events, {verdict.get('checkpoints') or 0} signed checkpoints.")
        return Outcome(verdict)
    at = f" at event {verdict['first_broken_id']}" if verdict.get("first_broken_id") else ""
    why = f": {verdict['reason'].replace('_', ' ')}" if verdict.get("reason") else ""
    message = f"the audit chain is BROKEN{at}{why}"
    hint = "keep the state database and its backups as they are, and find out who could write to them"
    return Outcome(verdict, Exit.FAILED, "integrity_violation", message, hint)
