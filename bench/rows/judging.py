"""judging a statement: classification, review and risk."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import sqlglot

from bench.lab import BenchFailed, Lab
from bench.report import Line, ms, percentile
from dbward.domain.judge import judge
from dbward.domain.model import AutoApprove, Dialect, PolicySet, RiskLevel, Target, Workflow
from dbward.domain.schema import Schema, SchemaStatus, Table
from dbward.domain.sql.classify import MAX_BYTES, classify
from dbward.domain.sql.facts import facts
from dbward.domain.sql.statements import Name
from dbward.errors import Invalid

ORDER = 9
ROUNDS = 400
BUDGET_SECS = 0.05
BIG_SECS = 10.0
TARGET = Target("app", "production")
POLICIES = PolicySet(
    targets=(TARGET,), workflows=(Workflow("wf", auto_approve=AutoApprove("risk_based", RiskLevel.LOW)),)
)
NAMES = {Dialect.POSTGRESQL: "postgres", Dialect.MYSQL: "mysql", Dialect.SQLITE: "sqlite"}
ORDINARY = (
    "SELECT id, name FROM users WHERE id = 42",
    """WITH spent AS (SELECT user_id, sum(amount) AS total FROM orders WHERE placed_at >= '2026-01-01' GROUP BY user_id)
    SELECT u.name, s.total, rank() OVER (ORDER BY s.total DESC) AS place
    FROM spent AS s JOIN users AS u ON u.id = s.user_id WHERE s.total > 100 ORDER BY place LIMIT 20""",
    "UPDATE users SET plan = 'free', changed_at = '2026-05-01' WHERE id IN (1, 2, 3)",
    "DELETE FROM orders WHERE placed_at < '2020-01-01' AND user_id = 7",
    "CREATE TABLE notes (id int PRIMARY KEY, user_id int NOT NULL, body varchar(200))",
)


def measure(_lab: Lab) -> list[Line]:
    now = datetime.now(UTC)
    tables = tuple(Table(Name(name, "public"), estimated_rows=10_000) for name in ("users", "orders"))
    schema = Schema(SchemaStatus.READY, now, tables)

    def ours(sql: str, dialect: Dialect) -> None:
        plan = classify(sql, dialect)
        known = [facts(statement, dialect) for statement in plan.statements]
        judge(plan, known, dialect, TARGET, POLICIES, schema, emergency=False, now=now)

    def parsed(sql: str, dialect: Dialect) -> None:
        sqlglot.parse(sql, dialect=NAMES[dialect])

    lines = []
    for dialect in Dialect:
        judged, beside = _timed(ours, dialect), _timed(parsed, dialect)
        middle, worst = percentile(judged, 0.5), percentile(judged, 0.99)
        lines.append(
            Line(
                what=f"judging an ordinary statement ({dialect}), median and p99",
                ours=f"{ms(middle)} and {ms(worst)}",
                budget=f"p99 under {ms(BUDGET_SECS)}",
                ok=worst < BUDGET_SECS,
                beside=f"sqlglot.parse alone: {ms(percentile(beside, 0.5))} and {ms(percentile(beside, 0.99))}",
                ratio=f"{middle / percentile(beside, 0.5):.1f}",
            )
        )
    slowest, what = max((_seconds(ours, sql, dialect), f"{dialect}") for dialect in Dialect for sql in _megabytes())
    lines.append(
        Line(
            what="judging 1 MB of SQL, the slowest of several",
            ours=f"{slowest:.1f} s ({what})",
            budget=f"under {BIG_SECS:.0f} s",
            ok=slowest < BIG_SECS,
            note="a list of values, a long condition, many statements, one long text, and what cannot be read",
        )
    )
    return lines


def _timed(work: Callable[[str, Dialect], None], dialect: Dialect) -> list[float]:
    for sql in ORDINARY:
        work(sql, dialect)
    return [_seconds(work, ORDINARY[n % len(ORDINARY)], dialect) for n in range(ROUNDS)]


def _seconds(work: Callable[[str, Dialect], None], sql: str, dialect: Dialect) -> float:
    began = time.perf_counter()
    try:
        work(sql, dialect)
    except Invalid as e:
        if sql in ORDINARY:
            raise BenchFailed(f"{sql}: {e.message}") from e
    return time.perf_counter() - began


def _megabytes() -> list[str]:
    return [
        "INSERT INTO users (id) VALUES " + ", ".join("(1, 'x')" for _ in range(100_000)),
        "SELECT id FROM users WHERE " + " OR ".join(f"(id = {n} AND plan = 'free')" for n in range(30_000)),
        "DELETE FROM users WHERE id = 1;" * 100,
        "SELECT '" + "x" * (MAX_BYTES - 10) + "'",
        "SELECT " + "(" * (MAX_BYTES - 10),
        "SELECT " + "1 + " * 250_000 + "1",
    ]
