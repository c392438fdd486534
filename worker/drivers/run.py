"""Runs a statement list over a link: what is the same on every engine, above all what a failure at each point means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from dbward.domain.model import Limits, StatementError
from worker.drivers.base import Outcome
from worker.drivers.errors import (
    CONNECTION_LOST,
    PARTLY_COMMITTED,
    OutcomeUnknown,
    ResultTooLarge,
    StatementCancelled,
    StatementFailed,
    StatementTimeout,
)
from worker.drivers.stopper import Reason, Stopped, Stopper
from worker.rows import Results, RowSink, RowTooLarge

COMMIT_WAIT = 60.0
"""Seconds a commit may take beyond the statement timeout before its outcome counts as unknown."""
CLEANUP_WAIT = 10.0
LOCK_WAIT = 15.0
"""Seconds a statement waits for a lock at most: a gateway must not be the head of a queue of blocked applications."""


class LinkLost(Exception):
    """The connection is gone, or so broken that nothing more can be learnt from it."""


class Link(Protocol):
    """One connection to an engine. Every method raises StatementFailed (the connection still works) or LinkLost."""

    notices: list[str]
    kept: str | None
    """What stays in the database although the list failed, as a sentence; None while a rollback undoes everything."""

    def begin(self, *, read_only: bool, limits: Limits) -> None: ...

    def execute(self, sql: str, results: Results, *, last: bool, read_only: bool) -> int:
        """Runs one statement; returns how many rows it affected. On the read path it may stop at a full result."""
        ...

    def commits_by_itself(self, sql: str) -> bool:
        """Whether this statement may have taken lasting effect before any commit was sent."""
        ...

    def settle(self) -> None:
        """Does what the commit would do that can be slow or refused, while it can still be stopped."""
        ...

    def commit(self) -> None: ...

    def undo(self) -> None:
        """Rolls back, whatever state the connection is in. May set `kept`."""
        ...

    def close(self) -> None: ...


def run(
    link: Link, stopper: Stopper, statements: Sequence[str], *, read_only: bool, limits: Limits, sink: RowSink
) -> Outcome:
    results = Results(sink, limits, strict=read_only)
    try:
        with stopper:
            affected = _run(link, stopper, statements, results, read_only=read_only, limits=limits)
    finally:
        results.close()
        link.close()
    return Outcome(
        rows_affected=None if read_only else affected,
        row_count=results.row_count,
        truncated=results.truncation_reason is not None,
        truncation_reason=results.truncation_reason,
        notices=tuple(link.notices),
    )


def _run(
    link: Link, stopper: Stopper, statements: Sequence[str], results: Results, *, read_only: bool, limits: Limits
) -> int:
    running: str | None = None
    affected = 0
    at = 0
    try:
        for sql in statements:
            check_text(sql)
        stopper.arm(limits.statement_timeout)
        link.begin(read_only=read_only, limits=limits)
        for at, running in enumerate(statements, 1):
            stopper.arm(limits.statement_timeout)
            affected += link.execute(running, results, last=at == len(statements), read_only=read_only)
            stopper.check()
        running, at = None, 0
        stopper.arm(limits.statement_timeout)
        results.finish()
        if not read_only:
            stopper.arm(limits.statement_timeout)
            link.settle()
            stopper.seal(limits.statement_timeout.total_seconds() + COMMIT_WAIT)
            _commit(link)
    except BaseException as cause:
        uncertain = isinstance(cause, LinkLost) and running is not None and link.commits_by_itself(running)
        stopper.hold(CLEANUP_WAIT)
        link.undo()
        where = f"Statement {at} of {len(statements)}." if len(statements) > 1 and at else None
        failure = _meaning(cause, stopper, uncertain=uncertain and not read_only, kept=link.kept, where=where)
        if failure is None:
            raise
        raise failure from cause
    if read_only:
        stopper.hold(CLEANUP_WAIT)
        link.undo()
    return affected


def _commit(link: Link) -> None:
    try:
        link.commit()
    except LinkLost as lost:
        raise OutcomeUnknown(
            StatementError(
                OutcomeUnknown.code,
                f"the connection was lost while committing: {lost}",
                hint="Look in the database whether the change is there before running it again.",
            )
        ) from lost


def _meaning(
    cause: BaseException, stopper: Stopper, *, uncertain: bool, kept: str | None, where: str | None
) -> Exception | None:
    """What a failure before the end of the commit is called; None leaves it as it is."""
    if isinstance(cause, OutcomeUnknown):
        return None
    if uncertain:
        return OutcomeUnknown(
            StatementError(
                OutcomeUnknown.code,
                f"the connection was lost during a statement that commits by itself: {cause}",
                detail=joined(where, kept),
                hint="Look in the database whether it took effect before running it again.",
            )
        )
    error = described(cause, stopper.reason)
    if error is None:
        if kept is None:
            return None  # not the database's failure: the sink's, or a fault of ours
        error = StatementError(PARTLY_COMMITTED, str(cause))
    error = replace(error, detail=joined(error.detail, where, kept))
    if kept is not None:
        return StatementFailed(replace(error, code=PARTLY_COMMITTED))
    for kind in (StatementTimeout, StatementCancelled, ResultTooLarge):
        if error.code == kind.code:
            return kind(error)
    return StatementFailed(error)


def described(cause: BaseException, stopped: Reason | None) -> StatementError | None:
    """What stopped a list, for whoever asked for it; None for what is not the database's failure."""
    if not isinstance(cause, (Stopped, LinkLost, StatementFailed, RowTooLarge)):
        return None
    if stopped == "cancelled":
        return StatementError(StatementCancelled.code, "the statement was cancelled")
    if stopped == "timeout":
        return timed_out()
    match cause:
        case StatementFailed():
            return cause.error
        case RowTooLarge():
            return StatementError(
                ResultTooLarge.code, str(cause), hint="Select fewer columns, or a part of the large value."
            )
        case _:
            return StatementError(
                CONNECTION_LOST,
                f"the connection to the database was lost: {cause}",
                hint="Nothing was committed; it can be run again.",
            )


def timed_out(sqlstate: str | None = None) -> StatementError:
    return StatementError(
        StatementTimeout.code, "the statement took longer than its time limit and was stopped", sqlstate=sqlstate
    )


def check_text(sql: str) -> None:
    """Raises StatementFailed for what no driver can send unchanged."""
    if "\0" in sql:
        raise StatementFailed(StatementError("sql.nul", "the statement holds a NUL character"))
    try:
        sql.encode()
    except UnicodeEncodeError:
        raise StatementFailed(
            StatementError("sql.not_unicode", "the statement holds a lone surrogate, which has no UTF-8 form")
        ) from None


def joined(*parts: str | None) -> str | None:
    return " ".join(part for part in parts if part) or None
