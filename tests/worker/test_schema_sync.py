"""When schemas are sent, and what becomes of it at a real server, called in-process."""

from __future__ import annotations

import json
import queue
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import httpx2
import pytest

from dbward.client.agent_api import AgentApi
from dbward.client.wire import PROTOCOL, AgentReport
from dbward.db import schemas
from dbward.db.rows import SnapshotRow
from dbward.domain.model import Operation, Target
from dbward.domain.schema import SchemaStatus
from dbward.runtime import Current, Runtime, open_runtime
from dbward.services import api_tokens, bootstrap, identity
from dbward.settings.server import load_server
from web.app import create_app
from worker import schema_sync
from worker.databases import Databases
from worker.drivers import open_driver
from worker.schema_sync import SchemaSync, SyncPlan

APP = Target("app", "test")
SESSION = "session-of-this-test"
SECS = 60
"""How long anything may take before the test fails."""


class Line(httpx2.BaseTransport):
    """To the application in-process; notes what was asked, and can be broken or held up."""

    def __init__(self, app: Any) -> None:
        self._app = httpx2.WSGITransport(app=app)
        self.asked: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self.broken_for: list[str] = []
        self.held: dict[str, Event] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        step = request.url.path.rpartition("/")[2]
        if step in self.broken_for:
            self.broken_for.remove(step)
            raise httpx2.ConnectError("away", request=request)
        if step in self.held:
            self.asked.put((f"held {step}", 0))
            self.held[step].wait(SECS)
        response = self._app.handle_request(request)
        self.asked.put((step, response.status_code))
        return response

    def until(self, step: str, status: int = 200) -> list[str]:
        """Wait for this call to be answered so; the calls before it."""
        before: list[str] = []
        while (call := self.asked.get(timeout=SECS)) != (step, status):
            before.append(call[0])
        return before


@dataclass
class Bench:
    rt: Runtime
    line: Line
    api: AgentApi
    databases: Databases
    unauthorized: Event = field(default_factory=Event)
    forgotten: Event = field(default_factory=Event)
    served: set[Target] = field(default_factory=lambda: {APP})
    syncs: list[SchemaSync] = field(default_factory=list)

    def report(self) -> None:
        self.api.report(
            AgentReport(
                instance="test",
                session=SESSION,
                protocol=PROTOCOL,
                version="1",
                databases=self.databases.served(),
                operations=[Operation.EXECUTE_SELECT],
                max_concurrent=1,
                in_flight=0,
                started_at=datetime.now(UTC),
            )
        )

    def sync(self, *, on_start: bool = True, interval_secs: float | None = None) -> SchemaSync:
        made = SchemaSync(
            self.api,
            self.databases,
            SyncPlan(on_start, interval_secs),
            session=SESSION,
            served=lambda: self.databases.up() & self.served,
            on_unauthorized=self.unauthorized.set,
            on_forgotten=self.forgotten.set,
        )
        self.syncs.append(made)
        made.open()
        return made

    def snapshot(self) -> SnapshotRow | None:
        with self.rt.store.read() as conn:
            return schemas.find(conn, APP)

    def tables(self) -> list[str]:
        with self.rt.store.read() as conn:
            found = schemas.find(conn, APP)
            assert found is not None
            assert found.upload_id is not None
            return [row["name"] for row in schemas.summaries(conn, found.upload_id)]


@pytest.fixture
def rt(tmp_path: Path) -> Iterator[Runtime]:
    path = tmp_path / "server.toml"
    path.write_text(
        f"state_dir = {json.dumps(str(tmp_path / 'state'))}\n[result_storage]\nbackend = 'local'\n"
        "[[databases]]\nname = 'app'\nenvironments = ['test']\n"
    )
    settings = load_server(path)
    bootstrap.prepare(settings)
    rt = open_runtime(settings)
    yield rt
    rt.close()


@pytest.fixture
def execute(sqlite_path: Path) -> Callable[[str], None]:
    def script(sql: str) -> None:
        with closing(sqlite3.connect(sqlite_path)) as db:
            db.executescript(sql)

    return script


@pytest.fixture
def bench(rt: Runtime, sqlite_path: Path, execute: Callable[[str], None]) -> Iterator[Bench]:
    execute("CREATE TABLE users (id INTEGER PRIMARY KEY)")
    line = Line(create_app(Current(rt)))
    token = (rt.settings.state_dir / bootstrap.AGENT_TOKEN).read_text()
    api = AgentApi("http://dbward.test", token, transport=line)
    bench: Bench | None = None

    def changed() -> None:
        for sync in bench.syncs if bench is not None else []:
            sync.poke()

    driver = open_driver(f"sqlite://{sqlite_path}")
    databases = Databases({APP: driver}, on_change=changed, first_secs=0.01, last_secs=0.02)
    bench = Bench(rt, line, api, databases)
    databases.start(until=None, stopped=lambda: False)
    bench.report()
    yield bench
    for sync in bench.syncs:
        sync.close()
    databases.close()
    api.close()


def test_at_start(bench):
    bench.sync()
    assert bench.line.until("commit") == ["report", "schemas", "tables"]
    found = bench.snapshot()
    assert found is not None
    assert (found.status, found.table_count, bench.tables()) == (SchemaStatus.READY, 1, ["users"])


def test_after_a_change_and_not_before(bench, execute):
    sync = bench.sync(on_start=False)
    execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    assert bench.snapshot() is None
    sync.changed(APP)
    bench.line.until("commit")
    assert bench.tables() == ["orders", "users"]
    execute("DROP TABLE users")
    sync.changed(APP)
    bench.line.until("commit")
    assert bench.tables() == ["orders"]


