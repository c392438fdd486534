"""`dbward databases` and `dbward database list`."""

from __future__ import annotations

import click

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome
from dbward.cli.tables import table


@click.command("databases", epilog=EPILOG)
@global_options(hidden=True)
@pass_app
def databases(app: App) -> Outcome:
    """Show the databases you may work on."""
    found: dict[str, list[str]] = {}
    for pair in app.client.get("/api/databases")["databases"]:
        found.setdefault(pair["database"], []).append(pair["environment"])
    app.out.data(table(("NAME", "ENVIRONMENTS"), [(name, ", ".join(envs)) for name, envs in found.items()]))
    if not found:
        app.out.say("No databases.")
    return Outcome({"databases": [{"name": name, "environments": envs} for name, envs in found.items()]})


@click.group("database", short_help="Show the databases you may work on.", epilog=EPILOG)
@global_options(hidden=True)
def database() -> None:
    """Show the databases you may work on: `database list` is the same as `databases`."""


database.add_command(databases, "list")
