"""Runs one migration file over a link: its statements and the record of its version, in one transaction or each alone.

What a failure means differs from that of a list of statements: the record tells whether the file counts as applied, so
whatever of the file stays without it has to be said exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal, Protocol

from dbward.domain.model import Limits, StatementError
from worker.drivers.base import Broken, Script
from worker.drivers.errors import OutcomeUnknown, StatementCancelled
from worker.drivers.run import CLEANUP_WAIT, COMMIT_WAIT, Link, LinkLost, check_text, described
from worker.drivers.stopper import Stopped, Stopper
from worker.drivers.words import first_word
from worker.rows import Nowhere, Results

TRANSACTION_WORDS: Final = frozenset(
    {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "XA"}
)
"""First words of statements that begin or end what dbward begins and ends."""

BUSY: Final = StatementError(
    "migration.busy",
    "the database still works for a run of migrations whose agent is gone",
    hint="run it again when that is over",
)


class MigrationLink(Link, Protocol):
    def begin_file(self, *, transactional: bool, limits: Limits) -> None:
        """Like `begin` for writing, or with the same settings and without a transaction. Raises StatementFailed
        (`migration.busy`) while the database still works for a run whose agent is gone."""
        ...

    def execute_alone(self, sql: str, results: Results) -> None:
        """Runs one statement outside a transaction."""
        ...

    def record_alone(self, records: Sequence[str]) -> None:
        """Runs our own statements in a transaction of their own."""
        ...

    def forget(self) -> None:
        """After the end, leaves nothing of the session to whoever gets it next from a pooler. Never raises."""
        ...


def migrate(link: MigrationLink, stopper: Stopper, script: Script, *, limits: Limits, gentle: bool) -> Broken | None:
    """None when all of it took effect. With `gentle` a cancellation waits for the end of a statement, because what an
    interrupted one leaves cannot be taken back; and after the last it comes too late."""
    if gentle:
        stopper.be_gentle()
    results = Results(Nowhere(), replace(limits, max_rows=0), strict=False)
    try:
        with stopper:
            return _Run(link, stopper, script, limits, results, gentle=gentle).run()
    finally:
        results.close()
        link.close()


class _Run:
    def __init__(
        self, link: MigrationLink, stopper: Stopper, script: Script, limits: Limits, results: Results, *, gentle: bool
    ) -> None:
        self._link = link
        self._stopper = stopper
        self._script = script
        self._limits = limits
        self._results = results
        self._gentle = gentle
        self._at = 0
        self._took_effect = 0
        self._kept = ""
        """What the link said of the statements that are counted already."""
        self._sending: str | None = None
        self._committing = False

    def run(self) -> Broken | None:
        try:
            for sql in self._script.statements:
                check_text(sql)
            self._stopper.arm(self._limits.statement_timeout)
            self._link.begin_file(transactional=self._script.transactional, limits=self._limits)
            for sql in self._script.statements:
                self._statement(sql)
            self._at += 1
            self._record()
            self._link.forget()
        except BaseException as cause:
            self._stopper.hold(CLEANUP_WAIT)
            self._link.undo()
            broken = self._meaning(cause)
            if broken is None:
                raise
            return broken
        return None

    def _statement(self, sql: str) -> None:
        self._at += 1
        self._stopper.arm(self._limits.statement_timeout)
        self._sending = sql
        if self._script.transactional:
            self._link.execute(sql, self._results, last=False, read_only=False)
        else:
            self._link.execute_alone(sql, self._results)
        self._sending = None
        kept = self._link.kept or ""
        if not self._script.transactional or kept != self._kept:
            self._took_effect, self._kept = self._at, kept
        if not (self._gentle and self._at == len(self._script.statements)):
            self._stopper.check()

    def _record(self) -> None:
        limit = self._limits.statement_timeout.total_seconds()
        if self._gentle:
            self._stopper.hold(limit + COMMIT_WAIT)
        else:
            self._stopper.arm(self._limits.statement_timeout)
        if not self._script.transactional:
            self._committing = True
            self._link.record_alone(self._script.records)
            return
        for sql in self._script.records:
            self._link.execute(sql, self._results, last=False, read_only=False)
        self._link.settle()
        if not self._gentle:
            self._stopper.seal(limit + COMMIT_WAIT)
        self._committing = True
        self._link.commit()

    def _meaning(self, cause: BaseException) -> Broken | None:
        """What ended it; None for what is not the database's failure."""
        stays = (self._link.kept or "").removeprefix(self._kept).strip() or None
        if isinstance(cause, LinkLost) and self._may_have_taken_effect():
            when = "while committing" if self._committing else "during a statement that commits by itself"
            error = StatementError(OutcomeUnknown.code, f"the connection was lost {when}: {cause}")
            return Broken("unknown", error, self._at, self._took_effect, stays)
        heeded = self._stopper.reason != "cancelled" or not self._gentle or isinstance(cause, Stopped)
        described_as = described(cause, self._stopper.reason if heeded else None)
        if described_as is None:
            return None
        kind: Literal["failed", "cancelled"] = "cancelled" if described_as.code == StatementCancelled.code else "failed"
        return Broken(kind, described_as, self._at, self._took_effect, stays)

    def _may_have_taken_effect(self) -> bool:
        if self._committing:
            return True
        if self._sending is None:
            return False
        return not self._script.transactional or self._link.commits_by_itself(self._sending)


def transaction_control(statements: Sequence[str]) -> int | None:
    """Which statement, from 1, begins or ends a transaction; None when none does."""
    for at, sql in enumerate(statements, 1):
        if first_word(sql) in TRANSACTION_WORDS:
            return at
    return None
