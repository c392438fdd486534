"""A migration whose agent is killed in the middle of a file: what the request says, and how it goes on."""

from __future__ import annotations

import psycopg
import pytest

from dbward.domain.migration import Sent, write_files
from tests.e2e.people import CONFIG, People
from tests.support.processes import Farm

pytestmark = pytest.mark.e2e

TARGET = ("app", "development")


def waiting(url: str) -> int:
    """How many of the database's sessions wait for a lock."""
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def rows(url: str, sql: str) -> list[int]:
    with psycopg.connect(url) as conn:
        return [int(row[0]) for row in conn.execute(sql).fetchall()]


def test_an_agent_killed_in_the_middle_of_a_file(farm: Farm, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY)")
    server = farm.server(config=CONFIG, env=People.tokens_env())
    agent = farm.agent(server, {TARGET: postgres_url})
    people = People(server)
    files = [
        Sent(str(n), "step", str(n) * 64, transactional=True, reversible=False, sql=sql, line=2)
        for n, sql in enumerate(["INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2); INSERT INTO t VALUES (99)"], 1)
    ]
    with psycopg.connect(postgres_url) as other:
        other.execute("INSERT INTO t VALUES (99)")
        asked = people.submit(write_files(files), "development", operation="migrate_up")
        farm.until(lambda: waiting(postgres_url) == 1, "the second file waits for a lock")
        agent.kill()
        assert people.await_end(asked["id"]) == "execution_lost"
        # Its session is still there, so the second run has to wait, which is no failure.
        farm.agent(server, {TARGET: postgres_url})
        people.resume_despite_outage(asked["id"])
        farm.until(lambda: "released" in kinds(people, asked["id"]), "the second run was put off")
        other.rollback()
    assert people.await_end(asked["id"]) == "executed"
    assert rows(postgres_url, "SELECT id FROM t ORDER BY id") == [1, 2, 99]
    assert rows(postgres_url, "SELECT version FROM schema_migrations ORDER BY version") == [1, 2]


def kinds(people: People, request_id: str) -> list[str]:
    """Of what is on the record of its executions."""
    events = people.ask("carol", "GET", f"/api/audit/events?request_id={request_id}&limit=200")["events"]
    return [event["event_type"].removeprefix("execution.") for event in events]
