"""Commands of administration on the server's machine, with the token that its first start left there."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from dbward.cli.app import App
from dbward.errors import Misconfigured

Connect = Callable[[App, Path | None, str | None], None]
"""Connects to the server of that configuration, at that address instead of the one it says."""

_EVERY: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound


def on_host(group: click.Group, connect: Connect, *, help: str) -> click.Group:  # noqa: A002 - click's name
    """The same commands below another one. They take no address and no token from the configuration of clients."""
    made = copy.copy(group)
    made.help, made.short_help = help, None
    made.commands = {name: _connected(command, connect) for name, command in group.commands.items()}
    return made


def _connected(command: click.Command, connect: Connect) -> click.Command:
    made = copy.copy(command)
    run = command.callback
    assert run is not None

    @wraps(run)
    def connected(*args: Any, of_server: Path | None, at: str | None, **kwargs: Any) -> Any:
        app = click.get_current_context().find_object(App)
        assert app is not None
        connect(app, of_server, at)
        return run(*args, **kwargs)

    made.callback = connected
    made.params = [
        *command.params,
        click.Option(
            ["--server-config", "of_server"],
            type=click.Path(path_type=Path, dir_okay=False),
            help="The configuration of the server on this machine, found as `server start` does.",
        ),
        click.Option(["--server-url", "at"], metavar="URL", help="Where it listens, when its configuration does not."),
    ]
    return made


def url_of(listen: tuple[str, int]) -> str:
    """How a program on the same machine calls a server that listens there."""
    host, port = listen
    host = {"::": "::1"}.get(host, "127.0.0.1") if host in _EVERY else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def check_address(url: str) -> str:
    """What was given as --server-url, if the administrator's token may be sent there. Raises `UsageError`,
    `Misconfigured`.
    """
    from dbward.settings.transport import check_transport, check_url

    try:
        checked = check_url(url)
    except ValueError as e:
        raise click.UsageError(f"--server-url {e}") from e
    check_transport(checked, allow_insecure=False)
    return checked


def refuse_port(host: str, port: int) -> str | None:
    """Why a server could not listen there; None when it could."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
    except OSError as e:
        return e.strerror or str(e)
    return None


def read_admin_token(path: Path) -> str:
    """Raises `Misconfigured` when it is not there, or not for whoever runs this."""
    try:
        return path.read_text().strip()
    except OSError as e:
        hint = "run this as the user that the server runs as"
        if isinstance(e, FileNotFoundError):
            hint = "the server makes it when it first starts; if it was removed, use a token of an administrator"
        raise Misconfigured(f"{path}: {e.strerror}", code="admin_token.unreadable", hint=hint) from e
