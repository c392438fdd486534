"""What a submission would lead to, without making it: nothing is stored but an event in the audit log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Final

from dbward.client.shapes import NewPreflight
from dbward.domain import rbac
from dbward.domain.judge import Judgement, explanation
from dbward.domain.model import Action, Event, Operation, Permission, Principal, RiskLevel, Target
from dbward.domain.names import parse_name, parse_operation
from dbward.domain.policy import AutoApproved, Denied, NeedsApproval, approvers_json
from dbward.domain.sql.statements import Classification, Kind
from dbward.errors import DbwardError, Invalid, RateLimited, TooLarge
from dbward.runtime import Runtime
from dbward.services import submission
from dbward.services.journal import record, record_refusal
from dbward.services.submission import Submission
from dbward.services.views import View

SKIPPED: Final[View] = {"status": "skipped"}
_FINDINGS: Final = {"sql.unparsable": "parse_failure", "sql.rejected": "rejected"}
"""What a text that cannot be submitted at all is blocked by. One without a statement is no question."""
_LEVEL_HINTS: Final = {
    RiskLevel.HIGH: "say in the reason what it is expected to change, and how much",
    RiskLevel.CRITICAL: "say in the reason what it is expected to change, and how much",
    RiskLevel.UNKNOWN: "what is known of the tables is not enough to judge this: check their names and the schema sync",
}
_NARROWER: Final = frozenset({"no_where_delete", "no_where_update"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """A preflight without its plan. `said` and `made` are None for a text that cannot be submitted at all."""

    body: NewPreflight
    target: Target
    view: View
    said: Submission | None = None
    made: Judgement | None = None
    blocked_codes: tuple[str, ...] = field(default=())


def judge(rt: Runtime, who: Principal, body: NewPreflight) -> Verdict:
    """The verdict that submitting would get now. Raises `Refused` (recorded), `Invalid`, `TooLarge`,
    `RateLimited`.
    """
    target = Target(parse_name(body.database, "database"), parse_name(body.environment, "environment"))
    refusal = rbac.refuse(who, Permission.REQUEST_PREFLIGHT, target=target, owner=None)
    if refusal is not None:
        raise rt.store.write(
            lambda tx: record_refusal(rt, tx, refusal, actor=who, request=None, action="preflight", target=target)
        )
    most = rt.settings.features.preflight.rate_limit_per_minute
    if most is not None and not (taken := rt.allowances.take(f"preflights:{who.subject}", most, rt.now())).ok:
        rt.metrics.limited("preflights")
        raise RateLimited(
            f"more than {most} preflights in a minute", code="preflight.rate_limited", retry_after=taken.reset_secs
        )
    size = len(body.sql.encode())
    if size > rt.settings.max_detail_bytes:
        raise TooLarge(f"the SQL has {size} bytes, over the limit of {rt.settings.max_detail_bytes}")
    wanted = parse_operation(body.operation) if body.operation else None
    submission.require_registered(rt, target)
    try:
        said = submission.read(rt, target, body.sql)
    except Invalid as e:
        if (code := _FINDINGS.get(e.code)) is None:
            raise
        return Verdict(body, target, _unreadable(e, code), blocked_codes=(code,))
    if wanted not in (None, said.plan.operation):
        raise Invalid(f"operation is {wanted}, but the SQL is {said.plan.operation}", code="operation.disagrees")
    with rt.store.read() as conn:
        made = submission.judged(rt, conn, said, emergency=False)
    blocked = tuple(finding.rule for finding in made.blocking)
    return Verdict(body, target, _view(who, said, made), said, made, blocked)


def finish(rt: Runtime, who: Principal, verdict: Verdict, impact: View) -> View:
    """The answer with its `impact`, once it is on the record."""
    view = {**verdict.view, "impact": impact}
    metadata = {
        "status": view["status"],
        "risk_level": view["risk"],
        "impact_status": impact["status"],
        "blocked_codes": list(verdict.blocked_codes),
        "include_explain": verdict.body.include_explain,
    }
    dialect = verdict.said.dialect if verdict.said is not None else submission.dialect_of(rt, verdict.target)
    rt.store.write(
        lambda tx: record(
            rt,
            tx,
            Event.PREFLIGHT_ATTEMPTED,
            actor=who,
            target=verdict.target,
            metadata=metadata,
            sql=(verdict.body.sql, dialect),
        )
    )
    rt.metrics.preflights.labels(view["status"]).inc()
    return view


def _unreadable(error: DbwardError, code: str) -> View:
    return {
        "status": "blocked",
        "risk": RiskLevel.UNKNOWN,
        "classification": {
            "statement_type": "UNKNOWN",
            "operation": "unknown",
            "mutating": False,
            "ddl": False,
            "requires_ddl_permission": False,
            "multi_statement": False,
            "statement_count": 0,
            "reasons": [],
        },
        "review": {
            "findings": [{"code": code, "action": "block", "message": error.message, "statement_index": 0}],
            "blocked": True,
        },
        "risk_assessment": {"level": RiskLevel.UNKNOWN, "factors": []},
        "policy": {
            "sql_valid": False,
            "caller_can_submit": False,
            "would_auto_approve": False,
            "requires_approval": False,
            "approvers": [],
            "break_glass_allowed": False,
            "workflow_id": None,
            "require_reason": False,
        },
        "explanation": [f"It is refused: {error.message}."],
        "fix_hints": [error.hint or error.message],
        "retryable": False,
        "next_actions": [],
    }


def _view(who: Principal, said: Submission, made: Judgement) -> View:
    plan, flow = said.plan, made.workflow
    can_submit = _may(who, said, emergency=False)
    denied = isinstance(made.decision, Denied)
    status = _status(made, blocked=bool(made.blocking) or denied or not can_submit)
    auto = isinstance(made.decision, AutoApproved) and not made.blocking
    steps = made.decision.steps if isinstance(made.decision, NeedsApproval) else ()
    return {
        "status": status,
        "risk": made.risk.level,
        "classification": {
            "statement_type": _statement_type(plan),
            "operation": plan.operation,
            "mutating": plan.operation is not Operation.EXECUTE_SELECT,
            "ddl": plan.is_ddl,
            "requires_ddl_permission": plan.contains_ddl,
            "multi_statement": len(plan.statements) > 1,
            "statement_count": len(plan.statements),
            "reasons": list(plan.reasons),
        },
        "review": {
            "findings": [
                {
                    "code": finding.rule,
                    "action": finding.action,
                    "message": finding.message,
                    "hint": finding.hint,
                    "statement_index": finding.statement_index,
                    "position": finding.position,
                }
                for finding in made.findings
            ],
            "blocked": bool(made.blocking),
        },
        "risk_assessment": {"level": made.risk.level, "factors": [factor.to_json() for factor in made.risk.factors]},
        "policy": {
            "sql_valid": True,
            "caller_can_submit": can_submit,
            "would_auto_approve": auto,
            "requires_approval": bool(steps) and not made.blocking,
            "approvers": [entry for step in steps for entry in approvers_json(step)],
            "break_glass_allowed": _may(who, said, emergency=True) and (not made.blocking or made.may_bypass_review),
            "workflow_id": flow.id if flow is not None else None,
            "require_reason": flow is not None and flow.require_reason,
        },
        "explanation": list(explanation(made)),
        "fix_hints": list(_fix_hints(made)),
        "retryable": status != "requestable",
        "next_actions": _next_actions(status, made, can_submit=can_submit),
    }


def _may(who: Principal, said: Submission, *, emergency: bool) -> bool:
    plan = said.plan
    needed = rbac.permission_for(
        plan.operation,
        emergency=emergency,
        allow_ddl=emergency and plan.contains_ddl,
        is_ddl=plan.is_ddl,
        contains_ddl=plan.contains_ddl,
    )
    return all(rbac.allowed(who, permission, said.target) for permission in needed)


def _status(made: Judgement, *, blocked: bool) -> str:
    if blocked:
        return "blocked"
    limited = made.workflow is not None and made.workflow.auto_approve is not None
    above = limited and isinstance(made.decision, NeedsApproval)
    return "warning" if above or made.findings else "requestable"


def _statement_type(plan: Classification) -> str:
    """The verb of the first statement that is not a setting."""
    said = next((statement for statement in plan.statements if statement.verb != "SET"), plan.statements[0])
    return said.verb or ("SELECT" if said.kind is Kind.SELECT else "UNKNOWN")


def _fix_hints(made: Judgement) -> Iterator[str]:
    """A hint for each finding and one for the level, none twice in a row."""
    level = _LEVEL_HINTS.get(made.risk.level)
    hints = chain([""], (finding.hint for finding in made.findings), [level] if level else [])
    return (hint for before, hint in pairwise(hints) if hint != before)


def _next_actions(status: str, made: Judgement, *, can_submit: bool) -> list[str]:
    if status == "requestable":
        return []
    if status == "warning" and isinstance(made.decision, AutoApproved):
        return ["look at the warnings before you submit it: it would run at once"]
    if status == "warning":
        return ["submit it with a reason that says why it is needed; it may need an approval"]
    if not can_submit:
        return ["ask for a role that may submit this"]
    if isinstance(made.decision, Denied) and not made.blocking:
        return ["ask an administrator for a workflow that covers this"]
    rules = {finding.rule for finding in made.findings if finding.action is Action.BLOCK}
    return list(_advice(rules)) or ["change the SQL so that nothing in it is blocked"]


def _advice(rules: Iterable[str]) -> Iterator[str]:
    if _NARROWER & set(rules):
        yield "narrow it with a WHERE on an indexed column"
    if "large_in_list" in rules:
        yield "send it in batches, or join a table of the values"
