"""The agent as a process: how it starts, shows that it lives, survives others, and how it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.e2e.people import CONFIG, People
from tests.support.processes import Farm, Process, Server
from tests.worker.tiny_server import TOKEN, tiny_server

pytestmark = pytest.mark.e2e

LONG = "SELECT pg_sleep(600)"


@pytest.fixture
def server(farm: Farm) -> Server:
    return farm.server(config=CONFIG, env=People.tokens_env())


@pytest.fixture
def people(server: Server) -> People:
    return People(server)


def probe(farm: Farm, name: str) -> Path:
    return farm.dir / "agent-probes" / name


def await_running(farm: Farm, people: People, request_id: str, agent: Process) -> None:
    """Until the execution's token is spent and its statement is on its way."""

    def started() -> bool:
        events = people.ask("carol", "GET", f"/api/audit/events?request_id={request_id}&limit=50")["events"]
        return any(event["event_type"] == "execution.started" for event in events)

    farm.until(started, "the statement runs", agent)


def running_in(url: str, text: str) -> int:
    with psycopg.connect(url) as db:
        row = db.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE state = 'active' AND query LIKE %s AND pid <> pg_backend_pid()",
            (f"%{text}%",),
        ).fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def renamed(path: Path) -> Iterator[None]:
    away = path.rename(path.with_suffix(".away"))
    yield
    away.rename(path)


def test_it_shows_that_it_lives_and_is_ready_and_ends_cleanly(farm: Farm, server: Server, sqlite_path: Path) -> None:
    sqlite_path.touch()
    agent = farm.agent(server, {("app", "development"): f"sqlite:///{sqlite_path}"})
    assert probe(farm, "ready").exists()
    os.utime(probe(farm, "alive"), (0, 0))
    farm.until(lambda: probe(farm, "alive").stat().st_mtime > 0, "the main loop beats", agent)
    assert agent.terminate() == 0
    assert not probe(farm, "ready").exists()
    assert not probe(farm, "alive").exists()
    assert "Traceback" not in agent.log()


def test_a_running_statement_may_finish_when_the_agent_is_stopped(
    farm: Farm, server: Server, people: People, postgres_url: str
) -> None:
    agent = farm.agent(server, {("app", "development"): postgres_url})
    running = people.submit("SELECT pg_sleep(3)::text", "development")["id"]
    await_running(farm, people, running, agent)
    assert agent.terminate() == 0
    assert people.await_end(running) == "executed"


def test_what_is_queued_behind_it_stays_for_another_agent(
    farm: Farm, server: Server, people: People, postgres_url: str
) -> None:
    agent = farm.agent(server, {("app", "development"): postgres_url}, config="max_concurrent_tasks = 1")
    running = people.submit("SELECT pg_sleep(3)::text", "development")["id"]
    await_running(farm, people, running, agent)
    waiting = [people.submit(f"SELECT {n}", "development")["id"] for n in range(3)]
    assert agent.terminate() == 0
    assert people.await_end(running) == "executed"
    assert {people.show(one)["status"] for one in waiting} == {"dispatched"}
    farm.agent(server, {("app", "development"): postgres_url})
    assert [people.await_end(one) for one in waiting] == ["executed"] * 3


def test_at_the_deadline_of_the_drain_statements_are_cancelled_in_the_database(
    farm: Farm, server: Server, people: People, postgres_url: str
) -> None:
    agent = farm.agent(server, {("app", "development"): postgres_url}, config="drain_timeout_secs = 1")
    running = people.submit(LONG, "development")["id"]
    await_running(farm, people, running, agent)
    assert agent.terminate() == 1
    assert people.await_end(running) == "failed"
    assert running_in(postgres_url, LONG) == 0
    assert "Traceback" not in agent.log()


def test_a_second_signal_cancels_at_once(farm: Farm, server: Server, people: People, postgres_url: str) -> None:
    agent = farm.agent(server, {("app", "development"): postgres_url}, config="drain_timeout_secs = 3600")
    running = people.submit(LONG, "development")["id"]
    await_running(farm, people, running, agent)
    agent.signal(signal.SIGTERM)
    farm.until(lambda: not probe(farm, "ready").exists(), "it drains", agent)
    agent.signal(signal.SIGTERM)
    assert agent.wait(60) == 1
    assert people.await_end(running) == "failed"
    assert running_in(postgres_url, LONG) == 0


def test_a_cancelled_request_is_stopped_in_the_database(
    farm: Farm, server: Server, people: People, postgres_url: str
) -> None:
    agent = farm.agent(server, {("app", "development"): postgres_url})
    running = people.submit(LONG, "development")["id"]
    await_running(farm, people, running, agent)
    farm.until(lambda: running_in(postgres_url, LONG) == 1, "it runs in the database", agent)
    people.ask("alice", "POST", f"/api/requests/{running}/cancel", {})
    farm.until(lambda: running_in(postgres_url, LONG) == 0, "it is stopped in the database", agent)
    assert people.show(running)["status"] == "cancelled"
    after = people.submit("SELECT 1", "development")["id"]
    assert people.await_end(after) == "executed"


def test_a_statement_outlives_a_restart_of_the_server(
    farm: Farm, server: Server, people: People, postgres_url: str
) -> None:
    agent = farm.agent(server, {("app", "development"): postgres_url})
    running = people.submit("SELECT pg_sleep(4)::text", "development")["id"]
    await_running(farm, people, running, agent)
    server.process.kill()
    server.start_again()
    assert people.await_end(running) == "executed"
    after = people.submit("SELECT 1", "development")["id"]
    assert people.await_end(after) == "executed"
    assert agent.alive
    assert agent.terminate() == 0


