"""What the server does by itself: lost executions, expiry, dispatch time-outs, dead letters, retention, checkpoints.

One thread that sleeps until the next chore is due. Of several servers on one state one does the chores, and another
takes over when it dies. Every chore is safe to run twice all the same, and on several servers at once: each change is
guarded by the status it expects.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from time import monotonic

from dbward.broker import store as broker
from dbward.broker.names import job_queue
from dbward.db import agents, executions, identities, meta, requests, schemas, servers
from dbward.db.connect import open_listener
from dbward.db.engine import Tx
from dbward.db.rows import RequestRow, ResultRow
from dbward.domain.limits import approval_deadline
from dbward.domain.model import SYSTEM, Event, ExecutionStatus, Status
from dbward.domain.policy import find_execution_policy, workflow_from_json
from dbward.domain.states import PURGEABLE, Trigger
from dbward.errors import Conflict, DbwardError, Missing, Unavailable
from dbward.results.store import storage_key
from dbward.runtime import Current, Runtime
from dbward.services import audit, explains, monitoring, outbox
from dbward.services.completion import give_up_delivery, lose
from dbward.services.executions import take_back_if_lapsed
from dbward.services.journal import due_checkpoint, record
from dbward.services.requests import withdraw_execution

log = logging.getLogger(__name__)

BATCH = 200
FROZEN_AFTER = timedelta(seconds=5)
FORGET_AGENTS_AFTER = timedelta(days=7)
ABANDONED_UPLOAD_AFTER = timedelta(days=1)
ABANDONED_SCHEMA_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class _Chore:
    """What is done again and again, by one server or, when it is about the server itself, by each."""

    every: timedelta
    run: Callable[[Runtime], None]
    by_each: bool = False


def sweep_leases(rt: Runtime) -> None:
    """Lost executions, claims whose agent is gone, and whatever in the broker has run out."""
    now = rt.now()
    with rt.store.read() as conn:
        lost = executions.overdue(conn, ExecutionStatus.RUNNING, now, limit=BATCH)
    _each(rt, lost, _lose_if_overdue)

    def sweep(tx: Tx) -> broker.Swept:
        meta.put(tx, meta.SWEPT_AT, now.isoformat())
        return broker.sweep(tx, now, rt.settings.broker.delivery_cap)

    swept = rt.store.write(sweep)
    _each(rt, swept.dead_jobs, _give_up_delivery)
    with rt.store.read() as conn:
        claimed = executions.overdue(conn, ExecutionStatus.CLAIMED, now, limit=BATCH)
    _each(rt, claimed, take_back_if_lapsed)


def _give_up_delivery(rt: Runtime, tx: Tx, job_id: str) -> None:
    if not explains.end_undelivered(rt, tx, job_id):
        give_up_delivery(rt, tx, job_id)


def end_explains(rt: Runtime) -> None:
    """Questions that no agent answered in time, and answers that nobody can want any more."""
    _each(rt, explains.due(rt), explains.expire)
    explains.forget(rt)


def _lose_if_overdue(rt: Runtime, tx: Tx, execution_id: str) -> None:
    execution = executions.lock(tx, execution_id)
    overdue = execution.lease_until is not None and execution.lease_until <= rt.now()
    if execution.status is ExecutionStatus.RUNNING and overdue:
        lose(rt, tx, execution)


def _each(rt: Runtime, found: Iterable[str], act: Callable[[Runtime, Tx, str], None]) -> None:
    """A transaction for each of what was found; one that cannot be handled does not keep the others from it."""
    for each in found:
        try:
            rt.store.write(partial(_run_one, rt, each, act))
        except (Conflict, Missing):  # somebody else moved it meanwhile: nothing is left to do
            continue
        except Unavailable:
            raise
        except Exception:
            rt.metrics.background_panics.inc()
            log.exception("housekeeping could not handle %s", each)


def _run_one(rt: Runtime, each: str, act: Callable[[Runtime, Tx, str], None], tx: Tx) -> None:
    act(rt, tx, each)


def expire(rt: Runtime) -> None:
    """Pending and approved requests whose time is over."""
    for status in (Status.PENDING, Status.APPROVED):
        _each_due(rt, status, "expires_at", rt.now(), _expire)


def _expire(rt: Runtime, tx: Tx, row: RequestRow) -> None:
    now = rt.now()
    if row.expires_at is None or row.expires_at > now:
        return
    why = "not decided in time" if row.status is Status.PENDING else "approved, but not run in time"
    moved = requests.move(tx, row, Trigger.EXPIRE, now=now, resolved_at=now)
    requests.set_selectors(tx, row.id, [])
    record(rt, tx, Event.REQUEST_EXPIRED, actor=SYSTEM, request=moved, reason=why)


def time_out_dispatches(rt: Runtime) -> None:
    """Jobs no agent took in time go back to approved, their messages withdrawn, so that a person decides again."""
    _each_due(rt, Status.DISPATCHED, "dispatched_at", rt.now() - rt.settings.dispatch_timeout, _time_out)


def _time_out(rt: Runtime, tx: Tx, row: RequestRow) -> None:
    now = rt.now()
    if row.dispatched_at is None or row.dispatched_at > now - rt.settings.dispatch_timeout:
        return
    moved = requests.move(
        tx, row, Trigger.DISPATCH_TIMEOUT, now=now, expires_at=_good_until(rt, tx, row), dispatched_at=None
    )
    withdraw_execution(tx, row)
    why = f"no agent took it within {int(rt.settings.dispatch_timeout.total_seconds())} seconds"
    record(rt, tx, Event.REQUEST_DISPATCH_TIMEOUT, actor=SYSTEM, request=moved, reason=why)


def _good_until(rt: Runtime, tx: Tx, row: RequestRow) -> datetime:
    """Until when it can be resumed: the approval is no younger for having waited in a queue."""
    flow = workflow_from_json(row.workflow) if row.workflow is not None else None
    since = row.approved_at or row.created_at
    if executions.count_completed(tx.conn, row.id):
        return since + find_execution_policy(rt.settings.policy.execution_policies, row.target).execution_window
    return approval_deadline(flow, since)


def _each_due(
    rt: Runtime, status: Status, column: str, before: datetime, act: Callable[[Runtime, Tx, RequestRow], None]
) -> None:
    with rt.store.read() as conn:
        due = requests.due(conn, status, column, before, limit=BATCH)

    def if_still(rt: Runtime, tx: Tx, request_id: str) -> None:
        row = requests.lock(tx, request_id)
        if row.status is status:
            act(rt, tx, row)

    _each(rt, due, if_still)


def purge(rt: Runtime) -> None:
    """Deliveries, results, requests, tokens and audit events past their retention, and uploads nobody goes on with."""
    now = rt.now()
    outbox.tidy(rt)
    _purge_results(rt, now)
    _purge_requests(rt, now - rt.settings.retention.request_ttl)
    _purge_uploads(rt, now - ABANDONED_UPLOAD_AFTER)
    rt.store.write(lambda tx: identities.remove_dead(tx, now - rt.settings.retention.request_ttl))
    rt.store.write(lambda tx: agents.forget(tx, now - FORGET_AGENTS_AFTER))
    rt.store.write(lambda tx: schemas.drop_idle(tx, now - ABANDONED_SCHEMA_AFTER))
    audit.purge(rt, rt.settings.retention.audit_ttl)


def _purge_results(rt: Runtime, now: datetime) -> None:
    while True:
        with rt.store.read() as conn:
            expired = executions.expired_results(conn, now, limit=BATCH)
        for result in expired:  # the blob first: a crash in between leaves a row that is found again
            rt.results.delete(result.storage_key)
            rt.store.write(partial(_forget_result, rt, result))
        if len(expired) < BATCH:
            return


def _forget_result(rt: Runtime, result: ResultRow, tx: Tx) -> None:
    request = requests.find(tx.conn, result.request_id)
    executions.remove_result(tx, result.execution_id)
    record(
        rt,
        tx,
        Event.RESULT_PURGED,
        actor=SYSTEM,
        request=request,
        execution_id=result.execution_id,
        reason="its retention has passed",
    )
    tx.after_commit(rt.metrics.result_storage.labels("purged").inc)


def _purge_requests(rt: Runtime, before: datetime) -> None:
    while True:
        with rt.store.read() as conn:
            old = requests.purgeable(conn, PURGEABLE, before, limit=BATCH)
        for request_id in old:
            # Nothing of a request this old is read any more: a crash in between leaves a row that is found again.
            rt.results.delete_all(request_id)
            rt.store.write(partial(_forget_request, request_id, before))
        if len(old) < BATCH:
            return


def _forget_request(request_id: str, before: datetime, tx: Tx) -> None:
    requests.remove(tx, request_id, PURGEABLE, before)


def _purge_uploads(rt: Runtime, before: datetime) -> None:
    idle = {execution_id: request_id for request_id, execution_id in rt.results.abandoned(before)}
    with rt.store.read() as conn:
        needed = executions.still_needed(conn, list(idle)) if idle else set()
    for execution_id in idle.keys() - needed:  # a long statement may take its time between two rows
        rt.results.discard(storage_key(idle[execution_id], execution_id))


def vouch(rt: Runtime) -> None:
    """A checkpoint when time makes one due, and the anchor file."""
    rt.store.write(lambda tx: due_checkpoint(rt, tx))
    audit.write_anchor(rt)


def measure(rt: Runtime) -> None:
    """Metrics for whoever makes them out of what we print, where that is configured."""
    if (line := monitoring.emf(rt)) is not None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


_CHORES = (
    _Chore(timedelta(seconds=2), sweep_leases),
    _Chore(timedelta(seconds=5), end_explains),
    _Chore(timedelta(seconds=5), time_out_dispatches),
    _Chore(timedelta(seconds=5), expire),
    _Chore(timedelta(seconds=60), vouch, by_each=True),
    _Chore(timedelta(seconds=60), measure, by_each=True),
    _Chore(timedelta(hours=1), purge),
)


class Housekeeper:
    """The thread that runs the chores."""

    def __init__(self, current: Current) -> None:
        self._current = current
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="housekeeping", daemon=True)
        rt = current.get()
        shared = rt.store.dialect == "postgresql"
        self._right = servers.Housekeeping(partial(open_listener, rt.settings.state) if shared else None)

    def start(self) -> None:
        """Give everybody who could not renew while no server ran their grace, then begin."""
        rt = self._current.get()
        until = rt.now() + rt.settings.broker.start_grace

        def work(tx: Tx) -> None:
            broker.ensure_job_queues(tx, [job_queue(target) for target in rt.settings.policy.targets])
            if _served_until_now(rt, tx):
                return  # or servers that start one after the other would never let an agent be given up
            broker.grace(tx, until)
            executions.lease_at_least(tx, until)

        rt.store.write(work)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._right.close()
        try:
            audit.write_anchor(self._current.get())
        except (DbwardError, OSError):
            log.warning("the audit anchor could not be written on the way out", exc_info=True)

    def _loop(self) -> None:
        shortest = min(chore.every for chore in _CHORES)
        due = {chore: monotonic() + chore.every.total_seconds() for chore in _CHORES}
        now = self._current.get().now
        seen = now()
        while not self._stop.wait(max(0.0, min(due.values()) - monotonic())):
            ours = self._right.held()
            self._current.get().metrics.housekeeping.set(ours)
            if self._right.answered:  # else time stands still: nobody can renew anything
                # The clock of the leases, not the monotonic one, which stands still while the machine sleeps.
                stood_still, seen = now() - seen - shortest, now()
                if ours and stood_still > FROZEN_AFTER:
                    self._attempt(partial(_thaw, by=stood_still))
            for chore in _CHORES:
                if due[chore] <= monotonic():
                    if ours or chore.by_each:
                        self._attempt(chore.run)
                    due[chore] = monotonic() + chore.every.total_seconds()

    def _attempt(self, chore: Callable[[Runtime], None]) -> None:
        """One chore; what goes wrong is logged and tried again at its next turn, the other chores go on."""
        try:
            chore(self._current.get())
        except Exception:
            if not self._stop.is_set():
                self._current.get().metrics.background_panics.inc()
                log.exception("a housekeeping chore failed and will be tried again")


def _served_until_now(rt: Runtime, tx: Tx) -> bool:
    """Whether others are on this state, and one of them has kept house all the time."""
    if rt.store.dialect != "postgresql" or not servers.others(tx.conn, rt.store.id):
        return False
    last = meta.get(tx.conn, meta.SWEPT_AT)
    return last is not None and abs(rt.now() - datetime.fromisoformat(last)) < FROZEN_AFTER


def _thaw(rt: Runtime, *, by: timedelta) -> None:
    """This process stood still, or its clock was set: leases move on by as long, for nobody could renew them."""

    def work(tx: Tx) -> None:
        broker.shift_leases(tx, by)
        executions.shift_leases(tx, by)

    rt.store.write(work)
