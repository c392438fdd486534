"""The agent's side of a question how statements would run, or what is migrated: claim it, and answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dbward import ids
from dbward.broker import store as broker
from dbward.client.wire import ClaimRequest, ExplainClaimed, Explained, ExplainReport, WireError
from dbward.db import explains, requests, schemas
from dbward.db.engine import Connection, Tx
from dbward.db.rows import ExplainRow
from dbward.domain import plans, rbac, tokens
from dbward.domain.model import Operation, Permission, Principal, Status
from dbward.domain.plans import ExplainKind, ExplainStatus, Plan
from dbward.errors import Conflict, DbwardError, Invalid, Missing, Unavailable
from dbward.runtime import Runtime
from dbward.services.agents import dialect_at, reporting
from dbward.services.explains import refused
from dbward.services.journal import record_refusal

MESSAGE_MAX: Final = 4096
"""Characters of a database's message that are kept."""
_DENIED: Final = "42501"
"""PostgreSQL's SQLSTATE of missing rights; MySQL has none of its own for them, but says so in words."""
_TOKENS: Final = {
    ExplainKind.PLANS: (Operation.EXECUTE_SELECT, tokens.Purpose.EXPLAIN),
    ExplainKind.MIGRATIONS: (Operation.MIGRATE_STATUS, tokens.Purpose.MIGRATIONS),
}
"""What the token of each kind of question is for."""
_RIGHTS: Final = "explaining this needs the rights to run it, which the agent's database account lacks"


def claim(rt: Runtime, who: Principal, explain_id: str, asked: ClaimRequest) -> ExplainClaimed:
    """Give the question to the session that holds its message, with a token over the statements that may be explained.

    Raises `Unavailable` while draining and for a session that has yet to report itself, `Missing` (also for a target
    outside the token's scopes) and `Conflict`: held by another, over, or of another dialect than the database is.
    """
    if rt.hub.closing:
        raise Unavailable("server_shutting_down", hint="another server will take the claim")

    def work(tx: Tx) -> ExplainClaimed | DbwardError:
        row = explains.lock(tx, explain_id)
        if (refusal := rbac.refuse(who, Permission.AGENT_OPERATE, target=row.target, owner=None)) is not None:
            record_refusal(rt, tx, refusal, actor=who, request=None, action="explain", target=row.target)
            return Missing(f"explain {explain_id}")  # to this agent it does not exist
        now = rt.now()
        if not broker.holds(tx.conn, explain_id, session=asked.session, tag=asked.tag):
            raise Conflict("this session does not hold the question's message", code="explain.not_held")
        if row.status not in explains.OPEN or row.expires_at <= now:
            raise Conflict("this explain is over", code="explain.over")
        if (decided := _decided(rt, tx, row)) is not None:
            return decided
        agent = reporting(tx.conn, asked.session, who)
        spoken = dialect_at(agent, row.target)
        if row.kind is ExplainKind.PLANS and spoken not in (None, row.dialect):
            return _misread(rt, tx, row, str(spoken))
        operation, purpose = _TOKENS[row.kind]
        statements = [each["sql"] for each in row.statements if each["refused"] is None]
        token = tokens.ExecutionToken(
            claim_id=ids.new_id(),
            request_id=row.id,
            execution_id=row.id,
            agent=agent.id,
            operation=operation,
            database=row.database,
            environment=row.environment,
            statements_sha256=tokens.statements_sha256(statements),
            statement_timeout_ms=row.timeout_ms,
            max_rows=0,
            max_bytes=0,
            issued_at=now,
            expires_at=row.expires_at,
        )
        explains.move(tx, row, ExplainStatus.CLAIMED, claim_id=token.claim_id, agent_id=agent.id)
        return ExplainClaimed(
            explain_id=row.id,
            kind=row.kind.value,
            claim_id=token.claim_id,
            token=tokens.issue(rt.keys.execution, token, purpose),
            database=row.database,
            environment=row.environment,
            statements=statements,
            timeout_ms=row.timeout_ms,
            expires_at=row.expires_at,
            server_time=now,
        )

    claimed = rt.store.write(work)
    if isinstance(claimed, DbwardError):
        raise claimed
    return claimed


