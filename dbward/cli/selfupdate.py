"""`dbward self-update`: how this installation is brought to the server's version. Nothing is installed by it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dbward import VERSION
from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome
from dbward.errors import DbwardError

HEALTH_SECS = 3.0


@click.command("self-update", epilog=EPILOG)
@global_options(hidden=True)
@pass_app
def self_update(app: App) -> Outcome:
    """Say how to bring this program to the version of the server.

    The package manager that installed it does that, and checks what it installs. Exit status 0 in any case.
    """
    there = _server_version(app)
    command = upgrade_command(there)
    same = there == VERSION
    if there is None:
        app.out.say(f"This is version {VERSION}; the server's is not known.")
    else:
        app.out.say(f"This is version {VERSION}, and the server's is {there}.")
    if not same:
        app.out.data([command])
    return Outcome(
        {
            "from_version": VERSION,
            "to_version": there,
            "already_at_target": same,
            "server_version": there,
            "server_reachable": there is not None,
            "command": None if same else command,
        }
    )


def _server_version(app: App) -> str | None:
    """What the configured server says; None when there is none, or none answers."""
    from dbward.client.http import ApiClient

    try:
        with ApiClient(app.settings.url, None, version=VERSION, transport=app.env.transport) as client:
            said = client.get("/health", answer_secs=HEALTH_SECS)
    except DbwardError:
        return None
    version = said.get("version") if isinstance(said, dict) else None
    return version if isinstance(version, str) else None


def upgrade_command(version: str | None) -> str:
    """What to type, for the tool whose environment this program lies in."""
    wanted = "dbward" if version is None else f"dbward=={version}"
    parts = Path(sys.prefix).parts
    if "pipx" in parts:
        return "pipx upgrade dbward" if version is None else f"pipx install --force {wanted}"
    if "uv" in parts and "tools" in parts:
        return "uv tool upgrade dbward" if version is None else f"uv tool install {wanted}"
    return f"{sys.executable} -m pip install --upgrade {wanted}"
