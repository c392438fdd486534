"""`dbward agent`: the process that holds the database credentials and runs what was approved."""

from __future__ import annotations

from pathlib import Path

import click

from dbward.cli.agents import agents
from dbward.cli.exits import Outcome, health


@click.group("agent", short_help="Run statements that the server hands out.", invoke_without_command=True)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The agent's configuration; else the text in DBWARD_CONFIG_TOML, else dbward-agent.toml.",
)
@click.pass_context
def agent(ctx: click.Context, config: Path | None) -> None:
    """Connect to the databases in the configuration and run what the server hands out, until SIGTERM or Ctrl-C.

    Exit status: 0 stopped cleanly; 1 could not start, or statements had to be cancelled to stop; 77 the server does not
    accept the token any more.
    """
    if ctx.invoked_subcommand is not None:
        if config is not None:
            raise click.UsageError(f"--config is for running the agent, not for `{ctx.invoked_subcommand}`")
        return
    from dbward import logs
    from dbward.settings.agent import load_agent
    from dbward.settings.load import choose, environment
    from tasks.agent import run_agent

    settings = load_agent(choose(config, Path("dbward-agent.toml"), environment(), cwd=Path.cwd()))
    logs.configure(settings.logging)
    if status := run_agent(settings):
        raise click.exceptions.Exit(status)


@agent.command("healthcheck")
@click.argument("file")
def healthcheck(file: str) -> Outcome:
    """Exit with 0 when the agent has renewed FILE, its `alive_file`, within the last minute.

    Exit status: 0 it has; 1 it has not.
    """
    from dbward.cli.healthcheck import of_agent

    return health(of_agent(Path(file)))


agent.add_command(agents, "list")
