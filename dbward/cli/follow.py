"""From a submitted request to its result: waiting, showing, and what Ctrl-C means in between."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from dbward.cli import migrateview
from dbward.cli.app import App
from dbward.cli.exits import Exit, Outcome, Stop
from dbward.cli.spinner import Spinner
from dbward.cli.tables import counted
from dbward.errors import Conflict, DbwardError, Gone, Unavailable

if TYPE_CHECKING:
    from dbward.cli.resultset import ResultSet
    from dbward.settings.client import ResultFormat

F = TypeVar("F", bound=Callable[..., Any])

POLL_SECS: Final = 30
"""How long the server is asked to hold one look at the request; a change ends it at once."""
POLL_ON_TERMINAL_SECS: Final = 10
"""Shorter where somebody watches: what the queue is waiting for does not end a look."""
OUTAGE_SECS: Final = 120
"""How long the server may be away before waiting is given up."""
FIRST_PAUSE_SECS: Final = 0.2
LAST_PAUSE_SECS: Final = 5.0
GLANCE_SECS: Final = 3
"""For what is asked after Ctrl-C: nobody waits long then."""

WENT: Final = frozenset({"executed", "failed"})
STOPPED: Final = frozenset({"rejected", "cancelled", "expired", "execution_lost"})
READY: Final = frozenset({"approved", "auto_approved", "break_glass"})
UNDER_WAY: Final = frozenset({"dispatched", "running"})

_QUEUE_HINTS: Final = {
    "no_agents": "no agent that serves this database is connected",
    "agents_saturated": "all agents are busy",
    "agents_draining": "all agents are shutting down",
}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is to be done with the result. `timeout` None waits as long as it takes; `keep`: also in `results.dir`."""

    output: Path | None = None
    form: ResultFormat | None = None
    timeout: int | None = None
    wait: bool = False
    keep: bool = True


def result_options(function: F) -> F:
    """`--output`, `--result-format` and `--no-save`, of every command that shows a result."""
    from dbward.settings.client import RESULT_FORMATS

    function = click.option("--no-save", is_flag=True, help="Leave no copy in `results.dir` of the configuration.")(
        function
    )
    function = click.option(
        "--result-format", type=click.Choice(RESULT_FORMATS), help="How to show or save the rows; table is the default."
    )(function)
    return click.option(
        "--output",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Save the result there instead of showing it; .csv, .json and .ndjson choose that format.",
    )(function)


def short(request_id: str) -> str:
    """As much of an id as a person needs; the server knows requests by it."""
    return request_id[:8]


def path_of(request_id: str, *more: str) -> str:
    from dbward.client.http import part

    return "/".join(["/api/requests", part(request_id), *more])


def follow(app: App, request_id: str, status: str, wishes: Wishes, approvers: list[str] | None = None) -> Outcome:
    """Stay with a request until it ends, and show its result. `status` is what it is now."""
    try:
        status = _wait(app, request_id, status, wishes)
        if status == "pending":
            return _pending(app, request_id, approvers or [])
        if status in READY:
            return _ready(app, request_id)
        if status in WENT:
            return _deliver_live(app, request_id, wishes)
        return _stopped(app, request_id, status)
    except KeyboardInterrupt:
        return interrupted(app, request_id)


def deliver(app: App, request_id: str, result: ResultSet, wishes: Wishes) -> Outcome:
    """Show or save a result; a failed execution is an error, with the database's own words."""
    from dbward.cli import render

    app.out.streamed = result.write_json
    if not result.success:
        app.out.data(migrateview.outcomes(result.facts.get("migrations") or ()))
        error = result.head.get("error")
        code = str(error.get("code") or "execution_failed") if isinstance(error, dict) else "execution_failed"
        message = str(result.head.get("error_message") or "the execution failed")
        return Outcome(exit=Exit.FAILED, code=code, message=message)
    render.note_truncation(app.out, result)
    settings = app.settings
    form = wishes.form or settings.result_format
    if wishes.output is not None:
        target = app.env.cwd / wishes.output.expanduser()
        try:
            with Spinner(app.out, "saving") as spinner:

                def tell(rows: int) -> None:
                    spinner.text = f"saving: {rows:,} of {counted(result.row_count, 'row')}"

                render.save(target, result, render.format_for(target, wishes.form, settings.result_format), tell)
        except OSError as e:
            message = f"the statement ran, but its result could not be saved to {target}: {e.strerror or e}"
            hint = f"dbward request result {short(request_id)} shows it again, if it is stored"
            return Outcome(exit=Exit.FAILED, code="output_unwritable", message=message, hint=hint)
        app.out.say(f"saved to {target} {render.summary(result)}")
    elif app.out.human:
        render.show(app.out, result, form)
    if settings.results_dir is not None and wishes.keep:
        _keep(app, settings.results_dir, request_id, result)
    return Outcome()


