"""What a text means for a target, as submitting and preflight both see it."""

from __future__ import annotations

from dataclasses import dataclass

from dbward import squawk
from dbward.db import agents, schemas
from dbward.db.engine import Connection
from dbward.domain.judge import Judgement, judge
from dbward.domain.model import Dialect, Target
from dbward.domain.risk import names_of
from dbward.domain.sql.classify import classify
from dbward.domain.sql.facts import facts
from dbward.domain.sql.statements import Classification, Facts, Finding
from dbward.errors import Invalid
from dbward.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Submission:
    """A text that was read. `advice` comes from a program of its own, which is why no transaction is open meanwhile."""

    target: Target
    dialect: Dialect
    plan: Classification
    facts: tuple[Facts, ...]
    advice: tuple[Finding, ...]


def read(rt: Runtime, target: Target, sql: str) -> Submission:
    """Classify `sql` in the dialect of `target`. Raises `Invalid` when it cannot be read, or is refused as a whole."""
    dialect = dialect_of(rt, target)
    plan = classify(sql, dialect, vouched=rt.settings.policy.vouched.get(target, ()))
    return Submission(
        target=target,
        dialect=dialect,
        plan=plan,
        facts=tuple(facts(statement, dialect) for statement in plan.statements),
        advice=squawk.advice(plan) if dialect is Dialect.POSTGRESQL and plan.contains_ddl else (),
    )


def dialect_of(rt: Runtime, target: Target) -> Dialect:
    """What the file says, or the target's agent; PostgreSQL while neither does."""
    with rt.store.read() as conn:
        return rt.settings.dialects.get(target) or agents.dialect_of(conn, target) or Dialect.POSTGRESQL


def judged(rt: Runtime, conn: Connection, said: Submission, *, emergency: bool) -> Judgement:
    """The verdict under the policies and the schema of now."""
    return judge(
        said.plan,
        said.facts,
        said.dialect,
        said.target,
        rt.settings.policy,
        schemas.neighbourhood(conn, said.target, names_of(said.facts)),
        emergency=emergency,
        now=rt.now(),
        advice=said.advice,
    )


def require_registered(rt: Runtime, target: Target) -> None:
    """Raises `Invalid` when the configuration does not list `target`."""
    if target in rt.settings.policy.targets:
        return
    known = sorted({t.environment for t in rt.settings.policy.targets if t.database == target.database})[:5]
    where = f"its environments are: {', '.join(known)}" if known else "no such database"
    raise Invalid(f"{target} is not registered; {where}", code="database.not_registered", hint="see `dbward databases`")
