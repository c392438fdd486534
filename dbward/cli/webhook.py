"""`dbward webhook`: whom the server tells, and of what."""

from __future__ import annotations

from typing import Any

import click

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome, explained
from dbward.cli.tables import pairs, table
from dbward.cli.times import shown
from dbward.domain.notifications import DeliveryStatus


@click.group("webhook", short_help="Show webhooks and what they are told.", epilog=EPILOG)
@global_options(hidden=True)
def webhook() -> None:
    """Show webhooks and what they are told. Webhooks are set up in the server's configuration."""


@webhook.command("list", epilog=EPILOG)
@global_options(hidden=True)
@pass_app
def list_(app: App, /) -> Outcome:
    """List webhooks. What may be a credential in an address is not shown."""
    with explained():
        found = app.client.get("/api/webhooks")["webhooks"]
    rows = [(one["id"], one["url"], one["format"], ", ".join(one["events"]) or "all", one["status"]) for one in found]
    app.out.listing(table(("ID", "URL", "FORMAT", "EVENTS", "STATUS"), rows, (0, 60, 0, 40, 0)), "No webhooks.")
    return Outcome({"webhooks": found})


@webhook.command("show", epilog=EPILOG)
@click.argument("id")
@global_options(hidden=True)
@pass_app
def show(app: App, /, id: str) -> Outcome:  # noqa: A002 - the argument's name on the command line
    """Show one webhook."""
    with explained():
        found = app.client.get(path_of(id))
    app.out.data(
        pairs(
            [
                ("Webhook", found["id"]),
                ("URL", found["url"]),
                ("Format", found["format"]),
                ("Events", "\n".join(found["events"]) or "all"),
                ("Signed", "yes" if found["has_secret"] else "no"),
                ("Status", found["status"]),
            ]
        )
    )
    return Outcome(found)


@webhook.command("test", epilog=EPILOG)
@click.argument("id")
@global_options(hidden=True)
@pass_app
def test(app: App, /, id: str) -> Outcome:  # noqa: A002 - same
    """Have the server call a webhook to try it out."""
    with explained():
        made = app.client.post(path_of(id) + "/test")
    app.out.say(f"Called {id}.")
    return Outcome(made)


@webhook.command("deliveries", epilog=EPILOG)
@click.option("--webhook", metavar="ID", help="Only those to this webhook.")
@click.option("--status", type=click.Choice([status.value for status in DeliveryStatus]), help="Only these.")
@click.option(
    "--limit", type=click.IntRange(1, 100), metavar="N", default=50, show_default=True, help="The most to show."
)
@click.option("--offset", type=click.IntRange(0), metavar="N", default=0, help="Leave out that many of the newest.")
@global_options(hidden=True)
@pass_app
def deliveries(app: App, /, **wanted: Any) -> Outcome:
    """List what webhooks are to be told of, newest first."""
    with explained():
        found = app.client.get("/api/webhook-deliveries", wanted)
    rows = [
        (
            one["id"][:8],
            one["webhook_id"],
            one["event_type"],
            one["status"],
            f"{one['attempts']}/{one['max_attempts']}",
            shown(one["created_at"]),
            shown(one["next_retry_at"]),
            one["last_error"],
        )
        for one in found["deliveries"]
    ]
    header = ("ID", "WEBHOOK", "EVENT", "STATUS", "TRIES", "CREATED", "NEXT TRY", "LAST ERROR")
    app.out.listing(table(header, rows, (0, 0, 0, 0, 0, 0, 0, 60)), "No deliveries.")
    if len(rows) < found["total"]:
        app.out.say(f"({len(rows)} of {found['total']}; --limit and --offset for more)")
    return Outcome({"deliveries": found["deliveries"], "total": found["total"]})


def path_of(webhook_id: str) -> str:
    from dbward.client.http import part

    return f"/api/webhooks/{part(webhook_id)}"
