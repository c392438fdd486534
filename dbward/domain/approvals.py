"""Counting approvals, and who may give the next one.

An approval counts for one approver entry of one step: the one whose selector was stored with it. A step that names
nobody can never be satisfied, and the selector `requester` matches nobody here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from dbward.domain import rbac
from dbward.domain.model import Principal, Selector, SelectorKind, Step, Workflow
from dbward.errors import Conflict, Invalid, Refused


@dataclass(frozen=True, slots=True)
class Approval:
    """One decision as stored; `matched_selector` is the text of the entry it counts for."""

    step_index: int
    actor: str
    action: Literal["approve", "reject"]
    matched_selector: str
    comment: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Required:
    selector: Selector
    min: int
    current: int

    @property
    def satisfied(self) -> bool:
        return self.current >= self.min


@dataclass(frozen=True, slots=True)
class StepProgress:
    index: int
    mode: Literal["all", "any"]
    required: tuple[Required, ...]
    approvals: tuple[Approval, ...]

    @property
    def satisfied(self) -> bool:
        reached = [entry.satisfied for entry in self.required]
        return bool(reached) and (all(reached) if self.mode == "all" else any(reached))


@dataclass(frozen=True, slots=True)
class Progress:
    """`current_step` is the first unsatisfied index, or `total_steps` when none is left."""

    current_step: int
    total_steps: int
    steps: tuple[StepProgress, ...]

    @property
    def done(self) -> bool:
        return self.current_step == self.total_steps


def progress(flow: Workflow, approvals: Iterable[Approval]) -> Progress:
    """How far the workflow has come. `approvals` may stand in any order and hold rejections, which never count."""
    given = tuple(approvals)
    steps = tuple(_count(index, step, given) for index, step in enumerate(flow.steps))
    current = next((step.index for step in steps if not step.satisfied), len(steps))
    return Progress(current, len(steps), steps)


def _count(index: int, step: Step, approvals: Sequence[Approval]) -> StepProgress:
    here = tuple(approval for approval in approvals if approval.step_index == index)
    people = {(approval.actor, approval.matched_selector) for approval in here if approval.action == "approve"}
    left = Counter(selector for _, selector in people)
    counted: dict[int, int] = {}
    # One approval counts for one entry, so an entry written twice needs its approvals twice; the smaller one first.
    for position, entry in sorted(enumerate(step.approvers), key=lambda it: it[1].min):
        counted[position] = min(max(entry.min, 1), left[str(entry.selector)])
        left[str(entry.selector)] -= counted[position]
    required = tuple(
        Required(entry.selector, max(entry.min, 1), counted[position]) for position, entry in enumerate(step.approvers)
    )
    return StepProgress(index, step.mode, required, here)


def choose_selector(
    flow: Workflow, approvals: Iterable[Approval], principal: Principal, requester: str, wanted: str | None
) -> Selector:
    """The entry that an approval by `principal` counts for; `wanted` is the caller's choice, if any.

    Raises, checked in this order: `Conflict` (nothing left to approve), `Refused` (agent, own request, approved an
    earlier step, no entry matches), `Conflict` (already approved this step), `Invalid` (`wanted` is not among the
    matches), `Conflict` (what matches has its approvals already), `Invalid` (several would do and none was chosen).
    """
    given = tuple(approvals)
    step, matching = _eligible(flow, given, principal, requester)
    if any(it.actor == principal.subject and it.action == "approve" for it in step.approvals):
        raise Conflict(f"already approved by {principal.subject} in this step")
    names = list(dict.fromkeys(str(entry.selector) for entry in matching))
    if wanted is not None and wanted not in names:
        raise Invalid("the given selector is not among those that match you", hint="yours: " + ", ".join(names))
    if wanted is not None:
        matching = [entry for entry in matching if str(entry.selector) == wanted]
    open_entries = {str(entry.selector): entry.selector for entry in matching if not entry.satisfied}
    if not open_entries:
        raise Conflict("every approval that you could give in this step has been given")
    if len(open_entries) > 1:
        choices = ", ".join(open_entries)
        raise Invalid(f"ambiguous: you match several selectors of this step: {choices}", hint="say which one")
    return next(iter(open_entries.values()))


def choose_rejecting(
    flow: Workflow, approvals: Iterable[Approval], principal: Principal, requester: str
) -> tuple[int, Selector]:
    """The step and the entry that a rejection by `principal` is recorded for: the first match.

    Raises like `choose_selector`, but having approved this step, or an entry that is full, takes away nobody's right to
    reject.
    """
    step, matching = _eligible(flow, tuple(approvals), principal, requester)
    return step.index, matching[0].selector


def _eligible(
    flow: Workflow, approvals: tuple[Approval, ...], principal: Principal, requester: str
) -> tuple[StepProgress, list[Required]]:
    so_far = progress(flow, approvals)
    if so_far.done:
        raise Conflict("every step is approved already")
    if principal.kind != "user":
        raise Refused("only people decide about requests")
    if principal.subject == requester and not flow.allow_self_approve:
        raise Refused("this workflow does not let the requester decide about the request")
    step = so_far.steps[so_far.current_step]
    earlier = any(
        it.actor == principal.subject and it.action == "approve" and it.step_index != step.index for it in approvals
    )
    if earlier and not flow.allow_same_approver_across_steps:
        raise Refused("this workflow wants a different approver in each step, and you approved another one")
    matching = [
        entry
        for entry in step.required
        if entry.selector.kind is not SelectorKind.REQUESTER
        and rbac.matches(principal, entry.selector, requester=requester)
    ]
    if not matching:
        raise Refused("you are not among the approvers of this step")
    return step, matching


def pending_selectors(flow: Workflow, approvals: Iterable[Approval]) -> tuple[Selector, ...]:
    """Whom the current step is waiting for, each once; empty when nothing is left to approve."""
    so_far = progress(flow, approvals)
    if so_far.done:
        return ()
    return tuple(dict.fromkeys(entry.selector for entry in so_far.steps[so_far.current_step].required))


def progress_json(flow: Workflow, approvals: Iterable[Approval]) -> dict[str, Any]:
    """`approval_progress` of the API; times stay `datetime`."""
    so_far = progress(flow, approvals)
    return {
        "current_step": so_far.current_step,
        "total_steps": so_far.total_steps,
        "steps": [
            {
                "index": step.index,
                "mode": step.mode,
                "satisfied": step.satisfied,
                "approvers_required": [
                    {"selector": str(entry.selector), "min": entry.min, "current": entry.current}
                    for entry in step.required
                ],
                "approvals": [_approval_json(approval) for approval in step.approvals],
            }
            for step in so_far.steps
        ],
    }


def _approval_json(approval: Approval) -> dict[str, Any]:
    said = {} if approval.comment is None else {"comment": approval.comment}
    return {"user": approval.actor, "action": approval.action, "at": approval.at, **said}
