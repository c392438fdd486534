"""`dbward migrate`: the group, and what needs no server: making and checking the files of migrations."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from dbward.cli import migrating
from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome
from dbward.cli.tables import table
from dbward.errors import Invalid

TEMPLATE = "-- migrate:up\n\n-- migrate:down\n"
_SLUG = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*")


@click.group("migrate", short_help="Make, check, apply and revert migrations.", epilog=EPILOG)
@global_options(hidden=True)
def migrate() -> None:
    """Make, check, apply and revert migrations: files `<version>_<name>.sql`, as dbmate reads them."""


for _command in (migrating.status, migrating.up, migrating.down, migrating.repair):
    migrate.add_command(_command)


@migrate.command("create", epilog=EPILOG)
@click.argument("name")
@global_options(hidden=True)
@pass_app
def create(app: App, /, name: str) -> Outcome:
    """Make an empty migration called NAME, with the time as its version."""
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not _SLUG.fullmatch(slug):
        raise Invalid("a migration's name needs at least one letter or digit", hint="for example add_orders_index")
    path = _make(app.offline_settings.migrations(), slug)
    app.out.data([str(path)])
    return Outcome({"path": str(path)})


@migrate.command("lint", epilog=EPILOG)
@global_options(hidden=True)
@pass_app
def lint(app: App, /) -> Outcome:
    """Read every migration file and tell every mistake, with its line. Nothing is sent."""
    from dbward.migrate.files import read_directory

    found = read_directory(app.offline_settings.migrations())
    rows = [(one.version, one.name, "yes" if one.down is not None else "no") for one in found]
    app.out.data(table(("VERSION", "NAME", "CAN BE UNDONE"), rows))
    return Outcome(
        [
            {"version": one.version, "name": one.name, "file": one.file, "checksum": one.checksum}
            | {"reversible": one.down is not None}
            for one in found
        ]
    )


def _make(directory: Path, slug: str) -> Path:
    """A new file under the first second that is free."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        taken = {name.partition("_")[0] for name in (entry.name for entry in directory.iterdir())}
        at = datetime.now(UTC)
        while (version := f"{at:%Y%m%d%H%M%S}") in taken:
            at += timedelta(seconds=1)
        path = directory / f"{version}_{slug}.sql"
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except OSError as e:
        raise Invalid(f"{directory}: {e.strerror or e}", code="migration.directory") from e
    return path
