"""`dbward whoami`."""

from __future__ import annotations

import click

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome
from dbward.cli.tables import pairs


@click.command("whoami", epilog=EPILOG)
@global_options(hidden=True)
@pass_app
def whoami(app: App) -> Outcome:
    """Show who the server thinks you are."""
    me = app.client.get("/api/me")
    roles = [role["name"] for role in me["roles"]]
    app.out.data(
        pairs(
            [
                ("Subject", me["subject_id"]),
                ("Roles", ", ".join(roles) or "none"),
                ("Groups", ", ".join(me["groups"]) or "none"),
            ]
        )
    )
    return Outcome(
        {
            "subject_id": me["subject_id"],
            "subject_type": me["subject_type"],
            "roles": roles,
            "groups": me["groups"],
        }
    )
