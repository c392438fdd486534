"""Who may approve, and when it is enough: small cases by name, and all small workflows against counting by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbward.domain.approvals import (
    Approval,
    choose_rejecting,
    choose_selector,
    pending_selectors,
    progress,
    progress_json,
)
from dbward.domain.model import Approver, Principal, Role, Step, Workflow
from dbward.domain.names import parse_selector
from dbward.errors import Conflict, DbwardError, Invalid, Refused
from tests.support.props import calm

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def step(*entries: str, mode: Literal["all", "any"] = "all") -> Step:
    """`role:dba*2` is an entry that needs two."""
    approvers = []
    for entry in entries:
        selector, _, count = entry.partition("*")
        approvers.append(Approver(parse_selector(selector), int(count or 1)))
    return Step(tuple(approvers), mode)


def flow(*steps: Step, self_approve: bool = False, across: bool = False) -> Workflow:
    return Workflow("w", steps=steps, allow_self_approve=self_approve, allow_same_approver_across_steps=across)


def gave(
    actor: str,
    selector: str,
    index: int = 0,
    action: Literal["approve", "reject"] = "approve",
    comment: str | None = None,
) -> Approval:
    return Approval(index, actor, action, selector, comment, NOON)


def person(subject: str, roles: str = "", groups: str = "") -> Principal:
    return Principal(
        subject=subject,
        kind="user",
        roles=tuple(Role(name, ()) for name in roles.split()),
        groups=tuple(groups.split()),
    )


def outcome(
    workflow: Workflow, approvals: list[Approval], who: Principal, wanted: str | None = None, requester: str = "req"
) -> str:
    try:
        return str(choose_selector(workflow, approvals, who, requester, wanted))
    except DbwardError as e:
        return type(e).__name__


TWO = flow(step("role:dba*2", "group:sec"), step("user:boss", "role:dba", mode="any"))


def test_steps_are_satisfied_in_order() -> None:
    given_so_far: list[Approval] = []
    assert progress(TWO, given_so_far).current_step == 0
    given_so_far += [gave("a", "role:dba"), gave("b", "role:dba")]
    assert progress(TWO, given_so_far).current_step == 0
    assert [str(one) for one in pending_selectors(TWO, given_so_far)] == ["role:dba", "group:sec"]
    given_so_far.append(gave("c", "group:sec"))
    assert progress(TWO, given_so_far).current_step == 1
    assert [str(one) for one in pending_selectors(TWO, given_so_far)] == ["user:boss", "role:dba"]
    given_so_far.append(gave("boss", "user:boss", 1))
    done = progress(TWO, given_so_far)
    assert done.done
    assert done.current_step == done.total_steps == 2
    assert pending_selectors(TWO, given_so_far) == ()
    assert outcome(TWO, given_so_far, person("d", "dba")) == "Conflict"


def test_rejections_repeats_and_other_steps_do_not_count() -> None:
    noise = [
        gave("a", "role:dba", action="reject"),
        gave("b", "role:dba"),
        gave("b", "role:dba"),
        gave("c", "role:dba", 1),
    ]
    first = progress(TWO, noise).steps[0]
    assert [entry.current for entry in first.required] == [1, 0]


def test_one_approval_counts_for_one_entry_even_when_it_is_written_twice() -> None:
    twice = flow(step("role:dba", "role:dba"))
    assert not progress(twice, [gave("a", "role:dba")]).done
    assert progress(twice, [gave("a", "role:dba"), gave("b", "role:dba")]).done


@pytest.mark.parametrize("bad", [Step(()), Step((), "any")])
def test_a_step_that_names_nobody_is_never_satisfied(bad: Step) -> None:
    assert progress(flow(bad), []).current_step == 0
    assert outcome(flow(bad), [], person("a", "dba")) == "Refused"


def test_a_minimum_below_one_counts_as_one() -> None:
    assert not progress(flow(step("role:dba*0")), []).done


def test_refusals_in_the_order_of_the_contract() -> None:
    dba = person("a", "dba")
    assert outcome(TWO, [], Principal(subject="a", kind="agent", roles=dba.roles)) == "Refused"
    assert outcome(TWO, [], dba, requester="a") == "Refused"
    assert outcome(flow(step("role:dba"), self_approve=True), [], dba, requester="a") == "role:dba"
    assert outcome(TWO, [], person("x", "requester", "ops")) == "Refused"
    first = [gave("a", "role:dba"), gave("b", "role:dba"), gave("c", "group:sec")]
    assert outcome(TWO, first, dba) == "Refused"
    assert outcome(flow(*TWO.steps, across=True), first, dba) == "role:dba"
    assert outcome(TWO, [gave("a", "role:dba")], dba) == "Conflict"
    # self comes before "already", "already" before a selector that is not theirs, that before one that is full
    assert outcome(TWO, [gave("a", "role:dba")], dba, "group:sec", requester="a") == "Refused"
    assert outcome(TWO, [gave("a", "role:dba")], dba, "group:sec") == "Conflict"
    assert outcome(TWO, first[:2], person("d", "dba"), "group:sec") == "Invalid"
    assert outcome(TWO, first[:2], person("d", "dba"), "role:dba") == "Conflict"
    assert outcome(TWO, first[:2], person("d", "dba")) == "Conflict"


def test_several_matches_need_a_choice() -> None:
    both = person("a", "dba", "sec")
    assert outcome(TWO, [], both) == "Invalid"
    assert outcome(TWO, [], both, "group:sec") == "group:sec"
    assert outcome(TWO, [gave("b", "role:dba"), gave("c", "role:dba")], both) == "group:sec"
    with pytest.raises(Invalid, match="role:dba, group:sec"):
        choose_selector(TWO, [], both, "req", None)
    with pytest.raises(Conflict, match="already approved"):
        choose_selector(TWO, [gave("a", "role:dba")], both, "req", None)


def test_the_selector_requester_matches_nobody() -> None:
    odd = flow(step("requester"), self_approve=True)
    assert outcome(odd, [], person("req", "dba"), requester="req") == "Refused"


def test_rejecting_needs_the_same_standing_but_no_open_entry() -> None:
    full = [gave("b", "role:dba"), gave("c", "role:dba")]
    assert choose_rejecting(TWO, full, person("d", "dba"), "req") == (0, parse_selector("role:dba"))
    assert choose_rejecting(TWO, [gave("a", "role:dba")], person("a", "dba"), "req")[0] == 0
    for who, requester in ((person("x"), "req"), (person("d", "dba"), "d")):
        with pytest.raises(Refused):
            choose_rejecting(TWO, full, who, requester)


def test_json() -> None:
    shown = progress_json(TWO, [gave("a", "role:dba", comment="fine"), gave("b", "group:sec", action="reject")])
    assert shown["current_step"] == 0
    assert shown["total_steps"] == 2
    assert shown["steps"][0] == {
        "index": 0,
        "mode": "all",
        "satisfied": False,
        "approvers_required": [
            {"selector": "role:dba", "min": 2, "current": 1},
            {"selector": "group:sec", "min": 1, "current": 0},
        ],
        "approvals": [
            {"user": "a", "action": "approve", "at": NOON, "comment": "fine"},
            {"user": "b", "action": "reject", "at": NOON},
        ],
    }


def by_hand(workflow: Workflow, approvals: list[Approval]) -> int:
    """The current step, found by trying every way to hand out the approvals of each step to its entries."""
    for index, one in enumerate(workflow.steps):
        people = {(a.actor, a.matched_selector) for a in approvals if a.step_index == index and a.action == "approve"}
        ways = [
            [i for i, entry in enumerate(one.approvers) if str(entry.selector) == matched] or [None]
            for _, matched in sorted(people)
        ]
        judge = all if one.mode == "all" else any
        if not any(judge(way.count(i) >= entry.min for i, entry in enumerate(one.approvers)) for way in product(*ways)):
            return index
    return len(workflow.steps)


texts = st.sampled_from(["role:a", "role:b", "user:c"])
small_steps = st.builds(
    step,
    st.tuples(texts, st.integers(1, 2)).map(lambda it: f"{it[0]}*{it[1]}"),
    st.tuples(texts, st.integers(1, 2)).map(lambda it: f"{it[0]}*{it[1]}"),
    mode=st.sampled_from(["all", "any"]),
)
some_approvals = st.lists(
    st.builds(
        gave, st.sampled_from("uvwxyz"), texts, st.integers(0, 1), st.sampled_from(["approve", "approve", "reject"])
    ),
    max_size=7,
)


@calm
@given(st.lists(small_steps, min_size=1, max_size=2), some_approvals, st.randoms())
def test_progress_is_what_counting_by_hand_says_in_any_order(
    steps: list[Step], approvals: list[Approval], random: object
) -> None:
    workflow = flow(*steps)
    expected = by_hand(workflow, approvals)
    assert progress(workflow, approvals).current_step == expected
    random.shuffle(approvals)  # type: ignore[attr-defined]
    assert progress(workflow, approvals).current_step == expected


@calm
@given(st.lists(small_steps, min_size=1, max_size=2), some_approvals, st.sampled_from(["u", "q"]), st.booleans())
def test_an_accepted_approval_is_new_and_moves_its_entry_on(
    steps: list[Step], approvals: list[Approval], actor: str, across: bool
) -> None:
    workflow = flow(*steps, across=across)
    before = progress(workflow, approvals)
    try:
        chosen = choose_selector(workflow, approvals, person(actor, "a"), "req", None)
    except DbwardError:
        return
    here = before.steps[before.current_step]
    assert not any(it.actor == actor and it.action == "approve" for it in here.approvals)
    assert across or not any(it.actor == actor and it.action == "approve" for it in approvals)
    after = progress(workflow, [*approvals, gave(actor, str(chosen), here.index)])
    assert after.current_step >= before.current_step
    counted = sum(entry.current for entry in here.required)
    assert sum(entry.current for entry in after.steps[here.index].required) == counted + 1
