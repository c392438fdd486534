"""PostgreSQL, which holds the state, is away for longer than a lease: nothing is lost, and nothing runs twice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import psycopg
import pytest

from tests.e2e.people import CONFIG, People
from tests.support import services
from tests.support.processes import Farm, Server, call, status_of
from tests.support.services import Stoppable

pytestmark = pytest.mark.e2e

LEASE_SECS = 3
OUTAGE_SECS = 3 * LEASE_SECS
LEASES = "lease_secs = 5\nstart_grace_secs = 5"
assert LEASES in CONFIG
SHORT_LEASES = CONFIG.replace(LEASES, f"lease_secs = {LEASE_SECS}\nstart_grace_secs = 1")


@pytest.fixture
def state() -> Iterator[Stoppable]:
    with services.stoppable_postgres() as server:
        yield server


@pytest.fixture
def server(farm: Farm, state: Stoppable) -> Server:
    return farm.server(config=SHORT_LEASES, state_url=state.url, env=People.tokens_env())


def runs(url: str) -> dict[str, int]:
    """How often each job was done."""
    with psycopg.connect(url) as db:
        return dict(db.execute("SELECT job, count(*) FROM done GROUP BY job").fetchall())


def events(people: People, request_id: str) -> list[str]:
    found = people.ask("carol", "GET", f"/api/audit/events?request_id={request_id}&limit=200")["events"]
    return [event["event_type"] for event in found]


def test_an_outage_longer_than_a_lease_loses_nothing_and_runs_nothing_twice(
    farm: Farm, state: Stoppable, server: Server, postgres_url: str
) -> None:
    with psycopg.connect(postgres_url) as db:
        db.execute("CREATE TABLE done (job text)")
    people = People(server)
    agent = farm.agent(server, {("app", "production"): postgres_url}, config="max_concurrent_tasks = 1")
    doomed = farm.agent(server, {("app", "development"): postgres_url}, name="doomed")

    def resume(request_id: str) -> Any:
        return people.call("alice", "POST", f"/api/requests/{request_id}/resume", {})

    def submit(key: str) -> Any:
        detail = "INSERT INTO done (job) VALUES ('asked for in the outage')"
        body = {"database": "app", "environment": "production", "detail": detail, "idempotency_key": key}
        return people.call("alice", "POST", "/api/requests", body)

    # One statement that ends in the outage, one that waits for the agent, one that nobody has resumed yet; and one that
    # runs when its agent is killed, in the outage.
    sql = "INSERT INTO done (job) SELECT '{}' FROM pg_sleep({})"
    running, waiting, approved = [
        people.submit_and_approve(sql.format(job, secs))
        for job, secs in (("running", 2), ("waiting", 0), ("approved", 0))
    ]
    assert resume(running).status_code == 200
    orphan = people.submit(sql.format("orphan", 600), "development")["id"]
    for request_id, process in ((orphan, doomed), (running, agent)):
        farm.until(lambda it=request_id: "execution.started" in events(people, it), "the statement runs", process)
    assert resume(waiting).status_code == 200

    with ThreadPoolExecutor(1) as pool:
        watcher = pool.submit(people.call, "carol", "GET", f"/api/requests/{running}?wait=60")
        state.stop()
        began = monotonic()
        assert_away(farm, server)
        assert resume(approved).status_code == 503
        assert submit("a-key").status_code == 503
        doomed.kill()
        farm.until(lambda: runs(postgres_url) == {"running": 1}, "the statement has ended", agent)
        farm.until(lambda: monotonic() - began > OUTAGE_SECS, "the lease would have run out")
        assert_away(farm, server)
        state.start()
        farm.until(lambda: status_of(f"{server.url}/ready") == 200, "it is ready again", server.process)
        assert watcher.result(60).status_code in {200, 503}

    for request_id in (running, waiting):
        assert people.await_end(request_id) == "executed"
    assert people.show(approved)["status"] == "approved"
    assert resume(approved).status_code == 200
    asked = submit("a-key")
    assert (asked.status_code, submit("a-key").json()["id"]) == (201, asked.json()["id"])
    late = asked.json()["id"]
    people.ask("bob", "POST", f"/api/requests/{late}/approve", {})
    assert resume(late).status_code == 200
    for request_id in (approved, late):
        assert people.await_end(request_id) == "executed"

    # What nobody can know the outcome of is left to a person, and to nobody else.
    assert people.await_end(orphan) == "execution_lost"
    again = farm.agent(server, {("app", "development"): postgres_url}, name="again")
    after = people.submit(sql.format("after", 0), "development")["id"]
    assert people.await_end(after) == "executed"

    assert runs(postgres_url) == {"running": 1, "waiting": 1, "approved": 1, "asked for in the outage": 1, "after": 1}
    for request_id in (running, waiting, approved, late, after):
        assert len(people.ask("carol", "GET", f"/api/requests/{request_id}/executions")["executions"]) == 1
        assert "execution.lost" not in events(people, request_id)
        people.assert_record_is_whole(request_id)
    people.assert_record_is_whole(orphan)
    assert people.queue_is_empty()
    for process in (agent, again, server.process):
        assert process.alive
        assert "Traceback" not in process.log()


def assert_away(farm: Farm, server: Server) -> None:
    """Alive, so that nobody kills it, and not ready; whoever calls is told to wait."""
    farm.until(lambda: status_of(f"{server.url}/ready") == 503, "it is not ready any more", server.process)
    assert status_of(f"{server.url}/health") == 200
    status, said = call("GET", f"{server.url}/ready", None)
    assert (status, said["status"], said["checks"]) == (503, "degraded", {"postgresql": "unavailable", "results": "ok"})
    for token in (server.admin_token, f"dbw_{'0' * 32}"):
        status, said = call("GET", f"{server.url}/api/me", token)
        # Not where the database is, nor who signs in there: the log says that.
        assert (status, said["code"], said["error"]) == (
            503,
            "service_unavailable",
            "the state database is not available",
        )
