"""Plans from a real database, through an agent, to the person who asks what a statement would do."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.e2e.people import CONFIG, People
from tests.support.processes import Farm, Server
from tests.worker.targets import TargetDb, empty, postgresql

pytestmark = pytest.mark.e2e

TABLE = "CREATE TABLE orders (id integer PRIMARY KEY, state varchar(10))"


@pytest.fixture
def server(farm: Farm) -> Server:
    return farm.server(config=CONFIG, env=People.tokens_env())


@pytest.fixture
def people(server: Server) -> People:
    return People(server)


def prepare(engine: str, request: pytest.FixtureRequest, path: Path) -> TargetDb:
    """A database with a table of three rows."""
    db = empty(engine, request, path)
    db.direct(TABLE, "INSERT INTO orders VALUES (1, 'open'), (2, 'open'), (3, 'shut')")
    return db


def preflight(people: People, sql: str, **more: Any) -> dict[str, Any]:
    body = {"database": "app", "environment": "development", "sql": sql, **more}
    answer = people.ask("alice", "POST", "/api/preflight", body)
    impact: dict[str, Any] = answer["impact"]
    return impact


@pytest.mark.parametrize("engine", ["sqlite", "postgresql", "mariadb"])
def test_a_preflight_shows_the_plan(
    farm: Farm, server: Server, people: People, engine: str, sqlite_path: Path, request: pytest.FixtureRequest
) -> None:
    db = prepare(engine, request, sqlite_path)
    url = f"sqlite:///{sqlite_path}" if engine == "sqlite" else db.url
    farm.agent(server, {("app", "development"): url})
    read = preflight(people, "SELECT * FROM orders WHERE state = 'open'")
    assert read["status"] == "completed", read
    assert "orders" in read["plan_text"]
    [entry] = read["explain_plan"]
    assert entry["sql"] == "SELECT * FROM orders WHERE state = 'open'"
    assert [scan["table"].rpartition(".")[2] for scan in entry["plan"]["sequential_scans"]] == ["orders"]

    change = preflight(people, "DELETE FROM orders WHERE id = 2")
    assert change["status"] == "completed", change
    assert db.direct("SELECT count(*) FROM orders") == [(3,)]
    assert people.queue_is_empty()


def test_what_cannot_be_explained_is_said(farm: Farm, server: Server, people: People, postgres_url: str) -> None:
    farm.agent(server, {("app", "development"): postgres_url})
    unknown = preflight(people, "SELECT * FROM nowhere")
    assert unknown["status"] == "error"
    assert 'relation "nowhere" does not exist' in unknown["plan_text"]
    mixed = preflight(people, "CREATE TABLE t (a int); INSERT INTO t SELECT mark(); SELECT 1")
    assert mixed["status"] == "completed"
    assert [("plan" in entry, entry.get("error")) for entry in mixed["explain_plan"]] == [
        (False, "cannot be explained: CREATE has no plan"),
        (False, "cannot be explained: planning it may run something (unvouched_function:mark)"),
        (True, None),
    ]
    assert mixed["plan_text"].startswith("[1]\ncannot be explained: CREATE has no plan\n[2]\n")


def test_an_approver_sees_the_plan(farm: Farm, server: Server, people: People, postgres_url: str) -> None:
    db = postgresql(postgres_url)
    db.direct(TABLE)
    agent = farm.agent(server, {("app", "production"): postgres_url})
    made = people.submit("DELETE FROM orders WHERE state = 'open'")["id"]

    def context() -> dict[str, Any]:
        shown: dict[str, Any] = people.ask("bob", "GET", f"/api/requests/{made}")["context"]
        return shown if shown["status"] != "collecting" else {}

    shown = farm.until(context, "the plan is there", agent)
    assert shown["status"] == "ready"
    [entry] = shown["explain"]
    assert entry["text"].startswith("Delete on public.orders (cost ")
    assert "Read from end to end: public.orders" in entry["text"]


def test_without_an_agent_nobody_waits(people: People) -> None:
    impact = preflight(people, "SELECT 1")
    assert impact["status"] == "not_available"


def test_an_agent_that_dies_while_it_explains_lets_nobody_wait_for_ever(
    farm: Farm, server: Server, people: People, postgres_url: str
) -> None:
    agent = farm.agent(server, {("app", "development"): postgres_url})
    found: list[dict[str, Any]] = []

    def ask() -> None:
        found.append(preflight(people, "SELECT * FROM orders", explain_timeout_ms=3000))

    with psycopg.connect(postgres_url) as db, psycopg.connect(postgres_url, autocommit=True) as watch:
        db.execute(TABLE)
        db.commit()
        db.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        caller = threading.Thread(target=ask)
        caller.start()
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'EXPLAIN%'"
        farm.until(lambda: watch.execute(waiting).fetchone(), "the database holds the explain up", agent)
        agent.kill()
        caller.join(timeout=60)
    assert [impact["status"] for impact in found] == ["timeout"]
    farm.until(people.queue_is_empty, "nothing is left in the queue")
