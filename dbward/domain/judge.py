"""The whole verdict on a submission, as a pure function of its text, the policies and the schema, with its reasons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from dbward.domain import policy, review, risk
from dbward.domain.model import (
    Action,
    Dialect,
    Operation,
    PolicySet,
    RiskLevel,
    SqlReviewPolicy,
    Step,
    Target,
    Workflow,
)
from dbward.domain.policy import AutoApproved, BreakGlass, Decision, Denied, NeedsApproval
from dbward.domain.risk import Factor, Risk
from dbward.domain.schema import Schema, SchemaStatus
from dbward.domain.sql.statements import Classification, Facts, Finding, Kind, Name, RuleActions


@dataclass(frozen=True, slots=True)
class Part:
    """Statements from `first` to before `end`, which may run without those of other parts."""

    first: int
    end: int
    in_transaction: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found out about a submission, and what follows from it."""

    classification: Classification
    review_policy: SqlReviewPolicy
    findings: tuple[Finding, ...]
    risk: Risk
    schema_status: SchemaStatus
    workflow: Workflow | None
    decision: Decision
    tables: frozenset[Name]
    """What the statements name."""
    of_parts: tuple[Risk, ...] = ()
    """What each part is by itself, in their order."""

    @property
    def blocking(self) -> tuple[Finding, ...]:
        return review.blocking(self.findings)

    @property
    def may_bypass_review(self) -> bool:
        """Whether an emergency that allows DDL goes past what blocks: nothing but DDL, and only rules that yield."""
        kinds = {statement.kind for statement in self.classification.statements}
        return kinds <= {Kind.DDL, Kind.DESTRUCTIVE_DDL} and review.bypassable(self.findings)


def judge(
    classification: Classification,
    facts: Sequence[Facts],
    dialect: Dialect,
    target: Target,
    policies: PolicySet,
    schema: Schema,
    *,
    emergency: bool,
    now: datetime,
    advice: Sequence[Finding] = (),
    parts: Sequence[Part] = (),
) -> Judgement:
    """`facts`: one for each statement; `schema`: at least the tables that they name; `advice`: further findings.

    Each of `parts` is reviewed by itself: what one does excuses nothing in another.
    """
    rules = policy.find_review_policy(policies.sql_review, target)
    flow = policy.find_workflow(policies.workflows, target, classification.operation)
    auto = flow.auto_approve if flow is not None else None
    findings: tuple[Finding, ...] = ()
    of_parts: list[Risk] = []
    for part in parts:
        alone = replace(classification, statements=classification.statements[part.first : part.end])
        known = facts[part.first : part.end]
        of_part = _review_part(part, alone, known, dialect, rules.rules, schema, advice)
        of_parts.append(risk.assess(alone, known, dialect, of_part, schema, auto, now))
        findings += of_part
    if not parts:
        findings = review.review(classification, dialect, rules.rules, schema, advice, known=facts)
    found = risk.assess(classification, facts, dialect, findings, schema, auto, now)
    return Judgement(
        classification=classification,
        review_policy=rules,
        findings=findings,
        risk=found,
        schema_status=schema.status,
        workflow=flow,
        decision=policy.decide(flow, found.level, emergency),
        tables=risk.names_of(facts),
        of_parts=tuple(of_parts),
    )


def _review_part(
    part: Part,
    alone: Classification,
    known: Sequence[Facts],
    dialect: Dialect,
    actions: RuleActions,
    schema: Schema,
    advice: Sequence[Finding],
) -> tuple[Finding, ...]:
    """The findings of a part, whose statements and facts are `alone` and `known`, with their places in the whole."""
    advised = [
        replace(one, statement_index=one.statement_index - part.first)
        for one in advice
        if part.first <= one.statement_index < part.end
    ]
    found = review.review(alone, dialect, actions, schema, advised, known=known, in_transaction=part.in_transaction)
    return tuple(replace(one, statement_index=one.statement_index + part.first) for one in found)


def trace(made: Judgement) -> dict[str, Any]:
    """The verdict as it is stored with the request and shown to whoever may see it."""
    flow, plan = made.workflow, made.classification
    return {
        "version": 1,
        "classification": {
            "resolved_operation": plan.operation,
            "reasons": list(plan.reasons),
            "statements": [
                {"verb": one.verb, "kind": one.kind, "reasons": list(one.reasons)} for one in plan.statements
            ],
        },
        "tables": [{"name": name.name, "schema_name": name.schema} for name in sorted(made.tables, key=str)],
        "sql_review": {
            "policy_id": made.review_policy.id,
            "findings_count": len(made.findings),
            "parse_failed": False,
            "blocked": bool(made.blocking),
            "findings": [finding_json(finding) for finding in made.findings],
        },
        "risk": {
            "level": made.risk.level,
            "factors": [factor.name for factor in made.risk.factors],
            "details": [factor.to_json() for factor in made.risk.factors],
            "schema_status": made.schema_status,
        },
        "workflow": {
            "matched": None
            if flow is None
            else {
                "id": flow.id,
                "database": flow.database,
                "environment": flow.environment,
                "step_count": len(flow.steps),
            }
        },
        "decision": {
            "outcome": "needs_approval" if isinstance(made.decision, NeedsApproval) else "auto_approved",
            "reasons": [made.decision.reason],
            "auto_approve_threshold": flow.auto_approve.risk if flow is not None and flow.auto_approve else None,
        },
        "explanation": list(explanation(made)),
    }


def finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule,
        "action": finding.action,
        "message": finding.message,
        "hint": finding.hint,
        "statement_index": finding.statement_index,
        "position": finding.position,
    }


def explanation(made: Judgement) -> Iterator[str]:
    """The verdict in sentences, for whoever asks why."""
    yield _why_this_operation(made.classification)
    for finding in made.findings:
        verb = "blocks" if finding.action is Action.BLOCK else "warns"
        yield f"The rule {finding.rule} {verb}: {finding.message}."
    causes = [text for factor in made.risk.factors if (text := describe(factor))]
    yield f"The risk is {made.risk.level}" + (f": {'; '.join(causes)}." if causes else ".")
    yield _why_this_decision(made)


def _why_this_operation(plan: Classification) -> str:
    if plan.operation is Operation.EXECUTE_SELECT:
        return "It is a read: all that it uses is known to only read."
    if plan.operation is Operation.MIGRATE_REPAIR:
        return "It changes the record of migrations, and nothing else."
    called = [reason.partition(":")[2] for reason in plan.reasons if reason.startswith("unvouched_function:")]
    verbs = dict.fromkeys(one.verb for one in plan.statements if one.kind is not Kind.SELECT and one.verb != "SELECT")
    if verbs:
        return f"It is a write: {_list(verbs)}."
    if called:
        return f"It counts as a write: nobody vouches for the function {_list(called)} to only read."
    return f"It counts as a write: {_list(plan.reasons)}."


FACTORS: Final = {
    "read_only": "reads pass in this workflow",
    "safe_ddl": "it only adds something new",
    "schema_not_synced": "no agent has reported the tables of this database yet, or not all of them",
    "schema_stale": "what is known about the tables is too old",
    "unvouched_function": "nobody vouches for {targets}",
    "not_understood": "it cannot be seen what {targets} does",
    "unknown_table": "{targets} is not among the known tables",
    "unknown_size": "nobody knows how many rows {targets} has",
    "multi_statement": "{count} statements at once",
    "drop_operation": "it drops or empties {targets}",
    "ddl": "it changes the schema",
    "maintenance": "maintenance locks tables",
    "whole_table": "it changes every row of {targets}",
    "row_lock": "it locks rows",
    "many_warnings": "{count} warnings of the review",
    "warnings": "warnings of the review: {count}",
    "cascade_delete": "deleting reaches {targets} with about {rows:,} rows",
    "large_table": "{targets} has about {rows:,} rows",
}


def describe(factor: Factor) -> str:
    """The factor in words; empty for one that is not known here."""
    text = FACTORS.get(factor.name, "")
    return text.format(targets=_list(factor.targets) or "something", count=factor.count, rows=factor.rows or 0)


def _why_this_decision(made: Judgement) -> str:
    flow = made.workflow
    match made.decision:
        case BreakGlass() if made.blocking:
            return "It runs without approval and past the rules that block: an emergency that allows DDL."
        case _ if made.blocking:
            return "It is refused: the review blocks it."
        case BreakGlass():
            return "It runs without approval: an emergency."
        case Denied(reason=reason):
            return f"It is refused: {reason}."
        case AutoApproved(workflow_id=name, reason="explicit_always"):
            return f"It is approved by itself: workflow {name} approves everything."
        case AutoApproved(workflow_id=name):
            assert flow is not None
            assert flow.auto_approve is not None
            return f"It is approved by itself: workflow {name} does so up to the risk {flow.auto_approve.risk}."
        case NeedsApproval(workflow_id=name, steps=steps):
            limit = flow.auto_approve.risk if flow is not None and flow.auto_approve is not None else None
            why = _why_not_by_itself(limit, made.risk.level)
            return f"It needs approval by {_approvers(steps)}: workflow {name} {why}."


def _why_not_by_itself(limit: RiskLevel | None, level: RiskLevel) -> str:
    if limit is None:
        return "approves nothing by itself"
    known = f"and this one is {level}" if level is not RiskLevel.UNKNOWN else "and the risk of this one is not known"
    return f"approves by itself up to the risk {limit}, {known}"


def _approvers(steps: Iterable[Step]) -> str:
    """`role:dba, then group:leads (2 of them) or user:eve`."""
    return ", then ".join(
        (" and " if step.mode == "all" else " or ").join(
            str(entry.selector) + (f" ({entry.min} of them)" if entry.min > 1 else "") for entry in step.approvers
        )
        for step in steps
    )


def _list(names: Iterable[str], most: int = 5) -> str:
    listed = [name for name in names if name]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