def test_a_change_during_a_collection_is_collected_too(bench, execute):
    bench.line.held["commit"] = Event()
    sync = bench.sync()
    bench.line.until("held commit", 0)
    execute("CREATE TABLE late (id INT)")
    sync.changed(APP)
    bench.line.held.pop("commit").set()
    bench.line.until("commit")
    bench.line.until("commit")
    assert bench.tables() == ["late", "users"]


def test_now_and_then(bench, execute):
    bench.sync(interval_secs=0.01)
    for _ in range(3):
        bench.line.until("commit")
    bench.sync(on_start=False, interval_secs=0.01)  # also when nothing is sent at start
    bench.line.until("commit")


def test_only_what_is_served(bench):
    bench.served.clear()
    sync = bench.sync()
    sync.changed(APP)
    assert bench.snapshot() is None
    bench.served.add(APP)
    sync.poke()
    bench.line.until("commit")
    assert bench.tables() == ["users"]


def test_never_without_a_plan(bench):
    sync = SchemaSync(
        bench.api,
        bench.databases,
        None,
        session=SESSION,
        served=lambda: {APP},
        on_unauthorized=bench.unauthorized.set,
        on_forgotten=bench.forgotten.set,
    )
    sync.open()
    sync.changed(APP)
    sync.close()
    assert bench.snapshot() is None


def test_a_failure_is_told_and_what_was_known_is_kept(bench, sqlite_path, monkeypatch):
    monkeypatch.setattr(schema_sync, "FIRST_RETRY_SECS", 0.01)
    sync = bench.sync()
    bench.line.until("commit")
    content = sqlite_path.read_bytes()
    sqlite_path.write_bytes(b"no database at all, but long enough to have a header, and then some more" * 20)
    sync.changed(APP)
    bench.line.until("failed")
    found = bench.snapshot()
    assert found is not None
    assert (found.status, found.error) == (SchemaStatus.FAILED, "file is not a database")
    assert bench.tables() == ["users"]
    sqlite_path.write_bytes(content)
    bench.line.until("commit")  # by itself: a failure is tried again
    again = bench.snapshot()
    assert again is not None
    assert (again.status, again.error) == (SchemaStatus.READY, None)


def test_a_database_that_is_gone_is_marked_down_and_read_once_it_is_back(bench, sqlite_path, monkeypatch):
    monkeypatch.setattr(schema_sync, "FIRST_RETRY_SECS", 0.01)
    sync = bench.sync(on_start=False)
    aside = sqlite_path.rename(sqlite_path.with_suffix(".aside"))
    sync.changed(APP)
    bench.line.until("failed")
    found = bench.snapshot()
    assert found is not None
    assert (found.status, found.upload_id) == (SchemaStatus.FAILED, None)
    aside.rename(sqlite_path)
    bench.line.until("commit")
    assert bench.tables() == ["users"]


def test_what_cannot_be_read_makes_it_partial(bench, execute):
    execute("CREATE VIEW broken AS SELECT * FROM nowhere")
    bench.sync()
    bench.line.until("commit")
    found = bench.snapshot()
    assert found is not None
    assert (found.status, found.unread, bench.tables()) == (SchemaStatus.PARTIAL, ["main.broken"], ["users"])


def test_an_outage_in_the_middle_is_waited_out(bench):
    bench.line.broken_for += ["schemas", "tables", "tables", "commit"]
    bench.sync()
    assert bench.line.until("commit") == ["report", "schemas", "tables"]
    assert bench.tables() == ["users"]


def test_what_is_ended_in_the_middle_changes_nothing(bench, execute):
    sync = bench.sync()
    bench.line.until("commit")
    execute("CREATE TABLE late (id INT)")
    bench.line.broken_for += ["commit"] * 1000
    sync.changed(APP)
    bench.line.until("tables")
    sync.close()
    assert bench.tables() == ["users"]
    bench.line.broken_for.clear()
    bench.sync()
    bench.line.until("commit")
    assert bench.tables() == ["late", "users"]


def test_a_server_that_forgot_the_agent_is_told_first(bench, monkeypatch):
    with bench.rt.store.read() as conn:
        assert conn.exec_driver_sql("SELECT count(*) FROM agents").scalar_one() == 1
    bench.rt.store.write(lambda tx: tx.conn.exec_driver_sql("DELETE FROM agents"))
    bench.sync()
    assert bench.forgotten.wait(SECS)
    bench.report()
    bench.line.until("commit")


def test_a_revoked_token_is_passed_on(bench, rt):
    agent = identity.authenticate(
        rt,
        (rt.settings.state_dir / bootstrap.AGENT_TOKEN).read_text(),
        peer_ip=None,
        client_ip=None,
        source=None,
        finishing=False,
    )
    admin = identity.authenticate(
        rt,
        (rt.settings.state_dir / bootstrap.ADMIN_TOKEN).read_text(),
        peer_ip=None,
        client_ip=None,
        source=None,
        finishing=False,
    )
    api_tokens.revoke_token(rt, admin, str(agent.token_id))
    bench.sync()
    assert bench.unauthorized.wait(SECS)
    assert bench.snapshot() is None


def test_a_server_that_does_not_want_it_is_not_asked_without_end(bench):
    bench.line.held["schemas"] = Event()
    sync = bench.sync()
    bench.line.until("held schemas", 0)
    bench.rt.store.write(
        lambda tx: tx.conn.exec_driver_sql("UPDATE agents SET databases = '[]'")  # it reported something else since
    )
    bench.line.held.pop("schemas").set()
    bench.line.until("schemas", 403)
    assert bench.line.asked.empty()
    sync.close()
