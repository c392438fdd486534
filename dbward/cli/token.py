"""`dbward token`: the tokens of people and agents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome, explained
from dbward.cli.lists import names_option
from dbward.cli.output import given, picked
from dbward.cli.tables import pairs, table
from dbward.cli.times import Moment, shown

AGENT = "agent"
TYPES = click.Choice(("user", AGENT))


@click.group("token", short_help="Make, list, inspect and revoke tokens.", epilog=EPILOG)
@global_options(hidden=True)
def token() -> None:
    """Make, list, inspect and revoke tokens. Ids may be shortened to a unique beginning."""


@token.command("create", epilog=EPILOG)
@click.option("--subject", metavar="ID", help="Whose it is: you, unless it is for an agent.")
@click.option("--subject-type", type=TYPES, default="user", show_default=True)
@names_option("--scope-roles", help="Only these of your roles, separated by commas; else all you have.")
@click.option("--no-scope-ceiling", is_flag=True, help="For an agent, whose token has no ceiling in any case.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="DATABASE/ENVIRONMENT",
    help="For an agent: all it may serve, either part may be `*`; repeatable.",
)
@click.option("--name", metavar="TEXT", help="What it is for, for whoever reads the list.")
@click.option("--expires", type=Moment(end=True, ahead=True), metavar="TIME", help="90d, 12h, 2027-01-31 (its end) …")
@global_options(hidden=True)
@pass_app
def create(
    app: App,
    /,
    subject: str | None,
    subject_type: str,
    scope_roles: list[str] | None,
    scopes: tuple[str, ...],
    name: str | None,
    expires: str | None,
    *,
    no_scope_ceiling: bool,
) -> Outcome:
    """Make a token and print it: this is the only time that it is shown."""
    for_agent = subject_type == AGENT
    if for_agent and subject is None:
        raise click.UsageError("--subject-type agent needs --subject, the agent's id")
    if no_scope_ceiling and (scope_roles is not None or not for_agent):
        raise click.UsageError("--no-scope-ceiling is for agents, and does not go with --scope-roles")
    if scopes and not for_agent:
        raise click.UsageError("--scope is for agents; a person's token has --scope-roles")
    body = given(
        subject_id=subject or app.client.get("/api/me")["subject_id"],
        subject_type=subject_type,
        name=name,
        scope_ceiling=None if scope_roles is None else {"roles": scope_roles},
        scopes=[_target(scope) for scope in scopes] or None,
        expires_at=expires,
    )
    with explained():
        made = app.client.post("/api/tokens", body)
    app.out.data([made["token"]])
    about = [
        ("Id", made["id"]),
        ("Subject", f"{made['subject_id']} ({made['subject_type']})"),
        ("Ceiling", _ceiling(made)),
        ("Serves", _scopes(made)),
        ("Expires", shown(made["expires_at"]) or "never"),
    ]
    app.out.say("\n".join(pairs(about)))
    app.out.hint("keep it now: it is not shown again")
    data = picked(made, "id", "token", "prefix", "subject_type", "scopes", "expires_at")
    return Outcome({**data, "subject": made["subject_id"], "scope_ceiling": _roles(made)})


@token.command("list", epilog=EPILOG)
@click.option("--subject", "subject_id", metavar="ID", help="Only those of this person or agent.")
@click.option("--status", type=click.Choice(("active", "revoked")), help="Only these; those that expired are active.")
@click.option("--type", "subject_type", type=TYPES, help="Only those of people, or of agents.")
@global_options(hidden=True)
@pass_app
def list_(app: App, /, **filters: str | None) -> Outcome:
    """List tokens, oldest first, without their text."""
    with explained():
        found = app.client.get("/api/tokens", filters)["tokens"]
    rows = [
        (
            one["id"][:8],
            one["token_prefix"],
            one["subject_id"],
            one["subject_type"],
            _ceiling(one) if one["scopes"] is None else _scopes(one),
            one["name"],
            one["status"],
            shown(one["expires_at"]) or "never",
        )
        for one in found
    ]
    header = ("ID", "PREFIX", "SUBJECT", "TYPE", "CEILING", "NAME", "STATUS", "EXPIRES")
    app.out.listing(table(header, rows, limits=(0, 0, 30, 0, 30, 30, 0, 0)), "No tokens.")
    return Outcome(
        {
            "tokens": [
                {
                    **picked(one, "id", "subject_type", "name", "status", "scopes", "expires_at", "created_at"),
                    "prefix": one["token_prefix"],
                    "subject": one["subject_id"],
                    "ceiling": _roles(one),
                }
                for one in found
            ]
        }
    )


@token.command("revoke", epilog=EPILOG)
@click.argument("id")
@global_options(hidden=True)
@pass_app
def revoke(app: App, /, id: str) -> Outcome:  # noqa: A002 - the argument's name on the command line
    """Revoke a token at once. Revoking it again changes nothing."""
    with explained():
        made = app.client.delete(path_of(id))
    app.out.say(f"Revoked {made['id']} ({shown(made['revoked_at'])}).")
    return Outcome({"id": made["id"], "status": "revoked", "revoked_at": made["revoked_at"]})


@token.command("inspect", epilog=EPILOG)
@click.argument("id")
@global_options(hidden=True)
@pass_app
def inspect(app: App, /, id: str) -> Outcome:  # noqa: A002 - same
    """Show what a token gives: its ceiling, its subject's roles, and what is left of them."""
    with explained():
        found = app.client.get(path_of(id) + "/inspect")
    app.out.data(
        pairs(
            [
                ("Id", found["id"]),
                ("Subject", f"{found['subject_id']} ({found['subject_type']})"),
                ("Name", found["name"]),
                ("Status", found["status"]),
                ("Expires", shown(found["expires_at"]) or "never"),
                ("Ceiling", _ceiling(found)),
                ("Serves", _scopes(found)),
                ("Resolved", _listed(found["resolved_roles"])),
                ("Effective", _listed(found["effective_roles"])),
                ("Permissions", "\n".join(found["effective_permissions"]) or "none"),
            ]
        )
    )
    data = picked(found, "id", "subject_type", "name", "status", "scopes", "expires_at", "resolved_roles")
    data |= picked(found, "effective_roles", "effective_permissions")
    return Outcome({**data, "subject": found["subject_id"], "ceiling": _roles(found)})


def path_of(token_id: str) -> str:
    from dbward.client.http import part

    return f"/api/tokens/{part(token_id)}"


def _target(scope: str) -> dict[str, str]:
    database, slash, environment = scope.partition("/")
    if not slash:
        raise click.UsageError(f"--scope {scope!a} is not DATABASE/ENVIRONMENT")
    return {"database": database, "environment": environment}


def _roles(made: Mapping[str, Any]) -> list[str] | None:
    """The names in the ceiling; None where there is no ceiling."""
    ceiling = made["scope_ceiling"]
    return None if ceiling is None else list(ceiling["roles"])


def _ceiling(made: Mapping[str, Any]) -> str:
    roles = _roles(made)
    return "unrestricted" if roles is None else _listed(roles)


def _scopes(made: Mapping[str, Any]) -> str | None:
    if made["scopes"] is None:
        return None
    return ", ".join(f"{scope['database']}/{scope['environment']}" for scope in made["scopes"])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
