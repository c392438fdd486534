"""Three servers behind nginx and two agents, while one of them is killed all the time: every request runs once."""

from __future__ import annotations

import queue
import secrets
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from time import monotonic, sleep

import psycopg
import pytest

from dbward.client.http import ApiClient
from dbward.client.submit import submit
from dbward.errors import Unavailable
from tests.support import balancer, replicas, services
from tests.support.processes import Farm, Process, Server

pytestmark = pytest.mark.e2e

REQUESTS = 1_000
CLIENTS = 32
END_SECS = 90
TOKENS = {name: f"dbw_{secrets.token_hex(16)}" for name in ("alice", "olga")}
CONFIG = f"""
trusted_proxies = ["127.0.0.1"]
{replicas.STATE}
[broker]
lease_secs = 5
start_grace_secs = 5
[limits]
writes_per_minute = 0
[[databases]]
name = "app"
environments = ["development"]
[[auth.users]]
id = "alice"
roles = ["requester"]
token = "${{TOKEN_ALICE}}"
[[auth.users]]
id = "olga"
roles = ["operator", "requester"]
token = "${{TOKEN_OLGA}}"
[[workflows]]
environment = "development"
[workflows.auto_approve]
mode = "always"
"""
ENDED = {"executed", "failed", "cancelled", "expired", "rejected", "execution_lost"}


@pytest.fixture
def target() -> Iterator[str]:
    """A database with a row for each time a statement has run."""
    with services.fresh_postgres() as url:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("CREATE TABLE effects (marker text)")
        yield url


def effects(target: str) -> Counter[str]:
    with psycopg.connect(target) as conn:
        return Counter(marker for (marker,) in conn.execute("SELECT marker FROM effects"))


@dataclass(slots=True)
class Crowd:
    """People at their command lines: each submits under a key of its own, and waits for the end."""

    url: str
    work: queue.SimpleQueue[int | None] = field(default_factory=queue.SimpleQueue)
    ended: dict[int, tuple[str, str]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def run(self) -> None:
        with closing(ApiClient(self.url, TOKENS["alice"])) as client:
            while (number := self.work.get()) is not None:
                marker = marker_of(number)
                sql = f"INSERT INTO effects (marker) VALUES ('{marker}')"
                body = {"database": "app", "environment": "development", "detail": sql, "idempotency_key": marker}
                request_id: str = submit(client, body)["id"]
                status = self.await_end(client, request_id)
                with self.lock:
                    self.ended[number] = (request_id, status)

    def await_end(self, client: ApiClient, request_id: str) -> str:
        until = monotonic() + END_SECS
        while monotonic() < until:
            try:
                status: str = client.get(f"/api/requests/{request_id}", {"wait": 10})["status"]
            except Unavailable:
                sleep(0.1)
                continue
            if status in ENDED:
                return status
        raise AssertionError(f"{request_id} does not end")

    def statuses(self) -> Counter[str]:
        return Counter(status for _, status in self.ended.values())


def marker_of(number: int) -> str:
    return f"m-{number}"


@pytest.mark.timeout(420)  # for a machine with much else to do
def test_a_thousand_requests_run_once_each(farm: Farm, postgres_url: str, target: str) -> None:
    env = {f"TOKEN_{who.upper()}": token for who, token in TOKENS.items()}
    servers = replicas.start(farm, postgres_url, CONFIG, env)
    url, nginx = balancer.balance(farm, servers)

    def agent(name: str) -> Process:
        config, token = "max_concurrent_tasks = 8", servers[0].agent_token
        return farm.agent(url, {("app", "development"): target}, token=token, name=name, config=config)

    agents = [agent("agent-1"), agent("agent-2")]
    crowd = Crowd(url)

    def kill(server: Server) -> None:
        server.process.kill()
        server.start_again()

    def restart(server: Server) -> None:
        assert server.process.terminate() == 0
        server.start_again()

    def kill_agent() -> None:
        agents[1].kill()
        agents[1] = agent("agent-2")

    a, b, c = servers
    strikes = [partial(kill, a), partial(kill, b), kill_agent, partial(restart, c), partial(kill, a)]
    share = REQUESTS // len(strikes)
    with ThreadPoolExecutor(CLIENTS) as pool:
        people = [pool.submit(crowd.run) for _ in range(CLIENTS)]
        for n, strike in enumerate(strikes):
            for number in range(n * share, (n + 1) * share):
                crowd.work.put(number)
            at_work = n * share + share // 4
            farm.until(
                lambda at_work=at_work: len(crowd.ended) >= at_work or any(person.done() for person in people),
                f"{at_work} requests have ended",
                secs=END_SECS,
            )
            strike()
        for _ in people:
            crowd.work.put(None)
        for person in people:
            person.result(END_SECS)

    assert len(crowd.ended) == REQUESTS
    assert set(crowd.statuses()) <= {"executed", "execution_lost"}, crowd.statuses()
    resume_what_did_not_happen(crowd, target)
    assert effects(target) == {marker_of(n): 1 for n in range(REQUESTS)}
    with psycopg.connect(postgres_url) as conn:
        assert conn.execute("SELECT count(*) FROM requests").fetchone() == (REQUESTS,)
    with closing(ApiClient(url, TOKENS["olga"])) as olga:
        verdict = olga.get("/api/audit/verify", answer_secs=END_SECS)
        assert verdict["valid"], verdict
        assert all(not queue["ready"] and not queue["dead"] for queue in olga.get("/api/agents")["queues"])
    assert "prematurely closed" in nginx.log(), "calls were cut while servers worked on them"


def resume_what_did_not_happen(crowd: Crowd, target: str) -> None:
    """What a person does about an execution that was lost with its agent: look whether the change is there."""
    done = effects(target)
    with closing(ApiClient(crowd.url, TOKENS["alice"])) as alice:
        for number, (request_id, status) in crowd.ended.items():
            if status == "execution_lost" and not done[marker_of(number)]:
                alice.post(f"/api/requests/{request_id}/resume")
                assert crowd.await_end(alice, request_id) == "executed"
