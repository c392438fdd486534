"""An agent's runner on one database, the migrations it is given, and what became of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from dbward.client.agent_api import AgentApi
from dbward.domain.migration import Applied, Pinned, Repair, signed_texts
from dbward.domain.model import Operation, Target
from tests.worker.targets import TargetDb
from tests.worker.tiny_server import NODE, TinyServer
from worker.databases import Databases
from worker.drivers import open_driver
from worker.intake import Intake
from worker.job import Rules
from worker.jobs import Jobs
from worker.keys import ServerKey
from worker.run import Runner

TARGET = Target("app", "test")
UP, DOWN, REPAIR = Operation.MIGRATE_UP, Operation.MIGRATE_DOWN, Operation.MIGRATE_REPAIR
ENGINES = ["postgresql", "mysql", "sqlite"]


class Bench:
    """An agent's runner on one database. `name` is what the ids of its executions begin with."""

    def __init__(self, server: TinyServer, api: AgentApi, url: str, name: str = "e") -> None:
        self.server = server
        self.databases = Databases({TARGET: open_driver(url)}, on_change=lambda: None, first_secs=0.05, last_secs=0.2)
        self.databases.start(until=None, stopped=lambda: False)
        self.jobs = Jobs(lambda: None)
        self.changed: list[Target] = []
        self.abandon = threading.Event()
        intake = Intake(
            ServerKey(api, server.key.public_key()),
            jobs=self.jobs,
            session="session-1",
            closing=threading.Event(),
            quiet=threading.Event(),
            on_unauthorized=lambda: None,
            on_forgotten=lambda: None,
        )
        # The agent's own bound on statements is one on queries.
        rules = Rules(NODE, {TARGET}, set(Operation), timedelta(milliseconds=1))
        self.runner = Runner(api, self.databases, intake, rules, abandon=self.abandon, on_changed=self.changed.append)
        self._name = name
        self._count = 0

    def run(self, operation: Operation, *pinned: Pinned, **changes: Any) -> dict[str, Any]:
        return self.texts(operation, *signed_texts(pinned), **changes)

    def repair(self, repair: Repair) -> dict[str, Any]:
        return self.texts(REPAIR, *signed_texts(repair))

    def texts(self, operation: Operation, *texts: str, **changes: Any) -> dict[str, Any]:
        return self.server.outcomes[self._execute(operation, *texts, **changes)]

    def released(self, operation: Operation, *pinned: Pinned) -> dict[str, Any]:
        """How a run was put off."""
        return self.server.released[self._execute(operation, *signed_texts(pinned))]

    def _execute(self, operation: Operation, *texts: str, **changes: Any) -> str:
        self._count += 1
        execution_id = f"{self._name}{self._count}"
        self.server.add_job(execution_id, *texts, operation=operation, **changes)
        self.runner.execute(f"request-{execution_id}", execution_id, "tag-1")
        return execution_id

    def close(self) -> None:
        self.abandon.set()
        self.databases.close()


@contextmanager
def bench(server: TinyServer, api: AgentApi, url: str) -> Iterator[Bench]:
    made = Bench(server, api, url)
    try:
        yield made
    finally:
        made.close()


def pinned(version: int, *statements: str, transactional: bool = True, checksum: str = "a") -> Pinned:
    return Pinned(str(version), "step", checksum * 64, transactional, list(statements))


def undoing(version: int, *statements: str, transactional: bool = True, recorded: str = "a") -> Pinned:
    """What takes back a `pinned` file of that checksum."""
    return replace(pinned(version, *statements, transactional=transactional), recorded=recorded * 64)


def insert(n: int, name: str = "x") -> str:
    return f"INSERT INTO t VALUES ({n}, '{name}')"


def ids(db: TargetDb) -> list[int]:
    return [row[0] for row in db.direct("SELECT id FROM t ORDER BY id")]


def versions(db: TargetDb) -> list[str]:
    return [row[0] for row in db.direct("SELECT version FROM schema_migrations ORDER BY version")]


def applied(db: TargetDb) -> tuple[Applied, ...]:
    return open_driver(db.url).ledger().applied


def steps(outcome: dict[str, Any]) -> list[tuple[str, str]]:
    return [(step["version"], step["outcome"]) for step in outcome["migrations"]]


def said(outcome: dict[str, Any]) -> str:
    error = outcome["error"]
    return " | ".join(str(error[part]) for part in ("code", "message", "detail", "hint"))
