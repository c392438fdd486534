"""`dbward server`: the server process in the foreground, and having it read its configuration again."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import click

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Exit, Outcome
from dbward.errors import DbwardError, Misconfigured

USUAL_CONFIG = Path("dbward-server.toml")


@click.group("server", short_help="Run the server.")
def server() -> None:
    """Run the server."""


@server.command("start")
@click.option("--listen", metavar="HOST:PORT", help="Where to listen; instead of `[server] listen`.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The server's configuration; else the text in DBWARD_CONFIG_TOML, else dbward-server.toml.",
)
@click.option("--force-bootstrap", is_flag=True, help="Revoke the first tokens and make new ones.")
def start(listen: str | None, config: Path | None, *, force_bootstrap: bool) -> None:
    """Start the server and stay until SIGTERM or Ctrl-C, which let running calls finish.

    Exit status: 0 stopped cleanly; 1 could not start, or a part of it failed for good.
    """
    from dbward import logs
    from dbward.settings.load import choose, environment
    from dbward.settings.server import load_server, parse_listen
    from web.wsgi import serve

    load = partial(load_server, choose(config, USUAL_CONFIG, environment(), cwd=Path.cwd()))
    settings = load()
    address = settings.listen
    if listen is not None:
        try:
            address = parse_listen(listen)
        except ValueError as e:
            raise Misconfigured(f"--listen {e}", code="listen.invalid") from e
    logs.configure(settings.logging)
    for warning in settings.warnings:
        logging.getLogger("dbward.server").warning(warning)
    try:
        status = serve(settings, load, listen=address, force_bootstrap=force_bootstrap)
    except Misconfigured:
        raise
    except DbwardError as e:  # a database that is down, say: whatever its kind, the server could not start
        raise Misconfigured(e.message, code=e.code, hint=e.hint) from e
    if status:
        raise click.exceptions.Exit(status)


@server.command("reload", epilog=EPILOG)
@global_options(hidden=True)
@click.option(
    "--server-config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration of the server that runs on this machine, found as `start` does.",
)
@click.option("--pid", type=click.IntRange(min=2), help="Its process, where `server.pid` does not tell.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Seconds to wait.")
@pass_app
def reload(app: App, server_config: Path | None, pid: int | None, timeout: float) -> Outcome:
    """Have the running server read its configuration again, and say what came of it.

    The new one is checked as a whole and taken over as a whole. When anything in it is wrong nothing changes, and every
    mistake is listed.
    """
    from dbward import signalling
    from dbward.settings.load import choose
    from dbward.settings.server import read_state_dir

    if app.options.get("config"):
        raise click.UsageError("--config is the file of clients: name the server's with --server-config")
    variables = app.env.variables
    state_dir = read_state_dir(choose(server_config, USUAL_CONFIG, variables, cwd=app.env.cwd), variables)
    said = signalling.ask(state_dir, pid or signalling.running(state_dir), timeout)
    if said is None:
        return Outcome(
            exit=Exit.TIMEOUT,
            code="timeout",
            message=f"the server has not answered within {timeout:g} seconds",
            hint="it may still reload; its log says so",
        )
    for warning in said["warnings"]:
        app.out.warn(warning)
    if not said["ok"]:
        return Outcome(
            {"problems": said["problems"]},
            Exit.FAILED,
            said["code"],
            "\n".join(["the server keeps its configuration:", *said["problems"]]),
            said["hint"],
        )
    app.out.data(_lines(said["changes"]))
    return Outcome({"digest": said["digest"], "changes": said["changes"]})


def _lines(changes: list[dict[str, Any]]) -> list[str]:
    """One for each name that was added, removed or changed."""
    signs = {"added": "+", "removed": "-", "changed": "~"}
    found = [f"{sign} {c['section']} {name}" for c in changes for key, sign in signs.items() for name in c[key]]
    return found or ["nothing has changed"]