def fetched(app: App, path: str, params: Mapping[str, Any] | None = None) -> ResultSet | None:
    """The result that `path` answers with, closed when the run is over; None when there is none yet."""
    from dbward.cli.resultset import fetch

    with Spinner(app.out, "fetching the result") as spinner:

        def tell(size: int) -> None:
            spinner.text = f"fetching the result: {size / 2**20:.1f} MB"

        result = fetch(app.client, path, params, tell)
    if result is not None:
        app.on_close(result.close)
    return result


def interrupted(app: App, request_id: str) -> Outcome:
    """After Ctrl-C: the request goes on by itself. Say so, and offer to cancel it where somebody can answer."""
    data: dict[str, Any] = {"request_id": request_id, "interrupted": True}
    try:
        status = app.client.get(path_of(request_id), answer_secs=GLANCE_SECS)["status"]
    except DbwardError:
        status = "unknown"
    if status in WENT or status in STOPPED:
        app.out.say(f"The request is {status} already.")
        app.out.hint(f"dbward request result {short(request_id)}" if status in WENT else _show_hint(request_id))
        return _left({**data, "already_finished": True})
    if app.can_ask and status != "unknown" and not app.yes:
        question = f"\nCancel the request? It is {status}."
        if status == "running":
            question = "\nThe statement is running. Stop it in the database, and cancel the request?"
        if app.asked(question):
            return _cancel(app, request_id, data, status)
    app.out.say(f"The request goes on without you: {request_id}")
    app.out.hint(f"{_show_hint(request_id)}, or end it: dbward request cancel {short(request_id)}")
    return _left(data)


def _cancel(app: App, request_id: str, data: dict[str, Any], status: str) -> Outcome:
    try:
        app.client.post(path_of(request_id, "cancel"))
    except Conflict:
        app.out.say("It has finished in the meantime.")
        app.out.hint(_show_hint(request_id))
        return _left({**data, "already_finished": True})
    except DbwardError as e:
        app.out.say(f"It could not be cancelled: {e.message}")
        app.out.hint(_show_hint(request_id))
        return _left(data)
    app.out.say("Cancelled.")
    made = {"request_id": request_id, "cancelled": True, "was_executing": status == "running"}
    return Outcome(made, Exit.INTERRUPTED, "cancelled", "cancelled after Ctrl-C", said=True)


def _left(data: dict[str, Any]) -> Outcome:
    return Outcome(data, Exit.INTERRUPTED, "interrupted", "interrupted; the request goes on", said=True)


def _wait(app: App, request_id: str, status: str, wishes: Wishes) -> str:
    """The status it ends in, or stops in for want of somebody's decision. Raises `Stop` when time is up."""
    deadline = None if wishes.timeout is None else time.monotonic() + wishes.timeout
    watched = app.out.human and app.env.draws
    told: str | None = None
    away_since: float | None = None
    pause = FIRST_PAUSE_SECS
    with Spinner(app.out, _waiting_for(status, None)) as spinner:
        while True:
            if status in READY and wishes.wait:
                status = _resume(app, request_id)
            if not (status in UNDER_WAY or (status == "pending" and wishes.wait)):
                return status
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise _timed_out(request_id, status)
            left = POLL_SECS if deadline is None else deadline - now
            hold = max(0, min(POLL_ON_TERMINAL_SECS if watched else POLL_SECS, int(left)))
            try:
                seen = app.client.get(
                    path_of(request_id), {"wait": hold, "seen": status}, answer_secs=hold + min(left + 5, 30)
                )
            except Unavailable as e:
                away_since = away_since or now
                if now - away_since > OUTAGE_SECS:
                    raise _outage(request_id, e) from e
                spinner.text = "the server does not answer; trying again"
                time.sleep(_jittered(pause, deadline))
                pause = min(pause * 2, LAST_PAUSE_SECS)
                continue
            away_since, pause = None, FIRST_PAUSE_SECS
            status, hint = seen["status"], seen.get("queue_hint")
            spinner.text = _waiting_for(status, hint)
            if hint != told and hint is not None and not watched:
                app.out.say(_QUEUE_HINTS.get(hint, hint))
            told = hint
            if hold == 0 and (status in UNDER_WAY or status == "pending"):
                time.sleep(_jittered(FIRST_PAUSE_SECS, deadline))


