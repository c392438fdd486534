"""The request's life: every pair of status and trigger, against the table as the contract writes it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbward.domain.model import Status
from dbward.domain.states import (
    CANCELLABLE,
    DISPATCHABLE,
    LONG_POLL_TERMINAL,
    OPEN,
    PURGEABLE,
    STREAM_TERMINAL,
    Trigger,
    advance,
)
from dbward.errors import Conflict
from tests.support.props import calm

CONTRACT = """
pending approve_step pending
pending approve_final approved
pending reject rejected
pending expire expired
approved expire expired
dispatched dispatch_timeout approved
dispatched claim running
dispatched complete_failed failed
running claim running
running release dispatched
running complete_ok executed
running complete_failed failed
running lose execution_lost
running agent_cancelled cancelled
cancelled complete_ok cancelled
cancelled complete_failed cancelled
cancelled agent_cancelled cancelled
execution_lost complete_ok executed
execution_lost complete_failed failed
"""
DISPATCH_FROM = {"approved", "auto_approved", "break_glass", "executed", "failed", "execution_lost"}
CANCEL_FROM = {"pending", "approved", "auto_approved", "break_glass", "dispatched", "running", "execution_lost"}

EXPECTED = {(a, t): b for a, t, b in (line.split() for line in CONTRACT.split("\n") if line)}
EXPECTED |= {(status, "dispatch"): "dispatched" for status in DISPATCH_FROM}
EXPECTED |= {(status, "cancel"): "cancelled" for status in CANCEL_FROM}


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("trigger", Trigger)
def test_every_pair_is_in_the_contract_or_a_conflict(status: Status, trigger: Trigger) -> None:
    expected = EXPECTED.get((str(status), str(trigger)))
    if expected is None:
        with pytest.raises(Conflict, match=str(status)):
            advance(status, trigger)
    else:
        assert advance(status, trigger) == expected


def test_the_sets() -> None:
    assert {Status(name) for name in DISPATCH_FROM} == DISPATCHABLE
    assert {Status(name) for name in CANCEL_FROM} == CANCELLABLE
    assert {"executed", "failed", "rejected", "cancelled", "expired"} == STREAM_TERMINAL
    assert LONG_POLL_TERMINAL == PURGEABLE == STREAM_TERMINAL | {"execution_lost"}
    assert set(Status) == PURGEABLE | OPEN
    assert not PURGEABLE & OPEN


@calm
@given(st.lists(st.sampled_from(Trigger)))
def test_whatever_is_tried_what_is_decided_stays_decided(triggers: list[Trigger]) -> None:
    status, seen = Status.PENDING, [Status.PENDING]
    for trigger in triggers:
        try:
            status = advance(status, trigger)
        except Conflict:
            continue
        seen.append(status)
    for final in (Status.REJECTED, Status.CANCELLED, Status.EXPIRED):
        if final in seen:
            assert set(seen[seen.index(final) :]) == {final}
    for earlier, later in pairwise(seen):
        if later is Status.RUNNING:
            assert earlier in (Status.DISPATCHED, Status.RUNNING)
        if later is Status.EXECUTED:
            assert earlier in (Status.RUNNING, Status.EXECUTION_LOST)
    ran = {Status.DISPATCHED, Status.RUNNING, Status.EXECUTED, Status.FAILED, Status.EXECUTION_LOST}
    if ran & set(seen):
        assert seen.index(Status.APPROVED) < min(seen.index(status) for status in ran if status in seen)
