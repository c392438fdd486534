"""What a database has applied, and the requests that change it: `dbward migrate status`, `up`, `down` and `repair`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from dbward.cli import follow, migrateview, submitting
from dbward.cli.app import EPILOG, App, global_options, pass_app
from dbward.cli.exits import Exit, Outcome
from dbward.cli.tables import clean, counted
from dbward.errors import Invalid, Misconfigured, Refused

if TYPE_CHECKING:
    from dbward.domain.migration import Sent
    from dbward.migrate.files import Migration
    from dbward.migrate.plan import Entry

ASK_SECS: Final = 20
"""How long an agent may take to say what is applied."""

_VERBS: Final = {"migrate_up": ("Apply", "pending"), "migrate_down": ("Revert", "applied")}


@click.command("status", epilog=EPILOG)
@click.option("--exit-code", is_flag=True, help="End with status 1 unless everything is applied, and unchanged.")
@global_options(hidden=True)
@pass_app
def status(app: App, /, *, exit_code: bool) -> Outcome:
    """Show which migrations are applied, and which are pending, changed since, or without a file.

    An agent reads what the database has recorded. Nothing is created in it, and nobody needs to approve it; it takes
    the permission to read the schema.
    """
    entries = _entries(app, _files(app))
    counts = {state: sum(one.state == state for one in entries) for state in _states()}
    app.out.data(migrateview.states(entries))
    summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no migrations"
    database, environment = _target(app)
    data = {"database": database, "environment": environment, **counts}
    data["migrations"] = [migrateview.entry_json(one) for one in entries]
    if exit_code and sum(counts.values()) > counts["applied"]:
        return Outcome(data, Exit.FAILED, "migration.differs", f"{database}/{environment}: {summary}")
    app.out.say(f"({summary})")
    if counts["pending"]:
        app.out.hint(f"apply what is pending: dbward migrate up{_typed(app)}")
    return Outcome(data)


@click.command("up", epilog=EPILOG)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Apply no more than N migrations.")
@click.option("--to", metavar="VERSION", help="Apply those up to VERSION, it included.")
@click.option("--dry-run", is_flag=True, help="Show what would be applied, and make no request.")
@click.option("--strict", is_flag=True, help="Refuse to apply one whose version is lower than an applied one.")
@click.option("--ignore-changed", is_flag=True, help="Go on although the files of applied migrations have changed.")
@click.option("--ignore-missing", is_flag=True, help="Go on although the files of applied migrations are not there.")
@submitting.emergency_options
@submitting.waiting_options
@submitting.record_options
@global_options(hidden=True)
@pass_app
def up(
    app: App,
    /,
    count: int | None,
    to: str | None,
    *,
    dry_run: bool,
    strict: bool,
    ignore_changed: bool,
    ignore_missing: bool,
    **asked: Any,
) -> Outcome:
    """Apply the pending migrations, lowest version first.

    What is pending is worked out first. Exactly those files, as they are now, become the request: the approver sees
    each of them, and nothing else runs. When nothing is pending, no request is made.

    Exit status: 0 they are applied, or nothing was pending; 1 it was refused or failed; 2 it waits for an approval or
    for being resumed; 124 --timeout; 130 Ctrl-C.
    """
    submitting.check_emergency(asked)
    from dbward.migrate.plan import Tolerated, Wanted, forward

    entries = _entries(app, _files(app))
    tolerated = Tolerated(changed=ignore_changed, missing=ignore_missing, late=not strict)
    chosen = forward(entries, Wanted(count, to), tolerated)
    for one in chosen:
        if one.late:
            app.out.warn(f"{one.title} comes late: a higher version is applied already")
    return _run(app, "migrate_up", chosen, asked, dry_run=dry_run)


@click.command("down", epilog=EPILOG)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Revert N migrations; 1 is the default.")
@click.option("--to", metavar="VERSION", help="Revert those above VERSION, which stays applied.")
@click.option("--dry-run", is_flag=True, help="Show what would be reverted, and make no request.")
@click.option("--ignore-changed", is_flag=True, help="Revert even what has changed in its file since it was applied.")
@submitting.emergency_options
@submitting.waiting_options
@submitting.record_options
@global_options(hidden=True)
@pass_app
def down(
    app: App, /, count: int | None, to: str | None, *, dry_run: bool, ignore_changed: bool, **asked: Any
) -> Outcome:
    """Revert the migration that was applied last, or several, highest version first.

    Which they are is worked out first and becomes the request, so running it again reverts nothing more. It stops
    before it begins when one of them has nothing after `-- migrate:down`.

    Exit status: as of `dbward migrate up`.
    """
    if count is not None and to is not None:
        raise click.UsageError("give either --count or --to")
    submitting.check_emergency(asked)
    from dbward.migrate.plan import Tolerated, Wanted, backward

    wanted = Wanted(count if count is not None or to is not None else 1, to)
    chosen = backward(_entries(app, _files(app)), wanted, Tolerated(changed=ignore_changed))
    return _run(app, "migrate_down", chosen, asked, dry_run=dry_run)


@click.command("repair", epilog=EPILOG)
@click.option("--action", type=click.Choice(["mark-applied", "remove"]), required=True, help="What to do with it.")
@click.option("--version", "version", metavar="VERSION", required=True, help="Of which: VERSION, or VERSION_NAME.")
@click.option("--emergency", is_flag=True, help="Has to be given: nobody approves a repair.")
@click.option("--reason", metavar="TEXT", help="Why; it goes on the record, and has to be given.")
@submitting.timeout_option
@submitting.record_options
@global_options(hidden=True)
@pass_app
def repair(app: App, /, action: str, version: str, **asked: Any) -> Outcome:
    """Mend the database's record of its migrations after one was applied or reverted by hand, or in part.

    `mark-applied` records the file VERSION as applied; `remove` has the database forget it. No SQL of the migration
    runs. What is so already is left alone, and no request is made.
    """
    if not asked["emergency"] or not (asked["reason"] or "").strip():
        raise Misconfigured(
            "a repair needs --emergency and --reason",
            hint="it changes what counts as applied, and nobody approves it; the reason goes on the record",
        )
    from dbward.domain.migration import Repair, write_repair
    from dbward.migrate.plan import find

    marking = action == "mark-applied"
    entries = _entries(app, _files(app) if marking else _files_if_any(app))
    one = find([each for each in entries if each.file is not None] if marking else entries, version)
    if (one.applied is not None) is marking:
        return _settled(app, one, action)
    what = Repair("mark_applied" if marking else "remove", one.version)
    if one.file is not None:
        what = Repair(what.action, one.version, one.file.name, one.file.checksum)
    target = _target(app)
    verb = "Record {} as applied" if marking else "Have {} count as not applied"
    app.confirm(f"{verb.format(clean(one.title))} WITHOUT APPROVAL on {'/'.join(target)}? None of its SQL runs.")
    made = submitting.submit(app, submitting.body("migrate_repair", target, write_repair(what), asked))
    return _follow(app, made, asked)


def _settled(app: App, one: Entry, action: str) -> Outcome:
    """There is nothing to repair."""
    state = "applied" if one.applied is not None else "not applied"
    app.out.say(f"{one.title} is recorded as {state}; nothing was changed.")
    if one.state == "changed":
        app.out.hint("its file has changed since; to record it as it is now, remove it first, then mark it as applied")
    return Outcome({"changed": False, "action": action.replace("-", "_"), "version": one.version, "name": one.name})


def _run(app: App, operation: str, chosen: Sequence[Entry], asked: dict[str, Any], *, dry_run: bool) -> Outcome:
    """Make one request of exactly these, after a look at them, and stay with it."""
    from dbward.domain.migration import FILES_MAX, write_files
    from dbward.migrate.plan import sent

    verb, state = _VERBS[operation]
    target = _target(app)
    where = "/".join(target)
    files = sent(chosen, up=operation == "migrate_up")
    if dry_run:
        app.out.data(migrateview.preview(files, whole=True))
        app.out.say(f"({counted(len(files), 'migration')} {state} on {where}; no request was made)")
        data = {"database": target[0], "environment": target[1], "operation": operation, "dry_run": True}
        shown = [{**asdict(one), "late": entry.late} for one, entry in zip(files, chosen, strict=True)]
        return Outcome({**data, "migrations": shown})
    if not files:
        app.out.say(f"Nothing is {state} on {where}.")
        return Outcome({"request_id": None, "result_data": {"migrations": [], "applied": [], "reverted": []}})
    if len(files) > FILES_MAX:
        raise Invalid(f"{len(files)} migrations are more than one request takes", hint=f"pass --count {FILES_MAX}")
    _warn_of_open(app, operation, target)
    how = "WITHOUT APPROVAL " if asked["emergency"] else ""
    _show(app, f"{verb} {counted(len(files), 'migration')} {how}on {where}", files)
    made = submitting.submit(app, submitting.body(operation, target, write_files(files), asked))
    return _follow(app, made, asked)


def _warn_of_open(app: App, operation: str, target: tuple[str, str]) -> None:
    """Say which request for the same is open already: perhaps that one is to go on, and not another."""
    for state in ("pending", "approved"):
        wanted = {"operation": operation, "database": target[0], "environment": target[1], "status": state, "limit": 1}
        try:
            found = app.client.get("/api/requests", wanted)["requests"]
        except Refused:  # who may not look at requests may make them
            return
        for one in found:
            app.out.warn(f"request {follow.short(one['id'])} of {one['requester']} is {state} already: {one['detail']}")


def _show(app: App, what: str, files: Sequence[Sent]) -> None:
    """What will run, before it does. Raises `Stop` when it is not meant so, or nobody is there to say."""
    if app.yes:
        app.out.say(f"{what}: {', '.join(one.title for one in files)}")
    else:
        app.confirm("\n".join([*migrateview.preview(files, whole=False), f"{what}?"]))


def _follow(app: App, made: dict[str, Any], asked: dict[str, Any]) -> Outcome:
    wishes = follow.Wishes(timeout=asked["timeout"], wait=asked.get("wait", False), keep=False)
    return follow.follow(app, made["id"], made["status"], wishes, made.get("approvers"))


def _target(app: App) -> tuple[str, str]:
    return app.settings.database(), app.settings.environment()


def _typed(app: App) -> str:
    """The target as far as it was given on the command line, and so has to be given again."""
    given = (("-d", app.options.get("database")), ("-e", app.options.get("environment")))
    return "".join(f" {flag} {shlex.quote(name)}" for flag, name in given if name)


def _states() -> tuple[str, ...]:
    from dbward.migrate.plan import State

    return tuple(State)


def _files(app: App) -> Sequence[Migration]:
    from dbward.migrate.files import read_directory

    return read_directory(app.settings.migrations())


def _files_if_any(app: App) -> Sequence[Migration]:
    """For what needs no files: who mends a record need not have them, and they need not be right."""
    try:
        return _files(app)
    except Invalid:
        return ()


def _entries(app: App, files: Sequence[Migration]) -> Sequence[Entry]:
    """The files beside what the database has applied. Raises what keeps the server from telling."""
    from dbward.cli.spinner import Spinner
    from dbward.client.http import ANSWER_SECS, part
    from dbward.domain.migration import Applied
    from dbward.migrate.plan import join

    database, environment = _target(app)
    with Spinner(app.out, "asking what is applied"):
        answer = app.client.get(
            f"/api/migrations/{part(database)}/{part(environment)}",
            {"timeout_ms": ASK_SECS * 1000},
            answer_secs=ANSWER_SECS + ASK_SECS,
        )
    applied = [
        Applied(
            version=one["version"],
            name=one["name"],
            checksum=one["checksum"],
            applied_at=datetime.fromisoformat(one["applied_at"]) if one["applied_at"] else None,
            request_id=one["request_id"],
        )
        for one in answer["versions"]
    ]
    return join(files, applied)
