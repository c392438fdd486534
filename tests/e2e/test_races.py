"""Many at once, one winner each: approvers, resumers, cancel against complete, agents on one queue, a flood of jobs."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TypeVar

import httpx2
import pytest

from tests.conftest import State
from tests.e2e.people import CONFIG, CROWD, CROWDED, People
from tests.support.processes import Farm, Server

pytestmark = pytest.mark.e2e

T = TypeVar("T")

RACERS = 8
JOBS = 200


def at_once(calls: list[Callable[[], T]]) -> list[T]:
    """Run all calls from threads that set off together."""
    barrier = Barrier(len(calls))

    def go(call: Callable[[], T]) -> T:
        barrier.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(go, calls))


@pytest.fixture
def target(sqlite_path: Path) -> Path:
    """A database that counts what was done to it."""
    with sqlite3.connect(sqlite_path) as conn:
        conn.execute("CREATE TABLE effects (id INTEGER PRIMARY KEY, job TEXT)")
    conn.close()
    return sqlite_path


def count(target: Path) -> int:
    with sqlite3.connect(target) as conn:
        found: int = conn.execute("SELECT count(*) FROM effects").fetchone()[0]
    conn.close()
    return found


@pytest.fixture
def server(farm: Farm, state: State) -> Server:
    return farm.server(config=CONFIG, state_url=state.url, env=People.tokens_env())


def statuses(answers: list[httpx2.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


def test_one_of_eight_approvals_by_the_same_person_counts(server: Server) -> None:
    people = [People(server) for _ in range(RACERS)]
    request_id = people[0].submit("UPDATE effects SET job = 'x' WHERE id > 0")["id"]

    path = f"/api/requests/{request_id}/approve"
    answers = at_once([lambda p=p: p.call("bob", "POST", path, {}) for p in people])  # type: ignore[misc]

    assert statuses(answers) == {200: 1, 409: RACERS - 1}
    progress = people[0].show(request_id)["approval_progress"]
    assert [a["user"] for a in progress["steps"][0]["approvals"]] == ["bob"]
    assert people[0].show(request_id)["status"] == "approved"


@pytest.mark.parametrize("needed", [1, 3])
def test_of_eight_approvers_as_many_count_as_are_needed(farm: Farm, state: State, needed: int) -> None:
    config = CROWDED.replace("min = 1", f"min = {needed}")
    server = farm.server(config=config, state_url=state.url, env=People.tokens_env())
    people = [People(server) for _ in CROWD]
    request_id = people[0].submit("UPDATE effects SET job = 'x' WHERE id > 0")["id"]

    path = f"/api/requests/{request_id}/approve"
    answers = at_once(
        [lambda p=p, who=who: p.call(who, "POST", path, {}) for p, who in zip(people, CROWD, strict=True)]
    )  # type: ignore[misc]

    late = statuses(answers)
    assert late.pop(200) == needed
    # Whoever comes after the decision, and had no part in it, may not know of the request any more.
    assert set(late) <= {404, 409}
    assert sum(late.values()) == RACERS - needed
    counted = {who for who, answer in zip(CROWD, answers, strict=True) if answer.status_code == 200}
    seen = people[0].show(request_id)
    assert {a["user"] for a in seen["approval_progress"]["steps"][0]["approvals"]} == counted
    assert seen["status"] == "approved"


def test_eight_resumers_dispatch_once(farm: Farm, server: Server, target: Path) -> None:
    farm.agent(server, {("app", "production"): f"sqlite:///{target}"})
    people = [People(server) for _ in range(RACERS)]
    request_id = people[0].submit_and_approve("INSERT INTO effects (job) VALUES ('resumed')")

    path = f"/api/requests/{request_id}/resume"
    answers = at_once([lambda p=p: p.call("alice", "POST", path, {}) for p in people])  # type: ignore[misc]

    assert statuses(answers) == {200: 1, 409: RACERS - 1}
    assert people[0].await_end(request_id) == "executed"
    assert count(target) == 1
    assert len(people[0].ask("carol", "GET", f"/api/requests/{request_id}/executions")["executions"]) == 1
    people[0].assert_record_is_whole(request_id)


def test_approve_against_reject_has_one_winner(server: Server) -> None:
    approver, rejecter = People(server), People(server)
    for _ in range(10):
        request_id = approver.submit("DELETE FROM effects WHERE id = 1")["id"]
        answers = at_once(
            [
                lambda r=request_id: approver.call("bob", "POST", f"/api/requests/{r}/approve", {}),  # type: ignore[misc]
                lambda r=request_id: rejecter.call("bob", "POST", f"/api/requests/{r}/reject", {}),  # type: ignore[misc]
            ]
        )
        assert statuses(answers) == {200: 1, 409: 1}
        won = "approved" if answers[0].status_code == 200 else "rejected"
        assert approver.show(request_id)["status"] == won


def test_cancel_against_complete_leaves_the_truth(farm: Farm, server: Server, target: Path) -> None:
    farm.agent(server, {("app", "development"): f"sqlite:///{target}"})
    people, canceller = People(server), People(server)
    ended: Counter[str] = Counter()
    for job in range(20):
        request_id = people.submit(f"INSERT INTO effects (job) VALUES ('{job}')", "development")["id"]
        answer = canceller.call("alice", "POST", f"/api/requests/{request_id}/cancel", {})
        status = people.await_end(request_id)
        ended[status] += 1
        assert answer.status_code in {200, 409}
        assert status == ("cancelled" if answer.status_code == 200 else "executed")
    farm.until(people.queue_is_empty, "nothing is left in the queue")
    # A cancelled one may have been committed before the cancellation reached it; then its execution says so.
    executions = [
        execution["status"]
        for request in people.ask("alice", "GET", "/api/requests?limit=100")["requests"]
        for execution in people.ask("alice", "GET", f"/api/requests/{request['id']}/executions")["executions"]
    ]
    assert count(target) == executions.count("completed")
    assert ended.total() == 20
    assert people.ask("carol", "GET", "/api/audit/verify")["valid"]


@pytest.mark.slow
def test_two_agents_share_two_hundred_jobs(farm: Farm, server: Server, target: Path) -> None:
    for name in ("first", "second"):
        farm.agent(
            server, {("app", "development"): f"sqlite:///{target}"}, name=name, config="max_concurrent_tasks = 4"
        )
    people = People(server)
    with ThreadPoolExecutor(16) as pool:
        clients = [People(server) for _ in range(16)]

        def submit(job: int) -> str:
            sql = f"INSERT INTO effects (job) VALUES ('{job}')"
            return str(clients[job % 16].submit(sql, "development", idempotency_key=f"job-{job}")["id"])

        ids = list(pool.map(submit, range(JOBS)))
        ends = Counter(pool.map(lambda job: clients[job % 16].await_end(ids[job], 150), range(JOBS)))

    assert ends == {"executed": JOBS}
    assert count(target) == JOBS
    with sqlite3.connect(target) as conn:
        assert conn.execute("SELECT count(DISTINCT job) FROM effects").fetchone() == (JOBS,)
    conn.close()
    assert people.queue_is_empty()
    assert people.ask("carol", "GET", "/api/audit/verify")["valid"]
    agents = people.ask("carol", "GET", "/api/agents")["agents"]
    assert len(agents) == 2


def test_one_idempotency_key_makes_one_request(server: Server) -> None:
    people = [People(server) for _ in range(RACERS)]
    body = {
        "database": "app",
        "environment": "production",
        "detail": "UPDATE effects SET job = 'once' WHERE id > 0",
        "idempotency_key": "the-same",
    }
    answers = at_once([lambda p=p: p.call("alice", "POST", "/api/requests", body) for p in people])  # type: ignore[misc]
    assert statuses(answers) == {201: 1, 200: RACERS - 1}
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = people[0].call("alice", "POST", "/api/requests", {**body, "environment": "development"})
    assert (other.status_code, other.json()["code"]) == (409, "request.conflict")
