"""What a server's policy leads to: what nobody may ask for, what nobody can approve, and what is not looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from dbward.cli.diagnosis.model import Check, failed, passed, skipped, warned
from dbward.domain import rbac
from dbward.domain.model import Action, Approver, Operation, Permission, PolicySet, Principal, Step, Workflow
from dbward.domain.policy import find_review_policy, find_workflow

DESTRUCTIVE: Final = ("drop_table", "truncate")
"""Rules that production should not go without."""
_ASKING: Final = (Permission.REQUEST_QUERY, Permission.REQUEST_DML, Permission.REQUEST_DDL)


def check_policy(policy: PolicySet, people: Sequence[Principal] | None) -> Iterator[Check]:
    """`people`: everybody who can sign in, None where that is not known."""
    yield _validity(policy)
    yield _steps(policy, people)
    yield _coverage(policy)
    yield _review(policy)


def _validity(policy: PolicySet) -> Check:
    if not policy.targets:
        return failed("workflow_validity", "there is no database: nobody can ask for anything", "add [[databases]]")
    if not policy.workflows:
        return failed("workflow_validity", "there is no workflow: every request is denied", "add [[workflows]]")
    return passed("workflow_validity", f"{len(policy.workflows)} workflows for {len(policy.targets)} databases")


def _coverage(policy: PolicySet) -> Check:
    gaps = []
    for target in policy.targets:
        missing = [str(one) for one in Operation if find_workflow(policy.workflows, target, one) is None]
        if missing:
            gaps.append(f"{target}: {'everything' if len(missing) == len(Operation) else ', '.join(missing)}")
    if gaps:
        return warned(
            "workflow_coverage",
            "not everything is covered by a workflow; requests for the rest are denied",
            "add [[workflows]] for these, unless that is what you want",
            gaps,
        )
    return passed("workflow_coverage", "every operation on every database is covered")


def _review(policy: PolicySet) -> Check:
    off = [
        f"{target}: {rule}"
        for target in policy.targets
        if "prod" in target.environment
        for rule in DESTRUCTIVE
        if find_review_policy(policy.sql_review, target).rules.get(rule) is Action.OFF
    ]
    if off:
        return warned(
            "sql_review_safety",
            "statements that destroy data are not looked at in production",
            'set these rules of [[sql_review]] to "warn" or "block"',
            off,
        )
    return passed("sql_review_safety", f"{' and '.join(DESTRUCTIVE)} are looked at in production")


def _steps(policy: PolicySet, people: Sequence[Principal] | None) -> Check:
    flows = [flow for flow in policy.workflows if flow.steps]
    if not flows:
        return passed("workflow_step_validity", "no workflow needs an approval")
    if people is None:
        return skipped(
            "workflow_step_validity",
            "who could approve is known while the server runs, unless people sign in with OIDC",
        )
    stuck = [f"{_scope(flow)}: {why}" for flow in flows for why in _stuck(flow, people)]
    if stuck:
        return warned(
            "workflow_step_validity",
            "some requests can never be approved: there are not enough people",
            "give more people the roles or groups that these steps name, or have the steps ask for fewer",
            stuck,
        )
    return passed("workflow_step_validity", "there are enough people for every step")


def _scope(flow: Workflow) -> str:
    return f"workflow for {flow.database}/{flow.environment}"


def _stuck(flow: Workflow, people: Sequence[Principal]) -> Iterator[str]:
    """Why what falls under `flow` cannot be approved; for whom it cannot where that is not everybody."""
    everybody: set[str] = set()
    least = 0
    for number, step in enumerate(flow.steps, 1):
        able = [_able(approver, people) for approver in step.approvers]
        counts = list(zip(step.approvers, able, strict=True))
        short = [f"{a.selector} has {len(who)} of {a.min}" for a, who in counts if len(who) < a.min]
        if short and (step.mode == "all" or len(short) == len(counts)):
            yield f"step {number}: {', '.join(short)}"
            continue
        everybody.update(*able)
        least += _least(step)
        if not flow.allow_self_approve and (alone := _alone_in(able, people)) is not None:
            yield f"step {number}: nobody else is there to approve what {alone} asks for"
    if not flow.allow_same_approver_across_steps and len(everybody) < least:
        yield f"its steps need {least} different people, and {len(everybody)} could"


def _able(approver: Approver, people: Sequence[Principal]) -> set[str]:
    return {one.subject for one in people if rbac.matches(one, approver.selector, requester="")}


def _least(step: Step) -> int:
    needed = [approver.min for approver in step.approvers]
    return sum(needed) if step.mode == "all" else min(needed)


def _alone_in(able: Sequence[set[str]], people: Sequence[Principal]) -> str | None:
    """Who is all that a step has, though they may ask for things themselves."""
    there = set.union(*able)
    if len(there) != 1:
        return None
    (subject,) = there
    roles = next(one.roles for one in people if one.subject == subject)
    return subject if any(rbac.reach(role, permission) for role in roles for permission in _ASKING) else None
