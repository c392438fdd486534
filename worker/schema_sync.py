"""When the schemas are collected and sent: at start, now and then, and after what may have changed them.

One thread for all databases, apart from the jobs. It sleeps until something is due, and is woken by a job that ran DDL
and by a database that came back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Condition, Event, Thread, current_thread
from typing import Final, TypeVar

from sqlalchemy.exc import DBAPIError

from dbward.client.agent_api import AgentApi, jittered, patiently
from dbward.client.wire import SchemaBegin, SchemaCommit, SchemaFailure, SchemaTables
from dbward.domain.model import Target
from dbward.errors import DbwardError, RateLimited, Unauthorized, Unavailable
from worker.databases import Databases
from worker.drivers.base import Driver
from worker.drivers.errors import CredentialsRefused, Unreachable
from worker.drivers.reflect import first_line
from worker.intake import noticing
from worker.job import Plan
from worker.schema import Piece, collect
from worker.surprise import log_surprise

log = logging.getLogger("dbward.agent")

T = TypeVar("T")

FIRST_RETRY_SECS: Final = 5.0
LAST_RETRY_SECS: Final = 900.0
SERVER_SECS: Final = 600.0
"""How long one call waits for a server that is away, before the collection is begun anew."""
END_SECS: Final = 1.0
UNREAD_SHOWN: Final = 50

_ROWS_ONLY: Final = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE"})
"""First words of statements that change rows and nothing else; of all others on the write path one cannot be sure."""


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """`interval_secs` None: only at start and after changes."""

    on_start: bool = True
    interval_secs: float | None = None


class Unread(Exception):
    """The schema could not be collected; the text says why in one line that may be shown."""


def may_change_schema(plan: Plan) -> bool:
    """Whether running `plan`, even in part, may have changed more than rows."""
    return plan.migration is not None or (
        not plan.read_only
        and any(
            statement.split(maxsplit=1)[0].upper() not in _ROWS_ONLY
            for statement in plan.statements
            if statement.strip()
        )
    )


class SchemaSync:
    """One thread from `open` to `close`. Without a `plan` nothing is ever collected.

    `served` says which targets are up and may be served; call `poke` when that has changed. `on_unauthorized` is called
    when the server does not accept the token any more, `on_forgotten` when it wants a report first.
    """

    def __init__(
        self,
        api: AgentApi,
        databases: Databases,
        plan: SyncPlan | None,
        *,
        session: str,
        served: Callable[[], Collection[Target]],
        on_unauthorized: Callable[[], None],
        on_forgotten: Callable[[], None],
    ) -> None:
        self._api = api
        self._databases = databases
        self._plan = plan
        self._session = session
        self._served = served
        self._on_unauthorized = on_unauthorized
        self._on_forgotten = on_forgotten
        self._changed = Condition()
        self._closed = Event()
        self._due: dict[Target, float] = {}
        self._rest_until: dict[Target, float] = {}
        self._retry_secs: dict[Target, float] = {}
        self._thread: Thread | None = None

    def open(self) -> None:
        if self._plan is None or self._closed.is_set():
            return
        now = time.monotonic()
        for target in self._databases.targets:
            if self._plan.on_start:
                self._due[target] = now
            elif self._plan.interval_secs is not None:
                self._due[target] = now + jittered(self._plan.interval_secs)
        self._thread = Thread(target=self._run, name="schema", daemon=True)
        self._thread.start()

    def changed(self, target: Target) -> None:
        """Collect it soon: at once, but never more than half of the time."""
        if self._plan is not None:
            self._at(target, max(time.monotonic(), self._rest_until.get(target, 0.0)))

    def poke(self) -> None:
        """Look again at which targets are served."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """End; what is on its way is left unfinished, and the server forgets it."""
        self._closed.set()
        self.poke()
        if self._thread is not None and self._thread is not current_thread():
            self._thread.join(END_SECS)

    def _at(self, target: Target, due: float) -> None:
        with self._changed:
            self._due[target] = min(due, self._due.get(target, due))
            self._changed.notify()

    def _run(self) -> None:
        while (target := self._next()) is not None:
            began = time.monotonic()
            sent = self._attempt(target)
            now = time.monotonic()
            self._rest_until[target] = now + (now - began)
            if sent:
                self._retry_secs.pop(target, None)
                if self._plan is not None and self._plan.interval_secs is not None:
                    self._at(target, now + jittered(self._plan.interval_secs))
            else:
                delay = self._retry_secs.get(target, FIRST_RETRY_SECS)
                self._retry_secs[target] = min(delay * 2, LAST_RETRY_SECS)
                self._at(target, now + jittered(delay))

    def _next(self) -> Target | None:
        """Sleep until a target that is served is due; None when closed."""
        with self._changed:
            while not self._closed.is_set():
                due = {target: self._due[target] for target in self._served() if target in self._due}
                first = min(due, key=due.__getitem__, default=None)
                now = time.monotonic()
                if first is not None and due[first] <= now:
                    del self._due[first]
                    return first
                self._changed.wait(None if first is None else due[first] - now)
        return None

    def _attempt(self, target: Target) -> bool:
        """Collect and send one schema; False when it is to be tried again. Never raises."""
        upload_id: str | None = None
        driver = self._databases.driver(target)
        who = {
            "session": self._session,
            "database": target.database,
            "environment": target.environment,
            "dialect": driver.dialect,
        }
        try:
            begin = SchemaBegin.model_validate(who)
            upload_id = self._ask(partial(self._api.begin_schema, begin))
            try:
                self._send(target, driver, upload_id)
            except Unread as e:
                log.warning("the schema of %s could not be collected: %s", target, e)
                failure = SchemaFailure.model_validate({**who, "error": str(e), "upload_id": upload_id})
                self._ask(partial(self._api.schema_failed, failure))
                return False
        except Unauthorized:
            self._on_unauthorized()
            return False
        except (Unavailable, RateLimited):
            return False  # whoever waited for the server has said so
        except DbwardError as e:
            log.warning("the server does not take the schema of %s: %s", target, e.message)
            return False
        except Exception as e:  # noqa: BLE001 - a defect here must not end the thread
            log_surprise(f"the schema of {target} cannot be sent", e)
            return False
        return True

    def _send(self, target: Target, driver: Driver, upload_id: str) -> None:
        """Raises Unread, or what the API raises."""
        count = 0
        unread: list[str] = []
        unread_count = 0
        for piece in self._pieces(target, driver):
            if piece.tables:
                self._ask(partial(self._api.schema_tables, upload_id, SchemaTables(tables=piece.tables)))
            count += len(piece.tables)
            unread_count += len(piece.unread)
            unread += piece.unread[: UNREAD_SHOWN - len(unread)]
        commit = SchemaCommit(tables=count, unread_count=unread_count, unread=unread)
        self._ask(partial(self._api.commit_schema, upload_id, commit))
        if unread:
            log.warning("%d tables of %s could not be read, the first is %s", unread_count, target, unread[0])
        log.info("sent the schema of %s: %d tables", target, count)

    def _pieces(self, target: Target, driver: Driver) -> Iterator[Piece]:
        """What `collect` gives. Raises Unread, and marks a database as down that cannot be reached."""
        try:
            yield from collect(driver)
        except (Unreachable, CredentialsRefused) as e:
            self._databases.mark_down(target, e.message)
            raise Unread(_line(e.message)) from None
        except DbwardError as e:
            raise Unread(_line(e.message)) from None
        except DBAPIError as e:
            raise Unread(_line(first_line(e))) from None
        except Exception as e:  # noqa: BLE001 - whatever a driver or the Inspector stumbles over
            log_surprise(f"the schema of {target} cannot be read", e)
            raise Unread(f"reading it failed ({type(e).__name__})") from None

    def _ask(self, call: Callable[[], T]) -> T:
        return patiently(
            lambda: noticing(call, self._on_forgotten), stop=self._closed, what="schema", limit_secs=SERVER_SECS
        )


def _line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[0][:500]
