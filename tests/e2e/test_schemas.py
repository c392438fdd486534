"""Schema snapshots from a real database to a person: at start, and after DDL that was run through dbward."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.e2e.people import CONFIG, People
from tests.support.processes import Farm, Server

DDL = "CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES users (id) ON DELETE CASCADE)"


@pytest.fixture
def server(farm: Farm) -> Server:
    return farm.server(config=CONFIG, env=People.tokens_env())


def tables(people: People) -> dict[str, Any] | None:
    """What alice sees of the development database; None as long as there is nothing."""
    answer = people.call("alice", "GET", "/api/schemas/app?environment=development&summary=false")
    if answer.status_code == 404:
        return None
    assert answer.is_success, answer.text
    return {table["name"]: table for table in answer.json()["tables"]}


def prepare(url: str) -> None:
    create = "CREATE TABLE users (id INTEGER PRIMARY KEY)"
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db:
            db.execute(create)
    else:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(create)


@pytest.mark.e2e
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_ddl_through_dbward_appears_in_the_snapshot(
    farm: Farm, server: Server, engine: str, sqlite_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{sqlite_path}" if engine == "sqlite" else request.getfixturevalue("postgres_url")
    prepare(url)
    people = People(server)
    agent = farm.agent(server, {("app", "development"): url})
    first = farm.until(lambda: tables(people), "the first snapshot is there", agent)
    assert set(first) == {"users"}

    made = people.submit(DDL, "development")
    assert people.await_end(made["id"]) == "executed"
    after = farm.until(
        lambda: found if (found := tables(people)) and "orders" in found else None, "the new table is seen", agent
    )
    (foreign,) = (one for one in after["orders"]["constraints"] if one["constraint_type"] == "foreign_key")
    assert (foreign["referenced_table"], foreign["on_delete"]) == ("users", "CASCADE")

    made = people.submit("INSERT INTO users VALUES (1)", "development")
    assert people.await_end(made["id"]) == "executed"
    events = people.ask("carol", "GET", "/api/audit/events?event_type=schema.snapshot_updated")["events"]
    assert [event["actor_type"] for event in events] == ["agent", "agent"]  # rows are no change of a schema
    assert people.ask("carol", "GET", "/api/audit/verify")["valid"]


@pytest.mark.e2e
def test_an_agent_told_not_to_sends_nothing(farm: Farm, server: Server, sqlite_path: Path) -> None:
    prepare(f"sqlite:///{sqlite_path}")
    people = People(server)
    farm.agent(server, {("app", "development"): f"sqlite:///{sqlite_path}"}, config="schema_sync = { enabled = false }")
    made = people.submit(DDL, "development")
    assert people.await_end(made["id"]) == "executed"
    assert tables(people) is None
