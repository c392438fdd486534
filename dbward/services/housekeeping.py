"""What the server does by itself: lost executions, expiry, dispatch time-outs, dead letters, retention, checkpoints.

One thread that sleeps until the next chore is due and can be woken. Every chore is safe to run twice and on several
replicas at once: each change is guarded by the status it expects.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic

from dbward.broker import store as broker
from dbward.broker.names import job_queue
from dbward.db import agents, executions, requests
from dbward.db.engine import Tx
from dbward.db.rows import RequestRow
from dbward.domain.limits import approval_deadline
from dbward.domain.model import SYSTEM, Event, Status
from dbward.domain.policy import workflow_from_json
from dbward.domain.states import PURGEABLE, Trigger
from dbward.errors import Conflict, DbwardError
from dbward.runtime import Runtime
from dbward.services import audit
from dbward.services.completion import give_up_delivery, lose
from dbward.services.journal import due_checkpoint, record
from dbward.services.requests import withdraw_execution

log = logging.getLogger(__name__)

BATCH = 200
FROZEN_AFTER = timedelta(seconds=5)
FORGET_AGENTS_AFTER = timedelta(days=7)
ABANDONED_UPLOAD_AFTER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class _Chore:
    every: timedelta
    run: Callable[[Runtime], None]


def sweep_leases(rt: Runtime) -> None:
    """Lost executions, and whatever in the broker has run out."""
    now = rt.now()
    with rt.store.read() as conn:
        overdue = [execution.id for execution in executions.overdue(conn, now, limit=BATCH)]
    for execution_id in overdue:
        rt.store.write(lambda tx, each=execution_id: _lose_if_overdue(rt, tx, each))  # type: ignore[misc]
    swept = rt.store.write(lambda tx: broker.sweep(tx, now, rt.settings.broker.delivery_cap))
    for job_id in swept.dead_jobs:
        rt.store.write(lambda tx, each=job_id: give_up_delivery(rt, tx, each))  # type: ignore[misc]


def _lose_if_overdue(rt: Runtime, tx: Tx, execution_id: str) -> None:
    execution = executions.lock(tx, execution_id)
    if execution.lease_until is not None and execution.lease_until <= rt.now():
        lose(rt, tx, execution)


def expire(rt: Runtime) -> None:
    """Pending and approved requests whose time is over."""
    for status in (Status.PENDING, Status.APPROVED):
        _each_due(rt, status, "expires_at", rt.now(), _expire)


def _expire(rt: Runtime, tx: Tx, row: RequestRow) -> None:
    if row.expires_at is None or row.expires_at > rt.now():
        return
    moved = requests.move(tx, row, Trigger.EXPIRE, now=rt.now(), resolved_at=rt.now())
    requests.set_selectors(tx, row.id, [])
    record(rt, tx, Event.REQUEST_EXPIRED, actor=SYSTEM, request=moved)


def time_out_dispatches(rt: Runtime) -> None:
    """Jobs no agent took in time go back to approved, their messages withdrawn, so that a person decides again."""
    _each_due(rt, Status.DISPATCHED, "dispatched_at", rt.now() - rt.settings.dispatch_timeout, _time_out)


def _time_out(rt: Runtime, tx: Tx, row: RequestRow) -> None:
    now = rt.now()
    if row.dispatched_at is None or row.dispatched_at > now - rt.settings.dispatch_timeout:
        return
    flow = workflow_from_json(row.workflow) if row.workflow is not None else None
    moved = requests.move(
        tx, row, Trigger.DISPATCH_TIMEOUT, now=now, expires_at=approval_deadline(flow, now), dispatched_at=None
    )
    withdraw_execution(tx, row)
    record(rt, tx, Event.REQUEST_DISPATCH_TIMEOUT, actor=SYSTEM, request=moved)


def _each_due(
    rt: Runtime, status: Status, column: str, before: datetime, act: Callable[[Runtime, Tx, RequestRow], None]
) -> None:
    with rt.store.read() as conn:
        due = requests.due(conn, status, column, before, limit=BATCH)
    for request_id in due:

        def work(tx: Tx, request_id: str = request_id) -> None:
            row = requests.lock(tx, request_id)
            if row.status is status:
                act(rt, tx, row)

        try:
            rt.store.write(work)
        except Conflict:  # somebody else moved it meanwhile: nothing is left to do
            continue


def purge(rt: Runtime) -> None:
    """Results, requests and audit events past their retention, and uploads nobody goes on with."""
    now = rt.now()
    with rt.store.read() as conn:
        expired = executions.expired_results(conn, now, limit=BATCH)
    for result in expired:  # the blob first: a crash in between leaves a row that is found again
        rt.results.delete(result.storage_key)
        rt.store.write(lambda tx, each=result: _forget_result(rt, tx, each.execution_id))  # type: ignore[misc]
    with rt.store.read() as conn:
        old = requests.purgeable(conn, PURGEABLE, now - rt.settings.retention.request_ttl, limit=BATCH)
        blobs = [result.storage_key for each in old for result in executions.results_of_request(conn, each)]
    for key in blobs:
        rt.results.delete(key)
    for request_id in old:
        rt.store.write(lambda tx, each=request_id: requests.remove(tx, each))  # type: ignore[misc]
    for key in list(rt.results.abandoned(now - ABANDONED_UPLOAD_AFTER)):
        rt.results.delete(key)
    rt.store.write(lambda tx: agents.forget(tx, now - FORGET_AGENTS_AFTER))
    audit.purge(rt, rt.settings.retention.audit_ttl)


def _forget_result(rt: Runtime, tx: Tx, execution_id: str) -> None:
    executions.remove_result(tx, execution_id)
    record(rt, tx, Event.RESULT_PURGED, actor=SYSTEM, resource=("execution", execution_id))


def vouch(rt: Runtime) -> None:
    """A checkpoint when time makes one due, and the anchor file."""
    rt.store.write(lambda tx: due_checkpoint(rt, tx))
    audit.write_anchor(rt)


_CHORES = (
    _Chore(timedelta(seconds=2), sweep_leases),
    _Chore(timedelta(seconds=5), time_out_dispatches),
    _Chore(timedelta(seconds=5), expire),
    _Chore(timedelta(seconds=60), vouch),
    _Chore(timedelta(hours=1), purge),
)


class Housekeeper:
    """The thread that runs the chores."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Give everybody who could not renew while no server ran their grace, then begin."""
        rt = self._rt
        until = rt.now() + rt.settings.broker.start_grace

        def work(tx: Tx) -> None:
            broker.ensure_job_queues(tx, [job_queue(target) for target in rt.settings.policy.targets])
            broker.grace(tx, until)
            executions.lease_at_least(tx, until)

        rt.store.write(work)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        try:
            audit.write_anchor(self._rt)
        except (DbwardError, OSError):
            log.warning("the audit anchor could not be written on the way out", exc_info=True)

    def _loop(self) -> None:
        due = {chore: monotonic() + chore.every.total_seconds() for chore in _CHORES}
        last_tick = monotonic()
        while not self._stop.wait(max(0.0, min(due.values()) - monotonic())):
            gap = timedelta(seconds=monotonic() - last_tick) - min(chore.every for chore in _CHORES)
            last_tick = monotonic()
            if gap > FROZEN_AFTER:
                self._attempt(lambda rt, by=gap: _thaw(rt, by))  # type: ignore[misc]
            for chore in _CHORES:
                if due[chore] <= monotonic():
                    self._attempt(chore.run)
                    due[chore] = monotonic() + chore.every.total_seconds()

    def _attempt(self, chore: Callable[[Runtime], None]) -> None:
        """One chore; what goes wrong is logged and tried again at its next turn, the other chores go on."""
        try:
            chore(self._rt)
        except Exception:
            if not self._stop.is_set():
                log.exception("a housekeeping chore failed and will be tried again")


def _thaw(rt: Runtime, by: timedelta) -> None:
    """This process stood still: leases move on by as long, for their holders could not reach it."""

    def work(tx: Tx) -> None:
        broker.shift_leases(tx, by)
        executions.shift_leases(tx, by)

    rt.store.write(work)
