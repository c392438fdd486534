"""Asking agents how statements would run: for a preflight that waits, and for the approvers of a request.

What a database has migrated is asked the same way (`services.migrations`). The question is a row and a message in the
target's job queue, in one transaction. Whoever holds the message may claim it, and only the last claim may answer.
Nothing is run for it, so a question whose agent died may go to another one; one that nobody answered in time ends by
itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from math import ceil
from typing import Any, Final

from dbward import ids
from dbward.broker import store as broker
from dbward.db import agents, explains
from dbward.db.engine import Connection, Tx
from dbward.db.rows import AgentRow, ExplainRow, RequestRow
from dbward.domain import plans, rbac
from dbward.domain.explainable import aliases, why_no_plan
from dbward.domain.model import Dialect, Operation, Permission, Principal, Status, Target
from dbward.domain.plans import ExplainKind, ExplainStatus
from dbward.domain.sql.statements import Statement
from dbward.errors import Missing, RateLimited
from dbward.runtime import Runtime
from dbward.services.agents import status_of
from dbward.services.views import View

MAX_STATEMENTS: Final = 20
"""Of one text that are explained; more would keep an agent from its work."""
STATEMENT_TIMEOUT: Final = timedelta(seconds=5)
REQUEST_LIFETIME: Final = timedelta(seconds=300)
"""How long the approvers' plans may come; whoever is asked meanwhile sees that they are being collected."""
GRACE: Final = timedelta(seconds=5)
"""How much longer than its caller a preflight's question lives."""
KEPT: Final = timedelta(seconds=300)
"""How long a preflight's answer is kept."""
MAX_OPEN_FOR_REQUESTS: Final = 20
"""One person's requests that wait for their plans at once; those beyond go without."""
BATCH: Final = 200

_EXPLAINED: Final = frozenset({Operation.EXECUTE_SELECT, Operation.EXECUTE_DML})


# --- asking -----------------------------------------------------------------------------------------------------------


def ask(
    rt: Runtime,
    tx: Tx,
    target: Target,
    statements: Sequence[Statement],
    *,
    dialect: Dialect,
    requested_by: str,
    timeout: timedelta,
    lifetime: timedelta,
) -> str:
    """Ask an agent of `target` how it would run `statements`; the id of the question.

    `timeout` is for each statement, `lifetime` for the whole answer. What cannot be explained is not asked, but
    answered with the reason. Raises `RateLimited` when this person has too many open questions.
    """
    refuse_crowd(rt, tx, requested_by, lifetime)
    row = _new(rt, target, statements, dialect, requested_by=requested_by, timeout=timeout, lifetime=lifetime)
    return put(rt, tx, row)


def refuse_crowd(rt: Runtime, tx: Tx, requested_by: str, lifetime: timedelta) -> None:
    """Raises `RateLimited` when this person waits for as many answers as one may."""
    limit = rt.settings.features.preflight.max_concurrent_per_user
    if explains.count_open(tx.conn, requested_by, for_requests=False) >= limit:
        raise RateLimited(
            f"agents are working on {limit} answers for you already",
            code="preflight.rate_limited",
            retry_after=ceil(lifetime.total_seconds()),  # by then the one asked for last has its answer, or none
        )


def _new(
    rt: Runtime,
    target: Target,
    statements: Sequence[Statement],
    dialect: Dialect,
    *,
    requested_by: str,
    timeout: timedelta,
    lifetime: timedelta,
) -> ExplainRow:
    vouched = rt.settings.policy.vouched.get(target, frozenset())
    asked = [_question(statement, n, dialect, vouched) for n, statement in enumerate(statements)]
    row = question(
        rt, ExplainKind.PLANS, target, dialect, asked, requested_by=requested_by, timeout=timeout, lifetime=lifetime
    )
    if all(each["refused"] is not None for each in asked):
        outcome = [refused(each) for each in asked]
        return replace(row, status=ExplainStatus.DONE, finished_at=row.created_at, outcome=outcome)
    return row


