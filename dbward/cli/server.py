"""`dbward server`: the server process in the foreground, and what is done with it and its state on its machine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dbward.cli import token, user
from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Exit, Outcome, health
from dbward.cli.onhost import check_address, on_host, read_admin_token, url_of
from dbward.errors import DbwardError, Misconfigured

if TYPE_CHECKING:
    from dbward.settings.load import Source
    from dbward.settings.server import ServerSettings

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

USUAL_CONFIG = Path("dbward-server.toml")


@click.group("server", short_help="Run the server, and administer it where it runs.")
def server() -> None:
    """Run the server, and administer it where it runs."""


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
    log = logging.getLogger("dbward.server")
    for warning in settings.warnings:
        log.warning(warning)
    try:
        status = serve(settings, load, listen=address, force_bootstrap=force_bootstrap)
    except DbwardError as e:
        failure = e
    else:
        raise click.exceptions.Exit(status)
    # Into the log, in its format: whoever watches that looks for the code.
    log.error("%s%s", failure.message, f" ({failure.hint})" if failure.hint else "", extra={"code": failure.code})
    raise click.exceptions.Exit(Exit.FAILED)


_server_config = click.option(
    "--server-config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration of the server on this machine, found as `start` does.",
)
_pid = click.option(
    "--pid", type=click.IntRange(min=2), metavar="PID", help="Its process, where `server.pid` does not tell."
)


def _timeout(default: float) -> Callable[[Decorated], Decorated]:
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0.1),
        metavar="SECS",
        default=default,
        show_default=True,
        help="How long to wait.",
    )


@server.command("reload", epilog=EPILOG)
@global_options(hidden=True)
@_server_config
@_pid
@_timeout(60.0)
@pass_app
def reload(app: App, server_config: Path | None, pid: int | None, timeout: float) -> Outcome:
    """Have the running server read its configuration again, and say what came of it.

    The new one is checked as a whole and taken over as a whole. When anything in it is wrong nothing changes, and every
    mistake is listed.
    """
    from dbward import signalling

    state_dir = _state_dir(app, server_config)
    running = pid or signalling.running(state_dir)
    said = signalling.ask("reload", state_dir, running, timeout)
    if said is None:
        return _silent(timeout, "it may still reload; its log says so")
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
    asked = {"pid": running, "signal": signalling.SIGNALS["reload"].name}
    return Outcome({**asked, "digest": said["digest"], "changes": said["changes"]})


@server.command("backup", epilog=EPILOG)
@global_options(hidden=True)
@_server_config
@_pid
@_timeout(600.0)
@pass_app
def backup(app: App, server_config: Path | None, pid: int | None, timeout: float) -> Outcome:
    """Back up the state and the keys while the server runs, or when none does.

    Where to, and how many are kept, is said by `[backup]`. Results are not in it.
    """
    from dbward import signalling

    state_dir = _state_dir(app, server_config)
    try:
        running = pid or signalling.running(state_dir)
    except Misconfigured as e:
        if e.code != "server.not_running":
            raise
        said: dict[str, Any] | None = _back_up_here(app, server_config)
    else:
        said = signalling.ask("backup", state_dir, running, timeout)
    if said is None:
        return _silent(timeout, "it may still be making the backup; its log says so")
    if not said["ok"]:
        return Outcome(None, Exit.FAILED, said["code"], said["message"], said["hint"])
    removed = f", {len(said['removed'])} older removed" if said["removed"] else ""
    app.out.data([f"{said['place']} ({said['bytes']} bytes{removed})"])
    if said["not_removed"] is not None:
        app.out.warn(f"older ones are still there: {said['not_removed']}")
    return Outcome({key: said[key] for key in ("place", "bytes", "removed", "not_removed")})


@server.command("restore", epilog=EPILOG)
@global_options(hidden=True)
@click.argument("backup")
@_server_config
@pass_app
def restore(app: App, backup: str, server_config: Path | None) -> Outcome:
    """Begin again from BACKUP: a file, the name of one where `[backup]` keeps them, `latest`, or s3://BUCKET/PREFIX/NAME.

    Only where there is no state, and while no server runs. Its audit log is verified first. Requests that were open
    when the backup was made are ended, since nobody can know whether they ran after that. A file may also be a copy of
    the database alone: then the keys must be in `state_dir` already.
    """
    from dataclasses import asdict

    from dbward.db.lock import StateLock
    from dbward.services.restore import restore as run

    settings = _settings(app, server_config)
    with StateLock(settings.state_dir):
        restored = run(settings, backup)
    app.out.data(
        [
            f"restored the state of {restored.made_at}: {restored.events} audit events, verified",
            f"{restored.cancelled} open requests cancelled, {restored.lost} whose outcome is not known",
        ]
    )
    app.out.warn(
        "what happened after that is not in it: revoke tokens and suspend people again that were shut out since"
    )
    return Outcome(asdict(restored))


@server.command("healthcheck")
@click.argument("url")
def healthcheck(url: str) -> Outcome:
    """Exit with 0 when the server at URL, such as http://127.0.0.1:3000/health, answers 200 within five seconds.

    Exit status: 0 it does; 1 it does not. For containers, which have no curl.
    """
    from dbward.cli.healthcheck import of_server

    return health(of_server(url))


def _connect(app: App, server_config: Path | None, url: str | None) -> None:
    """As its first administrator, with the token that the server left in its `state_dir`."""
    from dbward.services.bootstrap import ADMIN_TOKEN
    from dbward.settings.server import read_listen

    source = _source(app, server_config)
    token = read_admin_token(_state_dir(app, server_config) / ADMIN_TOKEN)
    app.connect(url_of(read_listen(source, app.env.variables)) if url is None else check_address(url), token)


server.add_command(
    on_host(token.token, _connect, help="`dbward token` on the server's machine, as its first administrator.")
)
server.add_command(
    on_host(user.user, _connect, help="`dbward user` on the server's machine, as its first administrator.")
)


def _back_up_here(app: App, server_config: Path | None) -> dict[str, Any]:
    """The same without a server; none can start meanwhile."""
    from dbward.db.lock import StateLock
    from dbward.runtime import open_runtime
    from dbward.services.backup import make

    settings = _settings(app, server_config)
    with StateLock(settings.state_dir):
        rt = open_runtime(settings)
        try:
            return make(rt).as_json()
        finally:
            rt.close()


def _source(app: App, server_config: Path | None) -> Source:
    from dbward.settings.load import choose

    if app.options.get("config"):
        raise click.UsageError("--config is the file of clients: name the server's with --server-config")
    return choose(server_config, USUAL_CONFIG, app.env.variables, cwd=app.env.cwd)


def _state_dir(app: App, server_config: Path | None) -> Path:
    from dbward.settings.server import read_state_dir

    return read_state_dir(_source(app, server_config), app.env.variables)


def _settings(app: App, server_config: Path | None) -> ServerSettings:
    from dbward.settings.server import load_server

    return load_server(_source(app, server_config), app.env.variables)


def _silent(timeout: float, hint: str) -> Outcome:
    return Outcome(
        exit=Exit.TIMEOUT,
        code="timeout",
        message=f"the server has not answered within {timeout:g} seconds",
        hint=hint,
    )


def _lines(changes: list[dict[str, Any]]) -> list[str]:
    """One for each name that was added, removed or changed."""
    signs = {"added": "+", "removed": "-", "changed": "~"}
    found = [f"{sign} {c['section']} {name}" for c in changes for key, sign in signs.items() for name in c[key]]
    return found or ["nothing has changed"]
