"""`dbward group` and `dbward role`: what people's rights come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome, explained
from dbward.cli.tables import pairs, table
from dbward.errors import Missing


@click.group("group", short_help="Show groups and their members.", epilog=EPILOG)
@global_options(hidden=True)
def group() -> None:
    """Show groups and their members. Groups are set up in the server's configuration."""


@group.command("list", epilog=EPILOG)
@global_options(hidden=True)
@pass_app
def list_groups(app: App, /) -> Outcome:
    """List groups."""
    with explained():
        found = app.client.get("/api/groups")["groups"]
    app.out.listing(table(("NAME",), [(name,) for name in found]), "No groups.")
    return Outcome({"groups": found})


@group.command("show", epilog=EPILOG)
@click.argument("name")
@global_options(hidden=True)
@pass_app
def show_group(app: App, /, name: str) -> Outcome:
    """Show a group's members, and the roles they have by it."""
    from dbward.client.http import part

    with explained():
        found = app.client.get(f"/api/groups/{part(name)}")
    app.out.data(
        pairs(
            [
                ("Group", found["name"]),
                ("Roles", ", ".join(found["roles"]) or "none"),
                ("Members", "\n".join(found["members"]) or "none"),
            ]
        )
    )
    return Outcome(found)


@click.group("role", short_help="Show roles and what they permit.", epilog=EPILOG)
@global_options(hidden=True)
def role() -> None:
    """Show roles and what they permit. Roles are set up in the server's configuration."""


@role.command("list", epilog=EPILOG)
@global_options(hidden=True)
@pass_app
def list_roles(app: App, /) -> Outcome:
    """List roles and where they hold."""
    found = _roles(app)
    rows = [
        (
            one["name"],
            "built in" if one["builtin"] else "configured",
            _place(one),
            ", ".join(map(_grant, one["permissions"])),
        )
        for one in found["roles"]
    ]
    app.out.data(table(("NAME", "FROM", "WHERE", "PERMISSIONS"), rows, limits=(0, 0, 40, 60)))
    if found["default_role"] is not None:
        app.out.say(f"Whoever has no other role has {found['default_role']}.")
    return Outcome(found)


@role.command("show", epilog=EPILOG)
@click.argument("name")
@global_options(hidden=True)
@pass_app
def show_role(app: App, /, name: str) -> Outcome:
    """Show everything a role permits."""
    found = next((one for one in _roles(app)["roles"] if one["name"] == name), None)
    if found is None:
        raise Missing(f"role {name}", code="not_found", hint="they are listed by: dbward role list")
    app.out.data(
        pairs(
            [
                ("Role", found["name"]),
                ("From", "built in" if found["builtin"] else "the server's configuration"),
                ("Where", _place(found)),
                ("Permissions", "\n".join(map(_grant, found["permissions"])) or "none"),
            ]
        )
    )
    return Outcome(found)


def _roles(app: App) -> dict[str, Any]:
    with explained():
        found: dict[str, Any] = app.client.get("/api/roles")
    return found


def _grant(grant: Mapping[str, Any]) -> str:
    """As it is written in the configuration."""
    return str(grant["perm"]) if grant["perm"] == "*" else f"{grant['perm']}:{grant['ownership']}"


def _place(one: Mapping[str, Any]) -> str:
    return f"{', '.join(one['databases'])} / {', '.join(one['environments'])}"