def _decided(rt: Runtime, tx: Tx, row: ExplainRow) -> Conflict | None:
    """End a question about a request that waits for nobody any more: the database is spared."""
    request = requests.find(tx.conn, row.request_id) if row.request_id is not None else None
    if request is None or request.status is Status.PENDING:
        return None
    explains.move(tx, row, ExplainStatus.EXPIRED, finished_at=rt.now(), reason="the request was decided before")
    broker.withdraw(tx, row.id)
    return Conflict(f"the request is {request.status}", code="explain.over")


def _misread(rt: Runtime, tx: Tx, row: ExplainRow, spoken: str) -> Conflict:
    """End a question whose statements were judged by the rules of another dialect: planning them may run something."""
    refusal = Conflict(
        f"the statements were read as {row.dialect}, but {row.target} is {spoken}",
        code="execution.other_dialect",
        hint="submit them again",
    )
    outcome = [{"sql": each["sql"], "error": refusal.message, "hint": refusal.hint} for each in row.statements]
    explains.move(tx, row, ExplainStatus.DONE, outcome=outcome, finished_at=rt.now())
    broker.withdraw(tx, row.id)
    return refusal


def complete(rt: Runtime, who: Principal, explain_id: str, report: ExplainReport) -> None:
    """Take an agent's answer. Repeating it is accepted and changes nothing; a late one still counts for a request.

    Raises `Missing` (also another agent's), `Conflict` (another claim has it) and `Invalid` (not one entry for
    each statement, a plan out of bounds, or the answer to another kind of question).
    """

    def work(tx: Tx) -> None:
        row = explains.lock(tx, explain_id)
        foreign = row.agent_id is None or row.agent_id.rpartition("@")[0] != who.subject
        if foreign or not rbac.allowed(who, Permission.AGENT_OPERATE, row.target):
            raise Missing(f"explain {explain_id}")
        if row.claim_id != report.claim_id:
            raise Conflict("another claim has this explain now", code="explain.over")
        if row.status is ExplainStatus.DONE:
            return
        outcome = _outcome(tx.conn, row, report)
        explains.move(tx, row, ExplainStatus.DONE, outcome=outcome, reason=None, finished_at=rt.now())
        broker.withdraw(tx, row.id)

    rt.store.write(work)


def _outcome(conn: Connection, row: ExplainRow, report: ExplainReport) -> list[dict[str, Any]]:
    if (report.applied is not None) != (row.kind is ExplainKind.MIGRATIONS):
        raise Invalid("this answers another kind of question")
    if report.applied is not None:
        return [report.applied.model_dump(mode="json")]
    return _plans(conn, row, report.statements)


def _plans(conn: Connection, row: ExplainRow, answers: Sequence[Explained]) -> list[dict[str, Any]]:
    asked = [each for each in row.statements if each["refused"] is None]
    if len(answers) != len(asked):
        raise Invalid(f"{len(asked)} statements were asked about, {len(answers)} are answered")
    if not all(answer.plan is None or plans.is_sound(answer.plan) for answer in answers):
        raise Invalid("a plan is out of bounds")
    named = [
        plans.with_table_names(answer.plan, each["aliases"]) if answer.plan is not None else None
        for each, answer in zip(asked, answers, strict=True)
    ]
    schema = schemas.neighbourhood(
        conn, row.target, {name for plan in named if plan is not None for name in plans.scanned(plan)}
    )
    answered = iter(zip(answers, named, strict=True))
    outcome = []
    for each in row.statements:
        if each["refused"] is not None:
            outcome.append(refused(each))
            continue
        answer, plan = next(answered)
        sized = plans.with_table_sizes(plan, schema) if plan is not None else None
        outcome.append({"sql": each["sql"], **_answer(sized, answer.error)})
    return outcome


def _answer(plan: Plan | None, error: WireError | None) -> dict[str, Any]:
    if plan is not None:
        return {"plan": plans.plan_json(plan)}
    assert error is not None  # held by the shape
    denied = error.sqlstate == _DENIED or "denied to user" in error.message
    hint = _RIGHTS if denied else error.hint
    return {"error": error.message[:MESSAGE_MAX], "hint": hint[:MESSAGE_MAX] if hint is not None else None}
