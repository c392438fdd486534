"""What a target database looks like to the agent, whatever engine it is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Literal, Protocol, Self

from sqlalchemy import Connection

from dbward.domain.model import Dialect, Limits, StatementError
from dbward.domain.plans import Plan
from worker.drivers.ledger import Ledger, MigrationLock
from worker.rows import Batch, RowSink
from worker.values import JsonValue

__all__ = ["Batch", "Broken", "Driver", "JsonValue", "Outcome", "RowSink", "Script", "Session"]

CONNECT_TIMEOUT = 10.0
"""Seconds for connecting, name look-up and handshake included, unless the URL says `connect_timeout`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A list that ran to its end. `rows_affected` is None on the read path; `row_count` counts the rows the sink got.

    `notices` are sentences for the requester about what the engine did on its own, such as an implicit commit.
    """

    rows_affected: int | None
    row_count: int
    truncated: bool
    truncation_reason: str | None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Script:
    """One file in one direction. `records` are ours: they write the record of its version, always in a transaction."""

    statements: tuple[str, ...]
    records: tuple[str, ...]
    transactional: bool


@dataclass(frozen=True, slots=True)
class Broken:
    """A script that did not run to its end, or of which nobody knows.

    `at` counts its statements from 1; 0 is before the first, one more than there are is the record or the commit.
    `took_effect` is how many statements did for good, from the first on; `stays` says what else may have stayed.
    """

    kind: Literal["failed", "cancelled", "unknown"]
    error: StatementError
    at: int
    took_effect: int = 0
    stays: str | None = None


class Session(Protocol):
    """One connection for one statement list, or one migration file; spent after it. Closing leaves nothing behind."""

    def run(self, statements: Sequence[str], *, read_only: bool, limits: Limits, sink: RowSink) -> Outcome:
        """Runs each text, one statement each, unchanged, in one transaction; the last one with rows fills `sink`.

        With `read_only` the database itself refuses writes and everything is rolled back. Otherwise it commits after
        the sink took the last row. `limits.statement_timeout` holds for each statement, sending its rows included.

        Raises StatementFailed, StatementTimeout, ResultTooLarge, StatementCancelled, OutcomeUnknown, or what the sink
        raised (rolled back).
        """
        ...

    def explain(self, statement: str, *, timeout: timedelta) -> Plan:
        """How the database would run the statement, which is not run: whatever asking did is rolled back.

        Raises StatementFailed, StatementTimeout or StatementCancelled; the session is spent.
        """
        ...

    def migrate(self, script: Script, *, limits: Limits) -> Broken | None:
        """Runs one migration file and records it; None when all of it took effect. `cancel` stops it where that leaves
        nothing, elsewhere after the statement at work. Raises nothing that the database is the cause of."""
        ...

    def cancel(self) -> None:
        """From another thread, at any time: stops the statement in the database, trying until it has stopped.
        Returns at once; `run` raises StatementCancelled. Without effect once the commit was sent."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Driver(Protocol):
    @property
    def dialect(self) -> Dialect: ...

    def ping(self) -> None:
        """Connects and asks for a sign of life. Raises Unreachable or CredentialsRefused."""
        ...

    def open(self) -> Session:
        """A fresh connection. Raises Unreachable or CredentialsRefused."""
        ...

    def lock_migrations(self) -> MigrationLock | None:
        """The right to migrate this database; None while another run has it, or the database still works for one.

        Raises Unreachable, CredentialsRefused, or StatementFailed where there is no way to lock it.
        """
        ...

    def ledger(self) -> Ledger:
        """What was migrated, empty where nothing ever was. Reads only. Raises Unreachable, CredentialsRefused, or
        StatementFailed."""
        ...

    def reflect(self) -> AbstractContextManager[Connection]:
        """A connection for reading the catalog: read-only, with time limits, apart from all sessions.

        Raises Unreachable or CredentialsRefused; what a query raises stays SQLAlchemy's.
        """
        ...

    def close(self) -> None: ...
