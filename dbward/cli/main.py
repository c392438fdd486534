"""The `dbward` program: a function of arguments and environment that returns an exit status."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from dbward import VERSION

if TYPE_CHECKING:
    import click

    from dbward.cli.env import Env

COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "execute": ("execute", "execute", "Submit a statement and wait for its result."),
    "preflight": ("preflight", "preflight", "Show what submitting a statement would lead to."),
    "request": ("request", "request", "List, show, decide, cancel and resume requests; read results."),
    "audit": ("audit", "audit", "Search the audit log, or verify its chain."),
    "agents": ("agents", "agents", "Show the agents and what waits for them."),
    "result": ("result", "result", "List and read stored results."),
    "databases": ("databases", "databases", "Show the databases you may work on."),
    "database": ("databases", "database", "The same as `databases`."),
    "schema": ("schema", "schema", "Show tables and columns."),
    "policy": ("policy", "policy", "Show policies, and which of them cover a database."),
    "workflow": ("policy", "workflow", "Show who has to approve what."),
    "webhook": ("webhook", "webhook", "Show webhooks and what they are told."),
    "token": ("token", "token", "Make, list, inspect and revoke tokens."),
    "user": ("user", "user", "Add, change, suspend and remove people."),
    "group": ("group", "group", "Show groups and their members."),
    "role": ("group", "role", "Show roles and what they permit."),
    "migrate": ("migrate", "migrate", "Make, check, apply and revert migrations."),
    "login": ("login", "login", "Sign in through the identity provider."),
    "logout": ("login", "logout", "End that login."),
    "whoami": ("whoami", "whoami", "Show who the server thinks you are."),
    "server": ("server", "server", "Run the server, and administer it where it runs."),
    "agent": ("agent", "agent", "Run statements that the server hands out."),
    "self-update": ("selfupdate", "self_update", "Say how to upgrade this program."),
    "completion": ("completion", "completion", "Have the shell complete what is typed."),
    "dev": ("dev", "dev", "Try dbward on this machine."),
    "init": ("init", "init", "Write the configuration to begin with."),
    "doctor": ("doctor", "doctor", "Find out what is wrong with a configuration, and how to mend it."),
}
"""Name to module, attribute and short help: a module is imported only when its command is called."""

EXTRAS = {"server": "server", "agent": "agent"}
"""What a command needs that `pip install dbward` alone does not bring; any other one that needs more needs both."""
OURS = frozenset({"dbward", "web", "tasks", "worker"})

HEALTHCHECKS = frozenset({("server", "healthcheck"), ("agent", "healthcheck")})
"""Run every few seconds: a right call of these goes past click and everything else."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def run() -> None:
    """The console entry."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # rather a strange character than half the output
    argv = sys.argv[1:]
    status = _at_once(argv, sys.stdout, sys.stderr)
    if status is None:
        from dbward.cli.env import process_env

        status = main(argv, process_env())
    try:
        sys.stdout.flush()
    except OSError as e:
        status = _unwritable(sys.stderr, e) or status
        # Python must not complain about it once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def main(argv: Sequence[str], env: Env) -> int:
    """Run one command. Never raises for what a person can do wrong, nor for Ctrl-C."""
    if (status := _at_once(argv, env.stdout, env.stderr)) is not None:
        return status
    from dbward.cli.app import App

    app = App(env)
    with contextlib.ExitStack() as stack:
        stack.callback(app.close)
        if env.stdout is not sys.stdout:
            stack.enter_context(contextlib.redirect_stdout(env.stdout))
        if env.stderr is not sys.stderr:
            stack.enter_context(contextlib.redirect_stderr(env.stderr))
        try:
            return _run(app, argv)
        except OSError as e:
            return _unwritable(env.stderr, e)
        except SystemExit as e:  # click ends so when a pipe breaks under its hands
            return e.code if isinstance(e.code, int) else 1


def _at_once(argv: Sequence[str], out: TextIO, err: TextIO) -> int | None:
    """The status of what needs no configuration and next to nothing imported; None for everything else."""
    if list(argv) in (["--version"], ["-v"]):
        out.write(f"dbward {VERSION}\n")
        return 0
    if len(argv) == 3 and tuple(argv[:2]) in HEALTHCHECKS and not argv[2].startswith("-"):
        from dbward.cli import healthcheck

        return healthcheck.run(argv, err)
    return None


def _run(app: Any, argv: Sequence[str]) -> int:
    import click

    from dbward.cli.exits import Exit, Outcome, Stop, outcome_of, usage
    from dbward.errors import DbwardError

    outcome: Outcome
    try:
        result = _root().main(list(argv), prog_name="dbward", standalone_mode=False, obj=app)
        if not isinstance(result, Outcome):
            return int(result or 0)
        outcome = result
        app.note_version()
    except click.exceptions.NoArgsIsHelpError as e:
        app.env.stderr.write(e.format_message() + "\n")
        return Exit.USAGE
    except click.UsageError as e:
        if not app.options.get("format"):
            app.options["format"] = _format_in(argv)
        command = e.ctx.command_path if e.ctx is not None else "dbward"
        outcome = usage(e.format_message(), hint=f"see {command} --help")
    except Stop as e:
        outcome = e.outcome
    except DbwardError as e:
        outcome = outcome_of(e)
    except click.Abort:
        outcome = Outcome({"interrupted": True}, Exit.INTERRUPTED, "interrupted", "interrupted")
    except ModuleNotFoundError as e:
        library = (e.name or "").partition(".")[0]
        if library in OURS:
            raise
        command = next((word for word in argv if word in COMMANDS), "")
        extra = EXTRAS.get(command, "server,agent")
        outcome = Outcome(
            exit=Exit.FAILED,
            code="library_missing",
            message=f"this needs the library {library}, which is not installed",
            hint=f"pip install 'dbward[{extra}]', or '.[{extra}]' in a folder of its source",
        )
    except Exception as e:
        if app.out.human or isinstance(e, OSError):
            raise  # the traceback is what a report of the defect needs
        outcome = Outcome(exit=Exit.FAILED, code="internal_error", message=f"{type(e).__name__}: {e}")
    app.out.finish(outcome)
    return int(outcome.exit)


def _unwritable(err: TextIO, error: OSError) -> int:
    """The status when the output could not be written; any other trouble is raised again.

    Whoever read us may just have had enough: nothing to say then.
    """
    if error.filename is not None or error.errno not in _FULL | {errno.EPIPE}:
        raise error
    if error.errno != errno.EPIPE:
        err.write(f"Error: cannot write: {error.strerror}\n")
    return 1


def _root() -> Any:
    import click
    from click.shell_completion import CompletionItem

    from dbward.cli.app import global_options

    class Lazy(click.Group):
        def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[Any]]:
            names = [CompletionItem(name, help=entry[2]) for name, entry in COMMANDS.items()]
            options = click.Command.shell_complete(self, ctx, incomplete)
            return [*(item for item in names if item.value.startswith(incomplete)), *options]

        def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
            return list(COMMANDS)

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - same
            return load(cmd_name)

        def resolve_command(
            self, ctx: click.Context, args: list[str]
        ) -> tuple[str | None, click.Command | None, list[str]]:
            try:
                return super().resolve_command(ctx, args)
            except click.exceptions.NoSuchCommand as e:
                raise click.exceptions.NoSuchCommand(e.command_name, possibilities=COMMANDS, ctx=ctx) from None

        def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - same
            with formatter.section("Commands"):
                formatter.write_dl([(name, entry[2]) for name, entry in COMMANDS.items()])

    root = Lazy(
        "dbward",
        help="Run SQL on databases that nobody has the password of: with policy, approval and a record.",
        context_settings={"help_option_names": ["-h", "--help"]},
        params=[
            click.Option(
                ["-v", "--version"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_show_version,
                help="Show the version and exit.",
            )
        ],
    )
    return global_options(hidden=False)(root)


def load(name: str) -> click.Command | None:
    """The command of that name, its module imported now; None when there is none."""
    if name not in COMMANDS:
        return None
    module, attribute, _ = COMMANDS[name]
    command: click.Command = getattr(importlib.import_module(f"dbward.cli.{module}"), attribute)
    return command


def _show_version(ctx: Any, _param: Any, value: bool) -> None:  # noqa: FBT001 - click's signature
    if value:
        sys.stdout.write(f"dbward {VERSION}\n")
        ctx.exit(0)


def _format_in(argv: Sequence[str]) -> str | None:
    """The format asked for by arguments that could not be parsed as a whole."""
    for before, word in zip(["", *argv], argv, strict=False):
        name, _, value = word.partition("=")
        wanted = value if name == "--format" and value else word if before == "--format" else ""
        if wanted in {"json", "quiet"}:
            return wanted
    return None