def question(
    rt: Runtime,
    kind: ExplainKind,
    target: Target,
    dialect: Dialect,
    asked: list[dict[str, Any]],
    *,
    requested_by: str,
    timeout: timedelta,
    lifetime: timedelta,
) -> ExplainRow:
    """A question that is to be `put`: `timeout` is for each of what is `asked`, `lifetime` for the whole answer."""
    now = rt.now()
    return ExplainRow(
        id=ids.new_id(),
        kind=kind,
        request_id=None,
        requested_by=requested_by,
        database=target.database,
        environment=target.environment,
        dialect=dialect,
        statements=asked,
        timeout_ms=max(1, timeout // timedelta(milliseconds=1)),
        status=ExplainStatus.QUEUED,
        agent_id=None,
        claim_id=None,
        created_at=now,
        expires_at=now + lifetime,
        finished_at=None,
        outcome=None,
        reason=None,
    )


def put(rt: Runtime, tx: Tx, row: ExplainRow) -> str:
    """Store a question and, unless it is answered already, queue it."""
    explains.insert_explain(tx, row)
    if row.status is ExplainStatus.QUEUED:
        rt.publisher.explain(tx, target=row.target, explain_id=row.id)
    return row.id


def _question(statement: Statement, n: int, dialect: Dialect, vouched: Collection[str]) -> dict[str, Any]:
    why = why_no_plan(statement, dialect, vouched)
    if n >= MAX_STATEMENTS:
        why = f"only the first {MAX_STATEMENTS} statements are explained"
    return {"sql": statement.text, "refused": why, "aliases": aliases(statement) if why is None else {}}


def refused(question: dict[str, Any]) -> dict[str, Any]:
    """The entry in the outcome of a statement that is not asked about."""
    return {"sql": question["sql"], "error": f"cannot be explained: {question['refused']}", "hint": None}


def ask_for_request(rt: Runtime, tx: Tx, row: RequestRow, statements: Sequence[Statement]) -> str | None:
    """Have the plans collected for the approvers of a new request, if its workflow wants it; the id of the question.

    Only for a request that waits for somebody: what runs at once would have to queue behind its own plan. Nor for one
    without a stored result: what is known of its data is to be kept nowhere. Somebody with very many open requests goes
    without, and the request says so.
    """
    wanted = row.workflow is None or bool(row.workflow.get("explain", True))
    if not wanted or row.status is not Status.PENDING or row.no_result_store or row.operation not in _EXPLAINED:
        return None
    question = _new(
        rt,
        row.target,
        statements,
        Dialect(row.dialect),
        requested_by=row.requester,
        timeout=STATEMENT_TIMEOUT,
        lifetime=REQUEST_LIFETIME,
    )
    question = replace(question, request_id=row.id)
    if explains.count_open(tx.conn, row.requester, for_requests=True) >= MAX_OPEN_FOR_REQUESTS:
        reason = f"{MAX_OPEN_FOR_REQUESTS} of the requester's requests were waiting for their plans"
        question = replace(question, status=ExplainStatus.EXPIRED, finished_at=rt.now(), reason=reason)
    return put(rt, tx, question)


def withdraw_for_request(rt: Runtime, tx: Tx, request_id: str) -> None:
    """Ask no longer for the plans of a request that goes on: nobody waits for them, and its job should not either."""
    found = explains.of_request(tx.conn, request_id)
    if found is None or found.status not in explains.OPEN:
        return
    row = explains.lock(tx, found.id)
    if row.status in explains.OPEN:
        _expire(rt, tx, row, "the request went on without it")


def served_by(rows: Sequence[AgentRow], rt: Runtime, target: Target, operation: Operation | None = None) -> bool:
    """Whether some agent can be expected to answer for `target`: alive, not draining, and its database is up.

    With an `operation`, one that runs it.
    """
    now = rt.now()
    return any(
        status_of(row, now) in {"healthy", "saturated"}
        and (operation is None or operation in row.operations)
        and any(Target(d["database"], d["environment"]) == target and d["status"] == "up" for d in row.databases)
        for row in rows
    )


# --- a preflight ------------------------------------------------------------------------------------------------------


def begin_preflight(
    rt: Runtime,
    who: Principal,
    target: Target,
    statements: Sequence[Statement],
    *,
    dialect: Dialect,
    wanted: bool,
    timeout: timedelta,
) -> str | View:
    """The id of the question to wait for, or at once the `impact` of a preflight that has no plan.

    `wanted`: what the workflow says of explain. `timeout` above the server's cap is lowered to it.
    Raises `RateLimited`.
    """
    if not rbac.allowed(who, Permission.REQUEST_PREFLIGHT_EXPLAIN, target):
        return {"status": "skipped"}
    if not wanted:
        return {"status": "disabled_by_policy"}
    with rt.store.read() as conn:
        if not served_by(agents.all_agents(conn), rt, target):
            return {"status": "not_available", "reason": f"no agent serves {target} at the moment"}
    timeout = wait_time(rt, timeout)
    return rt.store.write(
        lambda tx: ask(
            rt,
            tx,
            target,
            statements,
            dialect=dialect,
            requested_by=who.subject,
            timeout=min(timeout, STATEMENT_TIMEOUT),
            lifetime=timeout + GRACE,
        )
    )


def wait_time(rt: Runtime, asked: timedelta) -> timedelta:
    """How long a preflight waits for its plan."""
    return min(asked, rt.settings.features.preflight.max_explain_timeout)


def impact(rt: Runtime, explain_id: str) -> View | None:
    """The `impact` of a preflight; None while its question is open. It is woken by `explain:<id>`."""
    with rt.store.read() as conn:
        row = explains.find(conn, explain_id)
    if row is None:
        return {"status": "timeout"}
    return None if row.status in explains.OPEN else _impact(row)


def give_up(rt: Runtime, explain_id: str) -> View:
    """End a preflight's question that is not waited for any more; its `impact`, which may have come in this moment."""
    row = end(rt, explain_id)
    return _impact(row) if row is not None else {"status": "timeout"}


def end(rt: Runtime, explain_id: str) -> ExplainRow | None:
    """End a question that is not waited for any more. It may have been answered just now; None when it is gone."""

    def work(tx: Tx) -> ExplainRow:
        row = explains.lock(tx, explain_id)
        return _expire(rt, tx, row, "it was not answered in time") if row.status in explains.OPEN else row

    try:
        return rt.store.write(work)
    except Missing:
        return None


def _impact(row: ExplainRow) -> View:
    if row.outcome is None:
        return {"status": "timeout", "reason": row.reason}
    shown = [_shown(each) for each in row.outcome]
    found = [each["plan"] for each in shown if "plan" in each]
    view: View = {"status": "completed" if found else "error", "explain_plan": shown, "plan_text": _text(shown)}
    rows = [plan["estimated_rows"] for plan in found if plan["estimated_rows"] is not None]
    costs = [plan["estimated_cost"] for plan in found if plan["estimated_cost"] is not None]
    if rows:
        view["estimated_rows"] = sum(rows)
    if costs:
        view["estimated_cost"] = sum(costs)
    if found:
        view["index_used"] = any(plan["indexes"] for plan in found)
    return view


def _text(shown: Sequence[View]) -> str:
    """All plans for people, numbered when there are several."""
    texts = [each["text"] for each in shown]
    return texts[0] if len(texts) == 1 else "\n".join(f"[{n}]\n{text}" for n, text in enumerate(texts, 1))


# --- the approvers ----------------------------------------------------------------------------------------------------


def of_request(conn: Connection, request_id: str) -> View | None:
    """What the approvers of a request are shown: `{status, explain, reason}`; None when no plan was asked for.

    `status`: collecting, ready, partial (some statements have no plan) or unavailable (no answer came in time).
    `explain` holds `{sql, plan, text}` or `{sql, error, hint, text}` for each statement.
    """
    row = explains.of_request(conn, request_id)
    if row is None:
        return None
    if row.outcome is None:
        status = "unavailable" if row.status is ExplainStatus.EXPIRED else "collecting"
        return {"status": status, "explain": None, "reason": row.reason}
    shown = [_shown(each) for each in row.outcome]
    status = "ready" if all("plan" in each for each in shown) else "partial"
    return {"status": status, "explain": shown, "reason": None}


def _shown(entry: dict[str, Any]) -> View:
    if "plan" in entry:
        return {**entry, "text": plans.render(plans.plan_from_json(entry["plan"]))}
    return {**entry, "text": "\n".join(filter(None, [entry["error"], entry["hint"] and f"Hint: {entry['hint']}"]))}


# --- the end of what nobody answers -----------------------------------------------------------------------------------


def due(rt: Runtime) -> list[str]:
    """Questions whose time is over."""
    with rt.store.read() as conn:
        return explains.due(conn, rt.now(), limit=BATCH)


def forget(rt: Runtime) -> None:
    """Delete the answers to preflights that have been there for long enough."""
    before = rt.now() - KEPT
    with rt.store.read() as conn:
        some = explains.any_old(conn, before)
    if some:  # a writing transaction every few seconds for nothing would keep an idle server's disk awake
        rt.store.write(lambda tx: explains.forget(tx, before))


def expire(rt: Runtime, tx: Tx, explain_id: str) -> None:
    """End a question that nobody answered in time, and wake whoever waits for it."""
    row = explains.lock(tx, explain_id)
    if row.status in explains.OPEN and row.expires_at <= rt.now():
        claimed = row.status is ExplainStatus.CLAIMED
        _expire(rt, tx, row, "the agent did not answer in time" if claimed else "no agent took it in time")


def end_undelivered(rt: Runtime, tx: Tx, job_id: str) -> bool:
    """End a question whose message was delivered again and again; False when the job is something else."""
    row = explains.find(tx.conn, job_id)
    if row is None:
        return False
    if row.status in explains.OPEN:
        _expire(rt, tx, row, "no agent could answer it")
    else:
        broker.withdraw(tx, row.id)
    return True


def _expire(rt: Runtime, tx: Tx, row: ExplainRow, reason: str) -> ExplainRow:
    broker.withdraw(tx, row.id)
    return explains.move(tx, row, ExplainStatus.EXPIRED, finished_at=rt.now(), reason=reason)
