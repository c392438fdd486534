"""Asking an engine how it would run one statement, which is never run: EXPLAIN before the text, always rolled back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from dbward.client.wire import ResultColumn
from dbward.domain.model import Dialect, Limits, StatementError
from dbward.domain.plan_readers import UnreadablePlan, read_plan
from dbward.domain.plans import Plan
from worker.drivers.errors import StatementFailed
from worker.drivers.run import Link, run
from worker.drivers.stopper import Stopper
from worker.drivers.words import first_word
from worker.rows import Batch
from worker.values import JsonValue

PREFIXES: Final = {
    # VERBOSE names the schemas of the tables.
    Dialect.POSTGRESQL: "EXPLAIN (FORMAT JSON, VERBOSE) ",
    Dialect.MYSQL: "EXPLAIN FORMAT=JSON ",
    Dialect.SQLITE: "EXPLAIN QUERY PLAN ",
}
"""None of them runs the statement. What follows must not begin with a word that would become a part of them."""

CHANGES: Final = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE", "MERGE"})
PLANNED: Final = CHANGES | {"SELECT", "WITH", "VALUES", "TABLE"}

MAX_ROWS: Final = 10_000
MAX_BYTES: Final = 8 * 1024 * 1024
"""Of the engine's own answer, which is read here and made small before it is sent."""

NOT_PLANNED: Final = "explain.not_planned"
UNREADABLE: Final = "explain.unreadable"


class _Rows:
    """A row sink that keeps everything: it is bounded by the limits above."""

    def __init__(self) -> None:
        self.kept: list[list[JsonValue]] = []

    def columns(self, columns: Sequence[ResultColumn], /) -> None:
        """What they are called is known."""

    def rows(self, rows: Batch, /) -> None:
        self.kept += rows


def explain(dialect: Dialect, link: Link, stopper: Stopper, statement: str, *, timeout: timedelta) -> Plan:
    """The plan of one statement, asked for over a link that begins a transaction fit for it.

    Raises StatementFailed (`explain.not_planned` for what has no plan, `explain.unreadable`, or the database's own
    error with its position in `statement`), StatementTimeout, StatementCancelled.
    """
    if first_word(statement) not in PLANNED:
        raise StatementFailed(StatementError(NOT_PLANNED, "a statement of this kind has no plan"))
    prefix, rows = PREFIXES[dialect], _Rows()
    limits = Limits(statement_timeout=timeout, max_rows=MAX_ROWS, max_bytes=MAX_BYTES)
    try:
        run(link, stopper, [prefix + statement], read_only=True, limits=limits, sink=rows)
        return read_plan(dialect, rows.kept)
    except UnreadablePlan:
        message = "the database's plan is nested too deeply, or not of a kind that is known here"
        raise StatementFailed(StatementError(UNREADABLE, message)) from None
    except StatementFailed as e:
        position = e.error.position
        if position is None or position <= len(prefix):
            raise
        raise type(e)(replace(e.error, position=position - len(prefix))) from e
