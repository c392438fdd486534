"""`dbward init`: the configuration to begin with."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any, Final

import click

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Outcome
from dbward.cli.presets import (
    PRESETS,
    SHARED,
    VARIABLES,
    File,
    Preset,
    global_file,
    project_file,
    single_file,
    team_files,
)
from dbward.errors import Invalid, Misconfigured

USUAL_URL: Final = "http://localhost:3000"
USUAL_DATABASE: Final = "app"


@click.command("init", epilog=EPILOG, short_help="Write the configuration to begin with.")
@click.option(
    "--preset",
    metavar="NAME",
    help="Write the files of client, server and agent for a team of that kind: " + ", ".join(PRESETS) + ".",
)
@click.option("--server-url", metavar="URL", help=f"Where the server is, or will be; else it is asked. {USUAL_URL}")
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to write; made if it is not there. The directory you are in.",
)
@click.option("--non-interactive", is_flag=True, help="Ask nothing: what is not given gets its usual value.")
@click.option("--force", is_flag=True, help="Also over files that are there; each is kept beside as NAME.old.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@global_options(hidden=True)
@pass_app
def init(
    app: App,
    *,
    preset: str | None,
    server_url: str | None,
    output_dir: Path | None,
    non_interactive: bool,
    force: bool,
    dry_run: bool,
) -> Outcome:
    """Write the configuration to begin with: of this project and of you, or with --preset of a whole installation.

    \b
    without an option   dbward.toml for the project, and ~/.config/dbward/config.toml unless that is there
    --config FILE       all in FILE
    --preset NAME       dbward.toml, server.toml and agent.toml, which start as they are

    --server-url and --database answer the questions before they are asked. No file is overwritten without --force.
    """
    chosen = _preset(preset)
    if app.options.get("config") and (chosen is not None or output_dir is not None):
        raise click.UsageError("with --config all goes into that file: leave out --preset and --output-dir")
    config = app.options.get("config") or app.env.variables.get("DBWARD_CONFIG")
    url, database = _answers(app, server_url, ask=not non_interactive)
    base = app.env.cwd / (output_dir or "")
    keep: set[Path] = set()
    if chosen is not None:
        files = {base / file.name: file for file in team_files(chosen, url, database)}
    elif config:
        files = {app.env.cwd / Path(config).expanduser(): single_file(url, database)}
    else:
        everywhere = _global_path(app)
        files = {everywhere: global_file(url), base / "dbward.toml": project_file(database)}
        keep = {everywhere} if everywhere.exists() and not force else set()
    written = {path: file for path, file in files.items() if path not in keep}
    if taken := [str(path) for path in written if path.exists() and not force]:
        raise Misconfigured(
            f"already there: {', '.join(taken)}",
            code="init.exists",
            hint="--force writes anew and keeps the old one beside as NAME.old",
        )
    if dry_run:
        for path, file in written.items():
            app.out.data([f"# {path}", file.text])
    else:
        for path, file in written.items():
            _write(path, file)
        app.out.data(map(str, written))
        _say_what_next(app, chosen, base, kept=keep)
    data: dict[str, Any] = {
        "files_created": [] if dry_run else list(map(str, written)),
        "files_kept": list(map(str, keep)),
        "preset": preset,
        "dry_run": dry_run,
    }
    if dry_run:
        data["would_create"] = [{"path": str(path), "text": file.text} for path, file in written.items()]
    return Outcome(data)


def _preset(name: str | None) -> Preset | None:
    if name is None:
        return None
    if name not in PRESETS:
        raise Misconfigured(f"there is no preset {name!a}", hint=f"there are: {', '.join(PRESETS)}")
    return PRESETS[name]


def _answers(app: App, url: str | None, *, ask: bool) -> tuple[str, str]:
    """The server's address and the database's name: as given, as asked, or as usual."""
    from dbward.domain.names import parse_name
    from dbward.settings.transport import check_url

    database = app.options.get("database") or app.env.variables.get("DBWARD_DATABASE")
    url = url or app.env.variables.get("DBWARD_SERVER_URL")
    if ask and not (url and database) and not app.can_ask:
        raise click.UsageError("there is nobody to ask: give --server-url and --database, or --non-interactive")
    url = url or (app.ask("Where is the server, or where will it be?", USUAL_URL) if ask else USUAL_URL)
    database = database or (app.ask("What is the database called?", USUAL_DATABASE) if ask else USUAL_DATABASE)
    try:
        return check_url(url), parse_name(database, "database")
    except ValueError as e:
        raise Misconfigured(f"the server's URL {e}", code="init.invalid") from e
    except Invalid as e:
        raise Misconfigured(e.message, code="init.invalid", hint=e.hint) from e


def _global_path(app: App) -> Path:
    from dbward.settings.client import global_path

    path = global_path(app.env.variables)
    if path is None:
        raise Misconfigured(
            "there is no place for your own settings", hint="set HOME or XDG_CONFIG_HOME, or use --config"
        )
    return path


def _write(path: Path, file: File) -> None:
    """Whole or not at all; what was there is kept beside. Raises `Misconfigured`."""
    from dbward.keys import replace_file

    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o755 if file.mode == SHARED else 0o700, parents=True)
        if path.exists():
            path.rename(_aside(path))
        replace_file(path, file.text.encode())
        if file.mode == SHARED:
            path.chmod(file.mode)
    except OSError as e:
        raise Misconfigured(f"{path} cannot be written: {e.strerror}", code="init.unwritable") from e


def _aside(path: Path) -> Path:
    """A name beside it that is free: what is kept there may hold the only copy of a token."""
    names = (f"{path.name}.old{f'-{number}' if number > 1 else ''}" for number in count(1))
    return next(free for name in names if not (free := path.with_name(name)).exists())


def _say_what_next(app: App, preset: Preset | None, base: Path, *, kept: set[Path]) -> None:
    for path in kept:
        app.out.say(f"{path} is there already, and stays as it is.")
    if preset is None:
        app.out.hint("put your token into DBWARD_TOKEN or config.toml; `dbward doctor` says whether all is well")
        return
    urls = " ".join(f"{VARIABLES[environment]}=…" for environment in preset.environments)
    app.out.say(
        f"""
Next, in {base}:
  dbward server start --config server.toml
  dbward server user add NAME --role requester --role approver --server-config server.toml
  export DBWARD_AGENT_TOKEN=$(cat state/agent-token) {urls}
  dbward agent --config agent.toml
Everybody has the token that `user add` printed for them in DBWARD_TOKEN:
  dbward execute -e development 'SELECT 1'
What is wrong, if anything is: dbward doctor, dbward doctor --server server.toml, dbward doctor --agent agent.toml"""
    )
