"""`dbward server start`: the server process, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from dbward.errors import Misconfigured


@click.group("server", short_help="Run the server.")
def server() -> None:
    """Run the server."""


@server.command("start")
@click.option("--listen", default="127.0.0.1:3000", show_default=True, metavar="HOST:PORT", help="Where to listen.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default="dbward-server.toml",
    show_default=True,
    help="Its settings.",
)
@click.option("--force-bootstrap", is_flag=True, help="Revoke the first tokens and make new ones.")
def start(listen: str, config: Path, *, force_bootstrap: bool) -> None:
    """Start the server and stay until SIGTERM or Ctrl-C, which let running calls finish."""
    address = parse_listen(listen)
    from dbward.logs import configure
    from dbward.settings.server import load_server
    from web.wsgi import serve

    settings = load_server(config)
    configure(settings.logging)
    status = serve(settings, listen=address, force_bootstrap=force_bootstrap)
    if status:
        raise click.exceptions.Exit(status)


def parse_listen(text: str) -> tuple[str, int]:
    """`127.0.0.1:3000`, `[::1]:3000` or `:3000` (every address). Raises `Misconfigured`."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""  # an IPv6 address without brackets
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise Misconfigured(
            f"--listen {text!r} is not HOST:PORT", code="listen.invalid", hint="for example 0.0.0.0:3000 or [::1]:3000"
        )
    return host or "0.0.0.0", int(port)  # noqa: S104 - asked for
