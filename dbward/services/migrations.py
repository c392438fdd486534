"""Which migrations a database has applied: asked of an agent, which reads them and changes nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from dbward.client.shapes import AppliedQuestion
from dbward.db import agents, explains
from dbward.db.engine import Tx
from dbward.db.rows import ExplainRow
from dbward.domain import rbac
from dbward.domain.model import Operation, Permission, Principal, Target
from dbward.domain.names import parse_name
from dbward.domain.plans import ExplainKind
from dbward.errors import Conflict, Unavailable
from dbward.runtime import Runtime
from dbward.services import submission
from dbward.services.explains import GRACE, end, put, question, refuse_crowd, served_by
from dbward.services.views import View

READING_TIMEOUT: Final = timedelta(seconds=15)
"""For the database to say what it has."""


def ask(rt: Runtime, who: Principal, database: str, environment: str, asked: AppliedQuestion) -> str:
    """Ask an agent which versions a target has applied; the id of the question, for `answer`.

    Needs `schema.read`: like the schema, it says what the database is made of and holds no data. Raises `Refused`,
    `Invalid`, `RateLimited`, and `Unavailable` (`migration.no_agent`) when nobody could answer.
    """
    target = Target(parse_name(database, "database"), parse_name(environment, "environment"))
    if (refusal := rbac.refuse(who, Permission.SCHEMA_READ, target=target, owner=None)) is not None:
        raise refusal
    submission.require_registered(rt, target)
    with rt.store.read() as conn:
        if not served_by(agents.all_agents(conn), rt, target, Operation.MIGRATE_STATUS):
            raise Unavailable(
                f"no agent that knows of migrations serves {target} at the moment",
                code="migration.no_agent",
                hint="see `dbward agents`: one has to be up, reach the database, and list migrate_status",
            )
    lifetime = timedelta(milliseconds=asked.timeout_ms) + GRACE
    row = question(
        rt,
        ExplainKind.MIGRATIONS,
        target,
        submission.dialect_of(rt, target),
        [],
        requested_by=who.subject,
        timeout=READING_TIMEOUT,
        lifetime=lifetime,
    )

    def work(tx: Tx) -> str:
        refuse_crowd(rt, tx, who.subject, lifetime)
        return put(rt, tx, row)

    return rt.store.write(work)


def answer(rt: Runtime, explain_id: str) -> View | None:
    """What the database has applied; None while nobody has said. Woken by `explain:<id>`.

    Raises `Unavailable` (`migration.no_answer`), and `Conflict` (`migration.unreadable`) with the database's words.
    """
    with rt.store.read() as conn:
        row = explains.find(conn, explain_id)
    return None if row is not None and row.status in explains.OPEN else _view(row)


def give_up(rt: Runtime, explain_id: str) -> View:
    """End a question that is not waited for any more: the answer that came just now. Raises as `answer` does."""
    return _view(end(rt, explain_id))


def _view(row: ExplainRow | None) -> View:
    if row is None or not row.outcome:
        raise Unavailable(
            row.reason if row is not None and row.reason else "no agent said in time what is applied",
            code="migration.no_answer",
            hint="try again; `dbward agents` shows what the agents are doing",
        )
    found = row.outcome[0]
    if (error := found["error"]) is not None:
        raise Conflict(
            f"what {row.target} has applied cannot be read: {error['message']}",
            code="migration.unreadable",
            hint=error["hint"],
        )
    return {"database": row.database, "environment": row.environment, "versions": found["versions"]}
