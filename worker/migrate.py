"""Runs what a request pinned of its migrations, one file after the other, while nobody else migrates the database.

Each file has a connection of its own, so nothing that one sets is left to the next, or to the record. The lock is on
another one still. What was done is told whatever becomes of the rest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from dbward.client.wire import WireStep
from dbward.domain.migration import Pinned, Repair, StepOutcome, repair_command
from dbward.domain.model import Operation, StatementError
from worker import outcome
from worker.databases import Databases
from worker.drivers.base import Broken, Script
from worker.drivers.errors import (
    CONNECTION_LOST,
    PARTLY_COMMITTED,
    CredentialsRefused,
    OutcomeUnknown,
    StatementCancelled,
    StatementFailed,
    Unreachable,
)
from worker.drivers.ledger import Ledger, MigrationLock
from worker.drivers.migrating import transaction_control
from worker.drivers.run import joined
from worker.job import Plan
from worker.jobs import Job
from worker.lease import Stop
from worker.outcome import Ended
from worker.surprise import log_surprise

log = logging.getLogger("dbward.agent")

_LOCK_LOST: Final = StatementError(
    "migration.lock_lost",
    "the connection that keeps others from migrating the same database was lost",
    hint="run it again: what is applied is skipped",
)
_STOPPED: Final = {
    Stop.CANCELLED: StatementError(StatementCancelled.code, "cancelled on request"),
    Stop.DRAINED: StatementError("agent.stopped", "the agent was stopped"),
    Stop.LOST: StatementError("execution.lease_lost", "the agent lost its lease and stopped"),
    None: StatementError("statement.killed", "stopped in the database by somebody else"),
}


class _Stop(Exception):
    """No further file is begun. `ended` says why, without its steps."""

    def __init__(self, ended: Ended) -> None:
        super().__init__()
        self.ended = ended


def migrate(job: Job, plan: Plan, databases: Databases, lock: MigrationLock) -> Ended:
    """Run the migrations or the repair of `plan` under `lock`. Never raises."""
    run = _Run(job, plan, databases, lock)
    try:
        run.run()
        ended = Ended("completed")
    except _Stop as e:
        ended = e.ended
    except Exception as e:  # noqa: BLE001 - whatever it is, the server must hear of it
        log_surprise("the migration failed in the agent", e)
        ended = run.at_a_loss(outcome.surprise(e))
    return replace(ended, steps=run.steps())


class _Run:
    def __init__(self, job: Job, plan: Plan, databases: Databases, lock: MigrationLock) -> None:
        self._job = job
        self._plan = plan
        self._databases = databases
        self._lock = lock
        self._up = plan.operation is Operation.MIGRATE_UP
        self._done: list[WireStep] = []
        self._at_work: tuple[str, str | None] | None = None
        """Version and name of what was begun and whose end is not known here."""

    def run(self) -> None:
        """Raises `_Stop` when not all of it is done."""
        what = self._plan.migration
        ledger = self._ledger()
        if isinstance(what, Repair):
            self._repair(what, ledger)
            return
        todo = what or ()
        self._refuse_changed(todo, ledger)
        pending = {one.version for one in todo if ledger.has(one.version) is not self._up}
        for one in todo:
            if one.version in pending:
                _refuse_transaction_control(one)
        if self._up and pending:
            self._make_tables(ledger)
        for one in todo:
            if one.version in pending:
                self._file(one, ledger)
            else:
                self._add(one.version, one.name, StepOutcome.SKIPPED)

    def steps(self) -> tuple[WireStep, ...]:
        """What became of each, in order: those that had no turn were not run."""
        what = self._plan.migration
        named = [(what.version, what.name)] if isinstance(what, Repair) else [(o.version, o.name) for o in what or ()]
        rest = [
            WireStep(version=version, name=name, outcome=StepOutcome.NOT_RUN)
            for version, name in named[len(self._done) :]
        ]
        return (*self._done, *rest)

    def at_a_loss(self, error: StatementError) -> Ended:
        """For a failure that nobody foresaw, in the middle of a file or between two."""
        if self._at_work is None:
            return outcome.failed(self._told(error))
        self._add(*self._at_work, StepOutcome.UNKNOWN)
        return outcome.unknown(self._told(error))

    def _ledger(self) -> Ledger:
        target = self._plan.target
        try:
            return self._databases.driver(target).ledger()
        except (Unreachable, CredentialsRefused) as e:
            self._databases.mark_down(target, e.message)
            raise _Stop(outcome.failed(outcome.unreachable(e, target))) from e
        except StatementFailed as e:
            message = f"the record of migrations cannot be read: {e.message}"
            raise _Stop(outcome.failed(replace(e.error, message=message))) from e

    def _refuse_changed(self, todo: Sequence[Pinned], ledger: Ledger) -> None:
        """Up, of what is applied already the text has to be this one; down, it has to be the one that was to go."""
        recorded = {one.version: one.checksum for one in ledger.applied}
        for one in todo:
            known = recorded.get(one.version)
            if self._up and known not in (None, one.checksum):
                commands = (repair_command(action, one.version, self._plan.target) for action in _ANEW)
                raise _Stop(
                    _changed(
                        f"{one.title} is not what was applied of this version",
                        "Put the file back as it was. If the new one says what the database has: "
                        + ", then ".join(commands),
                    )
                )
            if not self._up and one.version in recorded and known != one.recorded:
                raise _Stop(
                    _changed(
                        f"{one.title} was applied anew from another text since this was asked for",
                        "Ask for it again: dbward migrate down",
                    )
                )

    def _make_tables(self, ledger: Ledger) -> None:
        missing = ledger.missing()
        if not missing:
            return
        broken = self._script(Script(missing, (), transactional=True))
        if broken is not None:
            error = replace(broken.error, message=f"the tables of the record cannot be made: {broken.error.message}")
            raise _Stop(self._stopped(broken, error))

    def _file(self, one: Pinned, ledger: Ledger) -> None:
        request_id = self._plan.request_id
        if self._up:
            records = ledger.adding(one.version, name=one.name, checksum=one.checksum, request_id=request_id)
        else:
            records = ledger.removing(one.version)
        log.info("migrating %s: %s", "up" if self._up else "down", one.title)
        script = Script(tuple(one.statements), records, transactional=one.transactional)
        broken = self._step(one, script, StepOutcome.APPLIED if self._up else StepOutcome.REVERTED)
        if broken is not None:
            raise _Stop(self._stopped(broken, self._explained(one, broken)))

    def _repair(self, what: Repair, ledger: Ledger) -> None:
        mark = what.action == "mark_applied"
        if ledger.has(what.version) is mark:
            self._add(what.version, what.name, StepOutcome.SKIPPED)
            return
        if mark:
            self._make_tables(ledger)
            texts = ledger.adding(
                what.version, name=what.name, checksum=what.checksum, request_id=self._plan.request_id
            )
        else:
            texts = ledger.removing(what.version)
        script = Script((), texts, transactional=True)
        broken = self._step(what, script, StepOutcome.MARKED if mark else StepOutcome.REMOVED)
        if broken is not None:
            raise _Stop(self._stopped(broken, broken.error))

    def _step(self, one: Pinned | Repair, script: Script, done: StepOutcome) -> Broken | None:
        """Run it and add what became of it, unless it was stopped before it began."""
        began = time.monotonic()
        self._at_work = (one.version, one.name)
        broken = self._script(script)
        self._at_work = None
        if broken is None:
            became = done
        elif broken.kind == "cancelled" and broken.at == 0:
            return broken
        else:
            became = StepOutcome.UNKNOWN if broken.kind == "unknown" else StepOutcome.FAILED
        self._add(one.version, one.name, became, int((time.monotonic() - began) * 1000))
        return broken

    def _script(self, script: Script) -> Broken | None:
        """On a connection of its own. Raises `_Stop` when it may not begin."""
        if self._job.halt.is_set():
            raise _Stop(self._stopped(Broken("cancelled", _STOPPED[None], 0), self._told(self._why())))
        if not self._lock.held():
            raise _Stop(outcome.failed(self._told(_LOCK_LOST)))
        target = self._plan.target
        try:
            with self._databases.open(target) as session:
                self._job.runs_on(session)
                try:
                    broken = session.migrate(script, limits=self._plan.limits)
                finally:
                    self._job.runs_on(None)
        except (Unreachable, CredentialsRefused) as e:
            self._databases.mark_down(target, e.message)
            raise _Stop(outcome.failed(self._told(outcome.unreachable(e, target)))) from e
        if broken is not None and broken.error.code in (CONNECTION_LOST, OutcomeUnknown.code):
            self._databases.mark_down(target, broken.error.message)
        return broken

    def _stopped(self, broken: Broken, error: StatementError) -> Ended:
        """Cancelled is what changed nothing; with a part of it done, the rest failed."""
        if broken.kind == "unknown":
            return outcome.unknown(error)
        changed = any(step.outcome in _CHANGES for step in self._done) or broken.took_effect or broken.stays
        if broken.kind == "cancelled" and self._job.why is Stop.CANCELLED and not changed:
            return Ended("cancelled", error)
        return outcome.failed(error)

    def _why(self) -> StatementError:
        return _STOPPED[self._job.why]

    def _explained(self, one: Pinned, broken: Broken) -> StatementError:
        """The file and its statement before the database's words, and what is to be done about what stays of it."""
        count = len(one.statements)
        what = one.title
        if 1 <= broken.at <= count:
            after = "after " if broken.kind == "cancelled" and broken.took_effect == broken.at else ""
            what += f", {after}statement {broken.at} of {count}" if count > 1 else ""
        elif broken.at > count:
            what += ", when it was recorded"
        error = self._why() if broken.kind == "cancelled" else broken.error
        stays = joined(_took_effect(broken, count), broken.stays)
        if broken.kind != "unknown" and stays is None:
            stays = "Nothing of this file stays."
        code, hint = error.code, error.hint
        partly = bool(broken.took_effect or broken.stays)
        if partly and broken.kind == "failed":
            code = PARTLY_COMMITTED
        if partly or broken.kind == "unknown":
            hint = self._remedy(one, broken)
        elif code == CONNECTION_LOST:
            hint = "It can be run again."
        message, detail = f"{what}: {error.message}", joined(error.detail, stays)
        return self._told(replace(error, code=code, message=message, detail=detail, hint=hint))

    def _remedy(self, one: Pinned, broken: Broken) -> str:
        command = repair_command("mark_applied" if self._up else "remove", one.version, self._plan.target)
        done = "applied" if self._up else "reverted"
        if broken.kind != "unknown" and broken.took_effect == len(one.statements):
            return f"All of the file took effect, and only the record is missing: {command}"
        if broken.kind == "unknown":
            return (
                "Look in the database and in its record (dbward migrate status). If nothing of the file is there, run"
                f" it again; if all of it is, and the record does not say so: {command}"
            )
        return (
            "Undo by hand what stays of the file, then run it again; or do the rest of it by hand and record it as"
            f" {done}: {command}"
        )

    def _told(self, error: StatementError) -> StatementError:
        """With what this run did before, and what it left undone."""
        done = [step.version for step in self._done if step.outcome in _CHANGES]
        if not done:
            return error
        verb = "Applied" if self._up else "Reverted"
        return replace(error, detail=joined(error.detail, f"{verb} before it, and staying so: {', '.join(done)}."))

    def _add(self, version: str, name: str | None, what: StepOutcome, took_ms: int | None = None) -> None:
        self._done.append(WireStep(version=version, name=name, outcome=what, duration_ms=took_ms))


_ANEW: Final = ("remove", "mark_applied")
_CHANGES: Final = frozenset({StepOutcome.APPLIED, StepOutcome.REVERTED})


def _changed(what: str, hint: str) -> Ended:
    return outcome.failed(StatementError("migration.changed", f"{what}; nothing was run", hint=hint))


def _refuse_transaction_control(one: Pinned) -> None:
    at = transaction_control(one.statements)
    if at is not None:
        raise _Stop(
            outcome.failed(
                StatementError(
                    "migration.transaction_control",
                    f"{one.title}, statement {at} of {len(one.statements)}: dbward begins and ends the transaction;"
                    " nothing was run",
                    hint="Leave it out. What must not be in a transaction goes into a file with transaction:false.",
                )
            )
        )


def _took_effect(broken: Broken, count: int) -> str | None:
    if not broken.took_effect:
        return None
    if broken.took_effect == count:
        return "All of its statements took effect." if count > 1 else "Its statement took effect."
    if broken.took_effect == 1:
        return "Its first statement took effect and stays."
    return f"Its first {broken.took_effect} statements took effect and stay."
