"""`dbward request`: list, show, decide, cancel, resume; read results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from dbward.cli import follow, requestview
from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome, explained
from dbward.cli.follow import path_of, short
from dbward.cli.output import given, picked
from dbward.cli.tables import pairs, table
from dbward.cli.times import Moment, shown
from dbward.domain.model import Status
from dbward.errors import Missing

F = TypeVar("F", bound=Callable[..., Any])

STATUSES = click.Choice([status.value for status in Status])
PAGE = 100
"""The most requests the server gives at once."""


@click.group("request", epilog=EPILOG)
@global_options(hidden=True)
def request() -> None:
    """List, show, decide, cancel and resume requests; read results. Ids may be shortened to a unique beginning."""


@request.command("list", epilog=EPILOG)
@click.option("--limit", type=click.IntRange(1), metavar="N", default=50, show_default=True, help="The most to show.")
@click.option("--all", "everything", is_flag=True, help="Show all of them, however many.")
@click.option("--status", type=STATUSES, metavar="STATUS", help="Only those in this status: pending, approved …")
@click.option("--user", metavar="ID", help="Only those of this requester.")
@click.option("--operation", metavar="NAME", help="Only those of this operation.")
@click.option("--since", type=Moment(), metavar="TIME", help="Only those made since: 2026-05-01, 2h, 7d …")
@click.option("--pending-for-me", is_flag=True, help="Only those that wait for your decision.")
@global_options(hidden=True)
@pass_app
def list_(app: App, /, limit: int, *, everything: bool, pending_for_me: bool, **filters: Any) -> Outcome:
    """List requests you may see, newest first. --database and -e choose among them."""
    for name in ("database", "environment"):
        filters[name] = app.options.get(name)
    found: list[dict[str, Any]] = []
    total = 0
    while everything or len(found) < limit:
        size = PAGE if everything else min(PAGE, limit - len(found))
        page = {"limit": size, "offset": len(found), "pending_for_me": pending_for_me or None, **filters}
        answer = app.client.get("/api/requests", page)
        found += answer["requests"]
        total = answer["total"]
        if len(answer["requests"]) < size:
            break
    app.out.data(requestview.listed(found))
    if not found:
        app.out.say("No requests.")
    elif total > len(found):
        app.out.say(f"({len(found)} of {total}; --limit or --all for more)")
    return Outcome({"requests": found, "total": total})


@request.command("show", epilog=EPILOG)
@click.argument("id")
@global_options(hidden=True)
@pass_app
def show(app: App, /, id: str) -> Outcome:  # noqa: A002 - the argument's name on the command line
    """Show one request: what it asks for, who decided what, what became of it."""
    with explained():
        found = app.client.get(path_of(id))
    app.out.data(pairs(requestview.entries(found)))
    return Outcome(found)


@request.command("approve", epilog=EPILOG)
@click.argument("id")
@click.option("--comment", metavar="TEXT", help="Kept on the record.")
@click.option("--as", "selector", metavar="SELECTOR", help="As which of your roles or groups, when several match.")
@global_options(hidden=True)
@pass_app
def approve(app: App, /, id: str, comment: str | None, selector: str | None) -> Outcome:  # noqa: A002 - same
    """Approve a request that waits for you."""
    with explained():
        made = app.client.post(path_of(id, "approve"), given(comment=comment, selector=selector))
    done = made["status"] == "approved"
    step, total = made["step_completed"], made["total_steps"]
    app.out.say(f"Approved {short(made['id'])} as {made['matched_selector']}; {step} of {total} steps done.")
    app.out.hint(
        f"its requester runs it: dbward request resume {short(made['id'])}"
        if done
        else f"it still needs others: dbward request show {short(made['id'])}"
    )
    data = {"id": made["id"], "step": step, "total_steps": total, "fully_approved": done}
    return Outcome({**data, "matched_selector": made["matched_selector"]})


@request.command("reject", epilog=EPILOG)
@click.argument("id")
@click.option("--reason", "--comment", "comment", metavar="TEXT", help="Why; the requester sees it.")
@global_options(hidden=True)
@pass_app
def reject(app: App, /, id: str, comment: str | None) -> Outcome:  # noqa: A002 - same
    """Reject a request that waits for you. One rejection ends it."""
    with explained():
        made = app.client.post(path_of(id, "reject"), given(comment=comment))
    app.out.say(f"Rejected {short(made['id'])}.")
    return Outcome({"id": made["id"]})


@request.command("cancel", epilog=EPILOG)
@click.argument("id")
@click.option("--reason", metavar="TEXT", help="Why; required for somebody else's request.")
@global_options(hidden=True)
@pass_app
def cancel(app: App, /, id: str, reason: str | None) -> Outcome:  # noqa: A002 - same
    """Cancel a request, and stop its statement if it is running."""
    with explained():
        if app.can_ask and not app.yes and app.client.get(path_of(id))["status"] == "running":
            app.confirm("The statement is running. Stop it in the database?")
        made = app.client.post(path_of(id, "cancel"), given(reason=reason))
    app.out.say(f"Cancelled {short(made['id'])}.")
    return Outcome({"id": made["id"]})


@request.command("resume", epilog=EPILOG)
@click.argument("id")
@click.option("--reason", metavar="TEXT", help="Why; required for somebody else's request.")
@click.option("--timeout", type=click.IntRange(min=0), metavar="SECS", help="Wait no longer; the request goes on.")
@follow.result_options
@global_options(hidden=True)
@pass_app
def resume(
    app: App,
    /,
    id: str,  # noqa: A002 - same
    reason: str | None,
    timeout: int | None,
    output: Path | None,
    result_format: Any,
    *,
    no_save: bool,
) -> Outcome:
    """Run an approved request, or an executed, failed or lost one again, and wait for its result."""
    wishes = follow.Wishes(output, result_format, timeout, keep=not no_save)
    if output is not None:
        from dbward.cli.render import check_writable

        check_writable(app.env.cwd / output.expanduser())
    with explained(conflict="not_ready"):
        known = app.client.get(path_of(id))
        if known["status"] == "execution_lost" and known["operation"] != "execute_select":
            app.confirm(
                f"{requestview.statement(known)}\nThe agent was lost while it ran this, which may have taken effect. "
                "Run it again?"
            )
        made = app.client.post(path_of(known["id"], "resume"), given(reason=reason))
    return follow.follow(app, made["id"], made["status"], wishes)


@request.command("result", epilog=EPILOG)
@click.argument("id")
@click.option("--execution", "execution_id", metavar="ID", help="Of this execution instead of the latest.")
@click.option("--list", "listing", is_flag=True, help="List the executions instead.")
@click.option("--limit", type=click.IntRange(1, 100), metavar="N", help="With --list: the most to show (20).")
@follow.result_options
@global_options(hidden=True)
@pass_app
def result(
    app: App,
    /,
    id: str,  # noqa: A002 - same
    execution_id: str | None,
    limit: int | None,
    output: Path | None,
    result_format: Any,
    *,
    listing: bool,
    no_save: bool,
) -> Outcome:
    """Print a stored result, or list what was executed."""
    if listing and (execution_id or output or result_format):
        raise click.UsageError("--list goes with --limit only")
    if limit and not listing:
        raise click.UsageError("--limit goes with --list")
    if listing:
        return _executions(app, id, limit or 20)
    wishes = follow.Wishes(output, result_format, keep=not no_save)
    if output is not None:
        from dbward.cli.render import check_writable

        check_writable(app.env.cwd / output.expanduser())
    with explained():
        found = follow.fetched(app, path_of(id, "result", "content"), given(execution_id=execution_id))
    if found is None:
        raise Missing("there is no result yet", code="not_found")
    return follow.deliver(app, str(found.head.get("request_id") or id), found, wishes)


def _executions(app: App, request_id: str, limit: int) -> Outcome:
    with explained():
        found = app.client.get(path_of(request_id, "executions"), {"limit": limit})["executions"]
    app.out.data(
        table(
            ("ID", "STATUS", "AGENT", "STORED", "FINISHED", "ERROR"),
            [
                (
                    item["id"],
                    item["status"],
                    item.get("agent_id"),
                    "yes" if item["has_stored_result"] else "no",
                    shown(item.get("finished_at")),
                    (item.get("error_message") or "").partition("\n")[0],
                )
                for item in found
            ],
            limits=(0, 0, 0, 0, 0, 60),
        )
    )
    if not found:
        app.out.say("No executions.")
    keys = ("id", "status", "agent_id", "started_at", "has_stored_result", "finished_at", "error_message")
    return Outcome({"executions": [picked(item, *keys) for item in found]})


@request.command("results", epilog=EPILOG)
@click.option(
    "--limit", type=click.IntRange(1, 100), metavar="N", default=50, show_default=True, help="The most to show."
)
@global_options(hidden=True)
@pass_app
def results(app: App, /, limit: int) -> Outcome:
    """List the stored results you may read, newest first."""
    found = app.client.get("/api/results", {"limit": limit})["results"]
    app.out.data(
        table(
            ("ID", "DATABASE", "ENV", "OPERATION", "REQUESTER", "ROWS", "STORED AT"),
            [
                (
                    short(item["request_id"]),
                    item["database"],
                    item["environment"],
                    item["operation"],
                    item.get("requester"),
                    item.get("row_count"),
                    shown(item["stored_at"]),
                )
                for item in found
            ],
        )
    )
    if not found:
        app.out.say("No stored results.")
    return Outcome({"results": found})
