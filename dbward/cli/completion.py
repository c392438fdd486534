"""`dbward completion`: the script that makes a shell complete what is typed."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from dbward.cli.app import EPILOG, App, global_options
from dbward.cli.exits import Outcome

SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command("completion", epilog=EPILOG)
@click.argument("shell", type=click.Choice(list(SHELLS)))
@global_options(hidden=True)
@click.pass_context
def completion(ctx: click.Context, /, shell: str) -> Outcome:
    """Print what makes a shell complete commands, options, and the databases of the configuration.

    \b
    bash (4.4 or newer), in ~/.bashrc:    eval "$(dbward completion bash)"
    zsh, in ~/.zshrc after compinit:      eval "$(dbward completion zsh)"
    fish:   dbward completion fish > ~/.config/fish/completions/dbward.fish

    Completing never asks the server.
    """
    app = ctx.find_object(App)
    assert app is not None
    made = SHELLS[shell](ctx.find_root().command, {}, "dbward", "_DBWARD_COMPLETE")
    # Not `made.source()`, which for bash starts one to ask for its version and speaks past the chosen format.
    script = made.source_template % made.source_vars()
    app.out.data([script])
    return Outcome({"shell": shell, "script": script})