def test_a_database_that_goes_and_comes_back_keeps_its_jobs(
    farm: Farm, server: Server, people: People, postgres_url: str, sqlite_path: Path
) -> None:
    sqlite_path.touch()
    urls = {("app", "development"): f"sqlite:///{sqlite_path}", ("app", "production"): postgres_url}
    agent = farm.agent(server, urls, config="startup_retry_max_ms = 1000")

    def states() -> dict[str, str]:
        [shown] = people.ask("carol", "GET", "/api/agents")["agents"]
        return {db["environment"]: db["status"] for db in shown["databases"]}

    assert states() == {"development": "up", "production": "up"}
    with renamed(sqlite_path):
        waiting = people.submit("SELECT 1", "development")["id"]
        farm.until(lambda: states() == {"development": "down", "production": "up"}, "it is reported down", agent)
        other = people.submit_and_approve("SELECT 2")
        people.ask("alice", "POST", f"/api/requests/{other}/resume", {})
        assert people.await_end(other) == "executed"
        assert people.show(waiting)["status"] == "dispatched"
    assert people.await_end(waiting) == "executed"
    assert states() == {"development": "up", "production": "up"}


def test_a_stop_while_it_waits_for_a_server_is_clean(farm: Farm, sqlite_path: Path, free_port: int) -> None:
    sqlite_path.touch()
    config = "startup_max_wait_secs = 0"
    targets = {("app", "test"): f"sqlite:///{sqlite_path}"}
    agent = farm.agent(f"http://127.0.0.1:{free_port}", targets, token=TOKEN, config=config, ready=False)
    farm.until(lambda: "trying again" in agent.log(), "it waits for the server", agent)
    assert agent.terminate() == 0


def test_a_server_that_never_comes_ends_it(farm: Farm, sqlite_path: Path, free_port: int) -> None:
    sqlite_path.touch()
    config = "startup_max_wait_secs = 1\nstartup_retry_initial_ms = 100"
    targets = {("app", "test"): f"sqlite:///{sqlite_path}"}
    agent = farm.agent(f"http://127.0.0.1:{free_port}", targets, token=TOKEN, config=config, ready=False)
    assert agent.wait(60) == 1
    assert "given up" in agent.log()


def test_a_clock_two_minutes_off_ends_it_and_is_named(farm: Farm, sqlite_path: Path) -> None:
    sqlite_path.touch()
    with tiny_server() as ahead:
        ahead.clock_ahead = timedelta(seconds=120)
        agent = farm.agent(ahead.url, {("app", "test"): f"sqlite:///{sqlite_path}"}, token=TOKEN, ready=False)
        assert agent.wait(60) == 1
    assert "120 s behind" in agent.log() or "119 s behind" in agent.log()
    assert "Traceback" not in agent.log()


@pytest.mark.parametrize(
    "url", ["http://dbward.example.com:3000", "http://8.8.8.8:3000", "http://[2001:4860:4860::8888]:3000"]
)
def test_plain_http_to_a_public_host_is_refused(farm: Farm, sqlite_path: Path, url: str) -> None:
    agent = farm.agent(url, {("app", "test"): f"sqlite:///{sqlite_path}"}, token=TOKEN, ready=False)
    assert agent.wait(60) == 1
    assert "plain http" in agent.log()
    assert TOKEN not in agent.log()


def test_it_can_be_stopped_while_the_server_is_away(farm: Farm, server: Server, sqlite_path: Path) -> None:
    sqlite_path.touch()
    agent = farm.agent(server, {("app", "development"): f"sqlite:///{sqlite_path}"})
    server.process.kill()
    farm.until(lambda: "cannot be reached" in agent.log(), "it notices", agent)
    assert agent.alive
    assert agent.terminate() == 0
    assert "Traceback" not in agent.log()


def test_a_server_that_is_away_when_a_database_comes_back_loses_nothing(
    farm: Farm, server: Server, people: People, postgres_url: str, sqlite_path: Path
) -> None:
    """The queue of a database that is up again is consumed as soon as the server can be told."""
    sqlite_path.touch()
    urls = {("app", "development"): f"sqlite:///{sqlite_path}", ("app", "production"): postgres_url}
    agent = farm.agent(server, urls, config="startup_retry_max_ms = 1000")
    with renamed(sqlite_path):
        waiting = people.submit("SELECT 1", "development")["id"]
        farm.until(lambda: "development is down" in agent.log(), "it is down", agent)
        server.process.kill()
    farm.until(lambda: "cannot be consumed yet" in agent.log(), "the server cannot be told", agent)
    server.start_again()
    assert people.await_end(waiting) == "executed"


def test_the_log_holds_no_sql_no_url_and_no_secret(
    farm: Farm, server: Server, people: People, postgres_url: str
) -> None:
    agent = farm.agent(server, {("app", "development"): postgres_url}, env={"DBWARD_LOG_LEVEL": "debug"})
    done = people.submit("SELECT 'needle' AS hay", "development")["id"]
    wrong = people.submit("SELECT needle FROM haystack", "development")["id"]
    assert (people.await_end(done), people.await_end(wrong)) == ("executed", "failed")
    assert agent.terminate() == 0
    log = agent.log()
    assert done in log
    for secret in ("needle", "haystack", server.agent_token, postgres_url, server.url + "/"):
        assert secret not in log
