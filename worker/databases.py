"""The databases this agent has URLs for: which are up, and bringing back those that are not, each by itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, Event, Thread
from typing import Final

from dbward.client.agent_api import jittered
from dbward.client.wire import ServedDatabase
from dbward.domain.model import Target
from dbward.errors import Misconfigured, Unavailable
from worker.drivers.base import Driver, Session
from worker.drivers.errors import CredentialsRefused, Unreachable
from worker.drivers.ledger import MigrationLock

log = logging.getLogger("dbward.agent")

SETTLE_SECS: Final = 3.0
"""Once one database is up, how long start-up still waits for the first word from the others."""

REFUSED_AGAIN_SECS: Final = 60.0
"""Pause after refused credentials: they are not cured by trying often, and some servers lock accounts that do."""

LOG_EVERY_SECS: Final = 30.0


@dataclass(slots=True)
class _Database:
    target: Target
    driver: Driver
    up: bool = False
    tried: bool = False
    """Whether the first attempt has ended, well or not."""
    recovering: bool = False
    met: bool = False
    """Whether it has ever been up."""
    error: str | None = "not connected yet"


class Databases:
    """`on_change` is called whenever one went up or down, and `on_met` when one is up for the first time, both without
    any lock held; `on_met` may take its time.

    `first_secs` and `last_secs` bound the exponential back-off of attempts to reach a database.
    """

    def __init__(
        self,
        drivers: Mapping[Target, Driver],
        *,
        on_change: Callable[[], None],
        on_met: Callable[[Target, Driver], None] | None = None,
        first_secs: float,
        last_secs: float,
    ) -> None:
        self._databases = {target: _Database(target, driver) for target, driver in drivers.items()}
        self._on_change = on_change
        self._on_met = on_met
        self._first_secs = first_secs
        self._last_secs = last_secs
        self._changed = Condition()
        self._closed = Event()
        self._started = False
        self._refused: tuple[Target, CredentialsRefused] | None = None

    @property
    def targets(self) -> frozenset[Target]:
        return frozenset(self._databases)

    def driver(self, target: Target) -> Driver:
        return self._databases[target].driver

    def up(self) -> frozenset[Target]:
        with self._changed:
            return frozenset(db.target for db in self._databases.values() if db.up)

    def served(self) -> list[ServedDatabase]:
        with self._changed:
            return [
                ServedDatabase(
                    database=db.target.database,
                    environment=db.target.environment,
                    dialect=db.driver.dialect,
                    status="up" if db.up else "down",
                    error=None if db.up else db.error,
                )
                for db in self._databases.values()
            ]

    def start(self, *, until: float | None, stopped: Callable[[], bool]) -> None:
        """Connect to all at once; return when one is up and the others had their chance, or when `stopped()`.

        `until` is a `time.monotonic` deadline, None for ever. Raises `Misconfigured` as soon as any database refuses
        the login, and `Unavailable` at the deadline. Those that are down are tried on in the background.
        """
        for db in self._databases.values():
            self._recover(db)
        first_up: float | None = None
        with self._changed:
            while not stopped():
                if self._refused is not None:
                    target, refusal = self._refused
                    raise Misconfigured(f"database {target}: {refusal}", code="database.credentials_refused")
                now = time.monotonic()
                wait = None if until is None else until - now
                if any(db.up for db in self._databases.values()):
                    first_up = first_up or now
                    if all(db.tried for db in self._databases.values()) or now >= first_up + SETTLE_SECS:
                        break
                    wait = first_up + SETTLE_SECS - now
                elif wait is not None and wait <= 0:
                    errors = "; ".join(f"{db.target}: {db.error}" for db in self._databases.values())
                    raise Unavailable(f"no database could be reached: {errors}", code="database.unreachable")
                self._changed.wait(wait)
            self._started = True

    def poke(self) -> None:
        """Make `start` look at `stopped` again."""
        with self._changed:
            self._changed.notify_all()

    @contextmanager
    def open(self, target: Target) -> Iterator[Session]:
        """A session on `target`, closed at the end. When it cannot be had, the database is down from here on."""
        db = self._databases[target]
        try:
            session = db.driver.open()
        except (Unreachable, CredentialsRefused) as e:
            self.mark_down(target, str(e))
            raise
        try:
            yield session
        finally:
            session.close()

    @contextmanager
    def lock_migrations(self, target: Target) -> Iterator[MigrationLock | None]:
        """The right to migrate `target`, given up at the end; None when somebody else has it. Raises StatementFailed
        where it cannot be locked, and what `open` does."""
        try:
            lock = self._databases[target].driver.lock_migrations()
        except (Unreachable, CredentialsRefused) as e:
            self.mark_down(target, str(e))
            raise
        try:
            yield lock
        finally:
            if lock is not None:
                lock.close()

    def mark_down(self, target: Target, error: str) -> None:
        """Stop counting on `target` until it answers again."""
        db = self._databases[target]
        with self._changed:
            was_up, db.up, db.error = db.up, False, error
        if was_up:
            log.warning("database %s is down: %s", target, error)
            self._on_change()
        self._recover(db)

    def close(self) -> None:
        """Stop recovering, and close every driver."""
        self._closed.set()
        for db in self._databases.values():
            db.driver.close()

    def _recover(self, db: _Database) -> None:
        with self._changed:
            if db.recovering or self._closed.is_set():
                return
            db.recovering = True
        Thread(target=self._knock, args=(db,), name=f"connect-{db.target}", daemon=True).start()

    def _knock(self, db: _Database) -> None:
        """Try until it answers, pausing longer each time."""
        delay = self._first_secs
        logged: float | None = None
        while True:
            error, refused = self._ping(db)
            with self._changed:
                db.up, db.error, db.tried = error is None, error, True
                db.recovering = error is not None
                if refused is not None and not self._started:
                    self._refused = (db.target, refused)
                self._changed.notify_all()
            if error is None:
                log.info("database %s is up", db.target)
                self._on_change()
                if not db.met and self._on_met is not None:
                    self._on_met(db.target, db.driver)
                db.met = True
                return
            now = time.monotonic()
            if logged is None or now - logged >= LOG_EVERY_SECS:
                log.warning("database %s: %s; trying again", db.target, error)
                logged = now
            pause = jittered(delay if refused is None else max(REFUSED_AGAIN_SECS, delay))
            if self._closed.wait(pause):
                return
            delay = min(delay * 2, self._last_secs)

    def _ping(self, db: _Database) -> tuple[str | None, CredentialsRefused | None]:
        try:
            db.driver.ping()
        except CredentialsRefused as e:
            return str(e), e
        except Unreachable as e:
            return str(e), None
        except Exception as e:  # noqa: BLE001 - a driver's surprise is a reason to try again, not to lose the database for good
            return f"connecting failed ({type(e).__name__})", None
        return None, None
