"""`dbward server start`: the server process, in the foreground."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from dbward.errors import DbwardError, Misconfigured


@click.group("server", short_help="Run the server.")
def server() -> None:
    """Run the server."""


@server.command("start")
@click.option("--listen", metavar="HOST:PORT", help="Where to listen; instead of `[server] listen`.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("dbward-server.toml"),
    show_default=True,
    help="The server's configuration.",
)
@click.option("--force-bootstrap", is_flag=True, help="Revoke the first tokens and make new ones.")
def start(listen: str | None, config: Path, *, force_bootstrap: bool) -> None:
    """Start the server and stay until SIGTERM or Ctrl-C, which let running calls finish.

    Exit status: 0 stopped cleanly; 1 could not start, or a part of it failed for good.
    """
    from dbward import logs
    from dbward.settings.server import load_server, parse_listen
    from web.wsgi import serve

    settings = load_server(config)
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
        status = serve(settings, listen=address, force_bootstrap=force_bootstrap)
    except Misconfigured:
        raise
    except DbwardError as e:  # a database that is down, say: whatever its kind, the server could not start
        raise Misconfigured(e.message, code=e.code, hint=e.hint) from e
    if status:
        raise click.exceptions.Exit(status)