def _waiting_for(status: str, hint: str | None) -> str:
    if status == "dispatched":
        return f"waiting for an agent: {_QUEUE_HINTS.get(hint, hint)}" if hint else "waiting for an agent"
    return {"running": "running", "pending": "waiting for approval"}.get(status, f"the request is {status}")


def _jittered(pause: float, deadline: float | None) -> float:
    spread = pause * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing
    return spread if deadline is None else max(0.0, min(spread, deadline - time.monotonic()))


def _resume(app: App, request_id: str) -> str:
    """Send it on; when somebody else was faster, what they made of it."""
    try:
        status: str = app.client.post(path_of(request_id, "resume"))["status"]
    except Conflict:
        status = app.client.get(path_of(request_id))["status"]
        if status in READY:
            raise
    return status


def _timed_out(request_id: str, status: str) -> Stop:
    return Stop(
        Outcome(
            {"request_id": request_id, "status": status},
            Exit.TIMEOUT,
            "timeout",
            f"request {request_id} is still {status}; it goes on by itself",
            hint=_show_hint(request_id),
        )
    )


def _outage(request_id: str, error: Unavailable) -> Stop:
    return Stop(
        Outcome(
            {"request_id": request_id},
            Exit.FAILED,
            error.code,
            f"{error.message}; request {request_id} may go on without you",
            hint=_show_hint(request_id),
        )
    )


def _pending(app: App, request_id: str, approvers: list[str]) -> Outcome:
    whom = f" by {', '.join(approvers)}" if approvers else ""
    message = f"request {request_id} waits for approval{whom}"
    app.out.say(f"Request {request_id} waits for approval{whom}.")
    app.out.hint(f"once it is approved, run it: dbward request resume {short(request_id)}")
    data = {"request_id": request_id, "status": "pending_approval", "approvers": approvers}
    return Outcome(data, Exit.PENDING, "pending_approval", message, said=True)


def _ready(app: App, request_id: str) -> Outcome:
    app.out.say(f"Request {request_id} is approved and has not been run.")
    app.out.hint(f"run it: dbward request resume {short(request_id)}")
    data = {"request_id": request_id, "status": "approved"}
    message = f"request {request_id} is approved and waits to be resumed"
    return Outcome(data, Exit.PENDING, "approved_pending_resume", message, said=True)


def _stopped(app: App, request_id: str, status: str) -> Outcome:
    known = app.client.get(path_of(request_id))
    why = known.get("reject_reason") or known.get("cancel_reason")
    message = f"request {request_id} was {status}" + (f": {why}" if why else "")
    hint = _show_hint(request_id)
    if status == "execution_lost":
        message = f"the agent was lost while it ran request {request_id}; whether it took effect is not known"
        hint = f"look into the database first; to run it again: dbward request resume {short(request_id)}"
    elif status not in STOPPED:
        message, status = f"request {request_id} has a status this program does not know: {status}", "server_error"
    return Outcome({"request_id": request_id, "status": known["status"]}, Exit.FAILED, status, message, hint)


def _deliver_live(app: App, request_id: str, wishes: Wishes) -> Outcome:
    """The result as it is handed to whoever waits, also when it is not stored."""
    try:
        result = fetched(app, path_of(request_id, "result", "stream"))
    except Gone as e:
        message = f"the statement ran, but its result cannot be had: {e.message}"
        return Outcome({"request_id": request_id}, Exit.FAILED, e.code, message, e.hint)
    if result is None:
        raise Unavailable("the result is not there yet", code="server_error", hint=_show_hint(request_id))
    app.on_close(result.close)
    return deliver(app, request_id, result, wishes)


def _keep(app: App, directory: Path, request_id: str, result: ResultSet) -> None:
    """The copy that `results.dir` asks for; not worth failing for."""
    from dbward.cli import render

    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / f"{request_id}.json"
        render.save(path, result, "json")
    except OSError as e:
        app.out.warn(f"the result was not kept in {directory}: {e.strerror or e}")
    else:
        app.out.say(f"kept in {path}")


def _show_hint(request_id: str) -> str:
    return f"see what became of it: dbward request show {short(request_id)}"
