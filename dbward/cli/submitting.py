"""What every command that makes a request shares: its options, its body, and making it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from dbward.cli.app import App
from dbward.cli.exits import Exit, Outcome, Stop
from dbward.errors import Misconfigured

F = TypeVar("F", bound=Callable[..., Any])


def timeout_option(function: F) -> F:
    """`--timeout`."""
    return click.option(
        "--timeout", type=click.IntRange(min=0), metavar="SECS", help="Wait no longer; the request goes on."
    )(function)


def waiting_options(function: F) -> F:
    """`--wait` and `--timeout`."""
    return click.option("--wait", is_flag=True, help="Wait for the approval, then run it.")(timeout_option(function))


def emergency_options(function: F) -> F:
    """`--reason`, `--emergency` and `--allow-ddl`; whoever takes them calls `check_emergency`."""
    for option in (
        click.option("--allow-ddl", is_flag=True, help="With --emergency: also statements that change the schema."),
        click.option("--emergency", is_flag=True, help="Break glass: run without approval. Needs --reason."),
        click.option("--reason", metavar="TEXT", help="Why; it goes on the record."),
    ):
        function = option(function)
    return function


def check_emergency(asked: Mapping[str, Any]) -> None:
    """Raises `UsageError`, `Misconfigured`."""
    if asked["allow_ddl"] and not asked["emergency"]:
        raise click.UsageError("--allow-ddl needs --emergency")
    if asked["emergency"] and not (asked["reason"] or "").strip():
        raise Misconfigured("--emergency needs --reason", hint="say why; the reason goes on the record")


def record_options(function: F) -> F:
    """`--share-with`, `--idempotency-key`, `--ticket` and `--repo`."""
    for option in (
        click.option("--repo", metavar="TEXT", help="Kept with the request as metadata."),
        click.option("--ticket", metavar="TEXT", help="Kept with the request as metadata."),
        click.option(
            "--idempotency-key", metavar="KEY", help="Submitting again with the same key finds the first request."
        ),
        click.option(
            "--share-with", multiple=True, metavar="SELECTOR", help="Who else may read the result; repeatable."
        ),
    ):
        function = option(function)
    return function


def body(operation: str, target: tuple[str, str], detail: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What `POST /api/requests` takes; `asked` are the options by their names, those that a command has."""
    made: dict[str, Any] = {
        "operation": operation,
        "database": target[0],
        "environment": target[1],
        "detail": detail,
        # A key of our own lets a submission be repeated when its answer was lost, without making a second request.
        "idempotency_key": asked.get("idempotency_key") or f"cli-{uuid.uuid4()}",
        "metadata": {key: asked[key] for key in ("ticket", "repo") if asked.get(key)},
        "share_with": list(asked.get("share_with") or ()),
    }
    made |= {key: asked.get(key) for key in ("reason", "emergency", "allow_ddl", "no_result_store")}
    return {key: value for key, value in made.items() if value or key == "detail"}


def submit(app: App, request: Mapping[str, Any]) -> dict[str, Any]:
    """Make the request; what the server made of it. Raises what the server decided, and `Stop` after Ctrl-C."""
    from dbward.client.submit import submit as send

    try:
        made = send(app.client, request)
    except KeyboardInterrupt:
        app.out.say("Interrupted while submitting: the request may have been made.")
        app.out.hint("look: dbward request list")
        message = "interrupted while submitting; the request may have been made"
        data = {"interrupted": True, "message": message}
        raise Stop(Outcome(data, Exit.INTERRUPTED, "interrupted", message, said=True)) from None
    for warning in made.get("warnings") or ():
        app.out.warn(warning)
    return made
