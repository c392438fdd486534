"""`dbward doctor`: everything that can be found out about a configuration, with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import click

from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.diagnosis.model import Check, Status, summary
from dbward.cli.exits import Exit, Outcome
from dbward.cli.tables import counted, table

if TYPE_CHECKING:
    from dbward.settings.load import Source

ICONS: Final[dict[Status, str]] = {"pass": "✓", "warn": "⚠", "fail": "✗", "skip": "-"}
USUAL: Final = {"agent": Path("dbward-agent.toml"), "server": Path("dbward-server.toml")}
_USUAL_FILE: Final = ""
"""What an option that names no file stands for."""


class Examination(Protocol):
    """`checks` yields what is found, each at its time; `secrets` grows with it."""

    secrets: list[str]

    def checks(self) -> Iterator[Check]: ...
    def close(self) -> None: ...


@click.command("doctor", epilog=EPILOG, short_help="Find out what is wrong with a configuration, and how to mend it.")
@click.option("--client", is_flag=True, help="Examine what commands use; this is what happens without an option.")
@click.option(
    "--agent",
    "agent_file",
    is_flag=False,
    flag_value=_USUAL_FILE,
    metavar="[FILE]",
    help="Examine an agent's configuration, on its machine; without FILE the one that `dbward agent` finds.",
)
@click.option(
    "--server",
    "server_file",
    is_flag=False,
    flag_value=_USUAL_FILE,
    metavar="[FILE]",
    help="Examine a server's configuration, on its machine; without FILE the one that `dbward server start` finds.",
)
@click.option("--server-url", metavar="URL", help="With --server: where it listens, when its file does not say.")
@click.option(
    "--timeout",
    type=click.IntRange(1, 600),
    default=5,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for each answer from the network.",
)
@global_options(hidden=True)
@pass_app
def doctor(
    app: App, *, client: bool, agent_file: str | None, server_file: str | None, server_url: str | None, timeout: int
) -> Outcome:
    """Check a configuration and everything it needs, and say what is wrong and how to mend it.

    Real connections are made: to the server, and for an agent to every database, for a server to its state and its
    results. Nothing is changed. No password and no token is printed.

    Exit status: 0 nothing is wrong, warnings aside; 2 something is.
    """
    if client + (agent_file is not None) + (server_file is not None) > 1:
        raise click.UsageError("--client, --agent and --server exclude each other")
    if server_url is not None and server_file is None:
        raise click.UsageError("--server-url goes with --server")
    if app.options.get("config") and (agent_file is not None or server_file is not None):
        raise click.UsageError("--config is the file of clients: name the other one with --agent or --server")
    kind, examination = _choose(app, agent_file, server_file, server_url, timeout)
    with closing(examination):
        checks = [_scrubbed(check, examination.secrets) for check in examination.checks()]
    _show(app, checks)
    counts = summary(checks)
    data = {"kind": kind, "checks": [check.as_json() for check in checks], "summary": counts}
    if not counts["failed"]:
        return Outcome(data)
    return Outcome(data, Exit.PENDING, "doctor_issues_found", f"{counted(counts['failed'], 'check')} failed", said=True)


def _choose(
    app: App, agent_file: str | None, server_file: str | None, server_url: str | None, timeout: float
) -> tuple[str, Examination]:
    env, cwd = app.env.variables, app.env.cwd
    if agent_file is not None:
        from dbward.cli.diagnosis.agent import Agent

        return "agent", Agent(_source(app, agent_file, "agent"), env, timeout)
    if server_file is not None:
        from dbward.cli.diagnosis.server import Server
        from dbward.cli.onhost import check_address

        address = None if server_url is None else check_address(server_url)
        return "server", Server(_source(app, server_file, "server"), env, timeout, address)
    from dbward.cli.diagnosis.client import Client

    return "client", Client(env, cwd, app.flags, timeout, app.env.transport)


def _source(app: App, file: str, kind: str) -> Source:
    from dbward.settings.load import choose

    given = None if file == _USUAL_FILE else Path(file).expanduser()
    return choose(given, USUAL[kind], app.env.variables, cwd=app.env.cwd)


def _scrubbed(check: Check, secrets: Iterable[str]) -> Check:
    """No library's message gets a secret past here, whatever it quotes. What is shorter than 3 hides ordinary words."""

    def clean(text: str) -> str:
        for secret in secrets:
            if len(secret) > 2:
                text = text.replace(secret, "***")
        return text

    hint = None if check.hint is None else clean(check.hint)
    return replace(check, message=clean(check.message), hint=hint, details=tuple(map(clean, check.details)))


def _show(app: App, checks: list[Check]) -> None:
    """The table on stdout, and on stderr what to do."""
    if not app.out.human:
        return
    counts = summary(checks)
    total = ", ".join(
        [
            f"{counts['passed']} passed",
            counted(counts["warnings"], "warning"),
            f"{counts['failed']} failed",
            f"{counts['skipped']} skipped",
        ]
    )
    rows = [(ICONS[check.status], check.id, check.message) for check in checks]
    app.out.data(table(["", "CHECK", "MESSAGE"], [*rows, ("", "TOTAL", total)]))
    for check in checks:
        if check.status in {"warn", "fail"}:
            app.out.say(f"\n{ICONS[check.status]} {check.id}: {check.message}")
            app.out.say(f"    What it is about: {check.about}.")
            for line in check.details:
                app.out.say(f"    {line}")
            if check.hint:
                app.out.hint(check.hint)
