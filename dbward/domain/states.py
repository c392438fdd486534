"""The life of a request as a table: what is not in it does not happen."""

from __future__ import annotations

from enum import StrEnum

from dbward.domain.model import Status
from dbward.errors import Conflict


class Trigger(StrEnum):
    APPROVE_STEP = "approve_step"
    APPROVE_FINAL = "approve_final"
    REJECT = "reject"
    EXPIRE = "expire"
    DISPATCH = "dispatch"
    DISPATCH_TIMEOUT = "dispatch_timeout"
    CLAIM = "claim"
    RELEASE = "release"
    COMPLETE_OK = "complete_ok"
    COMPLETE_FAILED = "complete_failed"
    LOSE = "lose"
    CANCEL = "cancel"
    AGENT_CANCELLED = "agent_cancelled"


_T = Trigger
_S = Status

TRANSITIONS: dict[Status, dict[Trigger, Status]] = {
    _S.PENDING: {
        _T.APPROVE_STEP: _S.PENDING,
        _T.APPROVE_FINAL: _S.APPROVED,
        _T.REJECT: _S.REJECTED,
        _T.EXPIRE: _S.EXPIRED,
        _T.CANCEL: _S.CANCELLED,
    },
    _S.APPROVED: {_T.DISPATCH: _S.DISPATCHED, _T.EXPIRE: _S.EXPIRED, _T.CANCEL: _S.CANCELLED},
    _S.AUTO_APPROVED: {_T.DISPATCH: _S.DISPATCHED, _T.CANCEL: _S.CANCELLED},
    _S.BREAK_GLASS: {_T.DISPATCH: _S.DISPATCHED, _T.CANCEL: _S.CANCELLED},
    _S.DISPATCHED: {
        _T.CLAIM: _S.RUNNING,
        _T.DISPATCH_TIMEOUT: _S.APPROVED,
        _T.COMPLETE_FAILED: _S.FAILED,  # a dead letter: delivered too often, never started
        _T.CANCEL: _S.CANCELLED,
    },
    _S.RUNNING: {
        _T.CLAIM: _S.RUNNING,  # the agent that had claimed it died before it started
        _T.RELEASE: _S.DISPATCHED,  # given back before it started
        _T.COMPLETE_OK: _S.EXECUTED,
        _T.COMPLETE_FAILED: _S.FAILED,
        _T.LOSE: _S.EXECUTION_LOST,
        _T.AGENT_CANCELLED: _S.CANCELLED,
        _T.CANCEL: _S.CANCELLED,
    },
    _S.EXECUTED: {_T.DISPATCH: _S.DISPATCHED},
    _S.FAILED: {_T.DISPATCH: _S.DISPATCHED},
    _S.EXECUTION_LOST: {
        _T.COMPLETE_OK: _S.EXECUTED,  # a late result says what happened after all
        _T.COMPLETE_FAILED: _S.FAILED,
        _T.DISPATCH: _S.DISPATCHED,
        _T.CANCEL: _S.CANCELLED,
    },
    _S.CANCELLED: {  # a result that crossed the cancellation is kept; the request stays cancelled
        _T.COMPLETE_OK: _S.CANCELLED,
        _T.COMPLETE_FAILED: _S.CANCELLED,
        _T.AGENT_CANCELLED: _S.CANCELLED,
    },
    _S.REJECTED: {},
    _S.EXPIRED: {},
}


def advance(status: Status, trigger: Trigger) -> Status:
    """The status after `trigger`. Raises `Conflict` when that cannot happen to a request in `status`."""
    try:
        return TRANSITIONS[status][trigger]
    except KeyError:
        raise Conflict(f"request is {status}: {_DOING[trigger]} is not possible") from None


def _leavable_by(trigger: Trigger) -> frozenset[Status]:
    return frozenset(status for status, moves in TRANSITIONS.items() if trigger in moves)


DISPATCHABLE = _leavable_by(Trigger.DISPATCH)
CANCELLABLE = _leavable_by(Trigger.CANCEL)
OPEN = CANCELLABLE - {Status.EXECUTION_LOST}
"""Still on its way: something or somebody is going to move it."""
STREAM_TERMINAL = frozenset({_S.EXECUTED, _S.FAILED, _S.REJECTED, _S.CANCELLED, _S.EXPIRED})
"""Waiting for a result ends here; a lost execution may still report."""
LONG_POLL_TERMINAL = STREAM_TERMINAL | {Status.EXECUTION_LOST}
PURGEABLE = LONG_POLL_TERMINAL

_DOING = {
    _T.APPROVE_STEP: "approving",
    _T.APPROVE_FINAL: "approving",
    _T.REJECT: "rejecting",
    _T.EXPIRE: "expiring",
    _T.DISPATCH: "resuming",
    _T.DISPATCH_TIMEOUT: "taking it back from the queue",
    _T.CLAIM: "claiming",
    _T.RELEASE: "giving it back",
    _T.COMPLETE_OK: "completing",
    _T.COMPLETE_FAILED: "completing",
    _T.LOSE: "giving it up for lost",
    _T.CANCEL: "cancelling",
    _T.AGENT_CANCELLED: "completing",
}
