"""`dbward user`: the people the server knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome, explained
from dbward.cli.lists import names_option
from dbward.cli.output import given, picked
from dbward.cli.tables import counted, pairs, table
from dbward.cli.times import shown
from dbward.errors import Misconfigured


@click.group("user", short_help="Add, change, suspend and remove people.", epilog=EPILOG)
@global_options(hidden=True)
def user() -> None:
    """Add, change, suspend and remove people. Those of the server's configuration are changed there."""


@user.command("add", epilog=EPILOG)
@click.argument("id")
@names_option("--role", "roles", help="What they may do, separated by commas; else the default role.")
@names_option("--group", "groups", help="The groups they are in.")
@click.option("--display-name", metavar="TEXT", help="What they are called.")
@click.option("--email", metavar="ADDRESS", help="Where they can be written to.")
@global_options(hidden=True)
@pass_app
def add(app: App, /, id: str, **wanted: Any) -> Outcome:  # noqa: A002 - the argument's name on the command line
    """Add a person and print their first token: this is the only time that it is shown."""
    with explained():
        made = app.client.post("/api/users", given(id=id, **wanted))
    app.out.data([made["token"]])
    app.out.say("\n".join(pairs([("User", made["id"]), *_memberships(made)])))
    app.out.hint("hand the token over now: it is not shown again")
    return Outcome(picked(made, "token", "id", "roles", "groups"))


@user.command("update", epilog=EPILOG)
@click.argument("id")
@names_option("--role", "roles", help="Have exactly these roles.")
@names_option("--add-role", "add_roles", help="Have these as well.")
@names_option("--rm-role", "rm_roles", help="Have these no longer.")
@names_option("--group", "groups", help="Be in exactly these groups.")
@names_option("--add-group", "add_groups", help="Be in these as well.")
@names_option("--rm-group", "rm_groups", help="Be in these no longer.")
@click.option("--slack-user-id", metavar="ID", help="Their member id in Slack; an empty one takes it away.")
@click.option("--display-name", metavar="TEXT", help="An empty one takes it away.")
@click.option("--email", metavar="ADDRESS", help="An empty one takes it away.")
@global_options(hidden=True)
@pass_app
def update(app: App, /, id: str, **wanted: Any) -> Outcome:  # noqa: A002 - same
    """Change a person's roles, groups, name or addresses; what is not given stays."""
    body = given(**wanted)
    if not body:
        raise Misconfigured("nothing to change", hint="pass for example --add-role NAME; see dbward user update --help")
    with explained():
        made = app.client.patch(path_of(id), body)
    app.out.say(f"Changed {made['id']}.")
    return Outcome({"id": made["id"]})


@user.command("show", epilog=EPILOG)
@click.argument("id")
@global_options(hidden=True)
@pass_app
def show(app: App, /, id: str) -> Outcome:  # noqa: A002 - same
    """Show a person. Oneself may always be seen."""
    with explained():
        found = app.client.get(path_of(id))
    app.out.data(
        pairs(
            [
                ("User", found["id"]),
                ("Name", found["display_name"]),
                ("Email", found["email"]),
                ("Slack", found["slack_user_id"]),
                ("Status", found["status"]),
                *_memberships(found),
                ("Managed by", _SOURCES.get(found["source"], found["source"])),
                ("Last seen", shown(found["last_seen_at"]) or "never"),
                ("Created", shown(found["created_at"])),
            ]
        )
    )
    return Outcome(found)


@user.command("list", epilog=EPILOG)
@global_options(hidden=True)
@pass_app
def list_(app: App, /) -> Outcome:
    """List people, newest first."""
    with explained():
        found = app.client.get("/api/users")["users"]
    rows = [
        (
            one["id"],
            one["display_name"],
            one["status"],
            ", ".join(one["roles"]),
            ", ".join(one["groups"]),
            one["source"],
            shown(one["last_seen_at"]) or "never",
        )
        for one in found
    ]
    header = ("ID", "NAME", "STATUS", "ROLES", "GROUPS", "SOURCE", "LAST SEEN")
    app.out.listing(table(header, rows, limits=(0, 24, 0, 30, 30, 0, 0)), "No users.")
    return Outcome({"users": found})


@user.command("suspend", epilog=EPILOG)
@click.argument("id")
@click.option("--reason", metavar="TEXT", help="Why; it goes on the record.")
@global_options(hidden=True)
@pass_app
def suspend(app: App, /, id: str, reason: str | None) -> Outcome:  # noqa: A002 - same
    """Shut a person out at once: their tokens are revoked and their open requests cancelled."""
    with explained():
        made = app.client.post(path_of(id, "suspend"), given(reason=reason))
    tokens = counted(made["revoked_tokens"], "token")
    requests = counted(len(made["cancelled_requests"]), "request")
    app.out.say(f"Suspended {made['id']}: {tokens} revoked, {requests} cancelled.")
    _warned(app, made)
    return Outcome(picked(made, "id", "revoked_tokens", "cancelled_requests"))


@user.command("activate", epilog=EPILOG)
@click.argument("id")
@global_options(hidden=True)
@pass_app
def activate(app: App, /, id: str) -> Outcome:  # noqa: A002 - same
    """Let a suspended person in again. Their old tokens stay revoked."""
    with explained():
        made = app.client.post(path_of(id, "activate"))
    app.out.say(f"Activated {made['id']}.")
    app.out.hint(f"a new first token: dbward user reissue-initial-token {made['id']}")
    _warned(app, made)
    return Outcome({"id": made["id"]})


@user.command("rm", epilog=EPILOG)
@click.argument("id")
@click.option("--reason", metavar="TEXT", help="Why; it goes on the record.")
@global_options(hidden=True)
@pass_app
def rm(app: App, /, id: str, reason: str | None) -> Outcome:  # noqa: A002 - same
    """Remove a person for good. What they did stays on the record, and nobody else can be given their id."""
    with explained():
        made = app.client.delete(path_of(id), given(reason=reason))
    app.out.say(f"Removed {made['id']}.")
    return Outcome({"id": made["id"]})


@user.command("reissue-initial-token", epilog=EPILOG)
@click.argument("id")
@global_options(hidden=True)
@pass_app
def reissue(app: App, /, id: str) -> Outcome:  # noqa: A002 - same
    """Make a person's first token anew and print it, unless it was delivered to them. The old one is revoked."""
    with explained():
        made = app.client.post(path_of(id, "reissue-initial-token"))
    if made["token"] is not None:
        app.out.data([made["token"]])
        app.out.hint("hand it over now: it is not shown again")
    if made["delivery_status"] == "delivered":
        app.out.say("It was delivered to them.")
    elif made["delivery_status"] == "failed":
        app.out.warn("it could not be delivered to them")
    return Outcome({"id": id, **picked(made, "token", "delivery_status", "reissued_token_id")})


def path_of(user_id: str, *more: str) -> str:
    from dbward.client.http import part

    return "/".join(["/api/users", part(user_id), *more])


_SOURCES: Mapping[str, str] = {
    "bootstrap": "the first start of the server",
    "config": "the server's configuration",
    "api": "dbward user and the API",
    "oidc": "the identity provider",
}


def _memberships(one: Mapping[str, Any]) -> list[tuple[str, object]]:
    return [("Roles", ", ".join(one["roles"]) or "none"), ("Groups", ", ".join(one["groups"]) or "none")]


def _warned(app: App, made: Mapping[str, Any]) -> None:
    if made.get("warning"):
        app.out.warn(made["warning"])
