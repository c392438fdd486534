"""One execution after another against real databases, with a server that fails at the step of our choice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dbward.client.agent_api import AgentApi
from dbward.domain.model import Operation, Target
from tests.worker.tiny_server import LOSE_ANSWER, NODE, TinyServer
from worker.databases import Databases
from worker.drivers import open_driver
from worker.intake import Intake, PutBack
from worker.job import Rules
from worker.jobs import Jobs
from worker.keys import ServerKey
from worker.lease import Stop
from worker.run import Runner

TARGET = Target("app", "test")
DML = Operation.EXECUTE_DML


@dataclass
class Bench:
    """A runner on one database, and everything a test may turn."""

    server: TinyServer
    runner: Runner
    jobs: Jobs
    databases: Databases
    closing: threading.Event
    quiet: threading.Event
    abandon: threading.Event
    unauthorized: threading.Event
    forgotten: threading.Event
    changed: list[Target]

    def run(self, execution_id: str) -> dict[str, Any]:
        self.runner.execute(f"request-{execution_id}", execution_id, "tag-1")
        return self.server.outcomes[execution_id]


def bench(server: TinyServer, api: AgentApi, url: str) -> Iterator[Bench]:
    databases = Databases({TARGET: open_driver(url)}, on_change=lambda: None, first_secs=0.05, last_secs=0.2)
    databases.start(until=None, stopped=lambda: False)
    jobs = Jobs(lambda: None)
    closing, quiet, abandon, unauthorized, forgotten = (threading.Event() for _ in range(5))
    changed: list[Target] = []
    intake = Intake(
        ServerKey(api, server.key.public_key()),
        jobs=jobs,
        session="session-1",
        closing=closing,
        quiet=quiet,
        on_unauthorized=unauthorized.set,
        on_forgotten=forgotten.set,
    )
    rules = Rules(NODE, {TARGET}, {Operation.EXECUTE_SELECT, DML}, timedelta(seconds=60))
    runner = Runner(api, databases, intake, rules, abandon=abandon, on_changed=changed.append)
    yield Bench(server, runner, jobs, databases, closing, quiet, abandon, unauthorized, forgotten, changed)
    abandon.set()
    databases.close()


@pytest.fixture
def lite(server: TinyServer, api: AgentApi, sqlite_path: Path) -> Iterator[Bench]:
    with sqlite3.connect(sqlite_path) as db:
        db.executescript(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO t VALUES (1, 'one'), (2, 'two');"
        )
    db.close()
    yield from bench(server, api, f"sqlite:///{sqlite_path}")


@pytest.fixture
def pg(server: TinyServer, api: AgentApi, postgres_url: str) -> Iterator[Bench]:
    yield from bench(server, api, postgres_url)


def names(path: Path) -> list[str]:
    db = sqlite3.connect(path)
    try:
        return [name for (name,) in db.execute("SELECT name FROM t ORDER BY id")]
    finally:
        db.close()


def test_a_read_is_run_uploaded_and_reported(lite: Bench) -> None:
    lite.server.add_job("e1", "SELECT id, name FROM t ORDER BY id")
    outcome = lite.run("e1")
    assert outcome["outcome"] == "completed"
    assert outcome["row_count"] == 2
    assert outcome["tag"] == "tag-1"
    stream = bytes(lite.server.stream["e1"])
    assert outcome["result_sha256"] == hashlib.sha256(stream).hexdigest()
    assert [json.loads(line) for line in stream.splitlines()[1:]] == [[1, "one"], [2, "two"]]
    assert len(lite.jobs) == 0


def test_a_change_is_committed_once_and_has_no_result(lite: Bench, sqlite_path: Path) -> None:
    lite.server.add_job("e1", "UPDATE t SET name = name || '!'", operation=DML)
    outcome = lite.run("e1")
    assert (outcome["outcome"], outcome["rows_affected"], outcome["result_size"]) == ("completed", 2, None)
    assert names(sqlite_path) == ["one!", "two!"]


@pytest.mark.parametrize(
    ("statements", "changed"),
    [
        (["INSERT INTO t VALUES (3, 'x')", "update t set name = 'y'", "DELETE FROM t"], False),
        (["DELETE FROM t", "CREATE TABLE more (id INT)"], True),
        (["alter table t add column more int"], True),
        (["DROP TABLE t", "SELECT nonsense"], True),  # it failed, but on some databases the first half stays
        (["WITH a AS (SELECT 1) SELECT * FROM a"], True),  # on the write path there is a reason for it
    ],
)
def test_what_may_have_changed_the_schema_is_told(lite: Bench, statements: list[str], changed: bool) -> None:
    lite.server.add_job("e1", *statements, operation=DML)
    lite.run("e1")
    assert lite.changed == ([TARGET] if changed else [])


def test_a_read_never_changes_the_schema(lite: Bench) -> None:
    lite.server.add_job("e1", "SELECT 1")
    lite.run("e1")
    assert lite.changed == []


def test_a_failed_statement_reports_the_databases_words(lite: Bench) -> None:
    lite.server.add_job("e1", "SELECT nonsense FROM t")
    outcome = lite.run("e1")
    assert outcome["outcome"] == "failed"
    assert "nonsense" in outcome["error"]["message"]


@pytest.mark.parametrize("verb", ["claim", "start", "parts", "complete"])
@pytest.mark.parametrize("fault", [LOSE_ANSWER, 503])
def test_no_step_is_lost_or_doubled_by_an_outage(lite: Bench, sqlite_path: Path, verb: str, fault: int) -> None:
    lite.server.add_job("e1", "UPDATE t SET name = name || '!' RETURNING id", operation=DML)
    lite.server.fail[verb] = [fault, fault]
    outcome = lite.run("e1")
    assert outcome["outcome"] == "completed"
    assert outcome["row_count"] == 2
    assert names(sqlite_path) == ["one!", "two!"]
    assert lite.server.calls[verb] == 3


@pytest.mark.parametrize("status", [404, 409])
def test_an_outdated_message_is_dropped(lite: Bench, status: int) -> None:
    lite.server.add_job("e1", "SELECT 1")
    lite.server.fail["claim"] = [status]
    lite.runner.execute("r", "e1", "tag-1")
    assert not lite.server.outcomes
    assert not lite.server.started


def test_a_refused_claim_puts_the_message_back(lite: Bench) -> None:
    lite.server.add_job("e1", "SELECT 1")
    lite.server.fail["claim"] = [403]
    with pytest.raises(PutBack):
        lite.runner.execute("r", "e1", "tag-1")
    assert len(lite.jobs) == 0


def test_a_server_that_has_forgotten_the_agent_is_told_again(lite: Bench) -> None:
    lite.server.add_job("e1", "SELECT 1")
    answer = lite.server.answer

    def forget(verb: str, *rest: Any) -> tuple[int, dict[str, Any]]:
        if verb == "claim" and not lite.forgotten.is_set():
            return 503, {"error": "report first", "code": "agent.unknown"}
        return answer(verb, *rest)

    lite.server.answer = forget  # type: ignore[method-assign]
    assert lite.run("e1")["outcome"] == "completed"
    assert lite.forgotten.is_set()


def test_a_new_name_is_what_tokens_are_bound_to(lite: Bench) -> None:
    lite.server.add_job("e1", "SELECT 1")
    lite.runner.rename("agent-1@test-2")
    assert lite.run("e1")["error"]["code"] == "token.mismatch"
    lite.runner.rename(NODE)
    lite.server.add_job("e2", "SELECT 1")
    assert lite.run("e2")["outcome"] == "completed"


@pytest.mark.parametrize("verb", ["claim", "start"])
def test_a_revoked_token_is_noticed_and_nothing_runs(lite: Bench, sqlite_path: Path, verb: str) -> None:
    lite.server.add_job("e1", "DELETE FROM t", operation=DML)
    lite.server.fail[verb] = [401]
    with pytest.raises(PutBack):
        lite.runner.execute("r", "e1", "tag-1")
    assert lite.unauthorized.is_set()
    assert names(sqlite_path) == ["one", "two"]


def test_a_start_that_is_refused_runs_nothing(lite: Bench, sqlite_path: Path) -> None:
    lite.server.add_job("e1", "DELETE FROM t", operation=DML)
    lite.server.fail["start"] = [409]
    lite.runner.execute("r", "e1", "tag-1")
    assert not lite.server.outcomes
    assert names(sqlite_path) == ["one", "two"]


def test_a_tampered_job_is_refused_before_the_database_is_opened(lite: Bench, sqlite_path: Path) -> None:
    lite.server.add_job("e1", "SELECT 1", operation=DML, statements=["DELETE FROM t"])
    sqlite_path.unlink()
    outcome = lite.run("e1")
    assert outcome["outcome"] == "refused"
    assert outcome["error"]["code"] == "token.mismatch"
    assert not lite.server.started
    assert not lite.server.released


def test_a_used_token_is_refused(lite: Bench, sqlite_path: Path) -> None:
    lite.server.add_job("e1", "INSERT INTO t (name) VALUES ('three')", operation=DML)
    assert lite.run("e1")["outcome"] == "completed"
    outcome = lite.run("e1")
    assert (outcome["outcome"], outcome["error"]["code"]) == ("refused", "token.replayed")
    assert names(sqlite_path) == ["one", "two", "three"]


def test_a_rotated_key_is_fetched_again(lite: Bench) -> None:
    lite.server.key = lite.server.published_key = Ed25519PrivateKey.generate()
    lite.server.add_job("e1", "SELECT 1")
    assert lite.run("e1")["outcome"] == "completed"
    assert lite.server.calls["public-key"] == 1


def test_a_foreign_signature_is_refused_after_one_look(lite: Bench) -> None:
    lite.server.key = Ed25519PrivateKey.generate()
    lite.server.add_job("e1", "SELECT 1")
    outcome = lite.run("e1")
    assert (outcome["outcome"], outcome["error"]["code"]) == ("refused", "token.bad_signature")
    assert lite.server.calls["public-key"] == 1


def test_a_database_that_is_down_gives_the_job_back(lite: Bench, sqlite_path: Path) -> None:
    away = sqlite_path.rename(sqlite_path.with_name("away.db"))
    lite.server.add_job("e1", "SELECT 1")
    lite.runner.execute("r", "e1", "tag-1")
    assert lite.server.released["e1"]["delay_secs"] > 0
    assert not lite.server.started
    assert not lite.databases.up()
    away.rename(sqlite_path)
    up = threading.Event()
    lite.databases._on_change = up.set
    assert lite.databases.up() or up.wait(20)


def test_a_cancelled_statement_is_stopped_in_the_database(pg: Bench, postgres_url: str) -> None:
    pg.server.add_job("e1", "SELECT pg_sleep(600)")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(pg.run, "e1")
        pg.server.until(lambda: pg.server.started)
        pg.server.say(pg.server.cancelled)
        outcome = running.result(30)
    assert (outcome["outcome"], outcome["error"]["code"]) == ("cancelled", "statement.cancelled")
    with psycopg.connect(postgres_url) as db:
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND pid <> pg_backend_pid()"
        assert db.execute(sleeping).fetchone() == (0,)


def test_a_lost_lease_stops_the_statement(pg: Bench) -> None:
    pg.server.add_job("e1", "SELECT pg_sleep(600)")
    pg.server.say(pg.server.lost)
    outcome = pg.run("e1")
    assert (outcome["outcome"], outcome["error"]["code"]) == ("failed", "execution.lease_lost")


def test_a_drain_stops_the_statement_and_rolls_back(pg: Bench, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as db:
        db.execute("CREATE TABLE t (id int)")
    pg.server.add_job("e1", "INSERT INTO t VALUES (1)", "SELECT pg_sleep(600)", operation=DML)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(pg.run, "e1")
        pg.server.until(lambda: pg.server.started)
        pg.jobs.stop_all(Stop.DRAINED)
        outcome = running.result(30)
    assert (outcome["outcome"], outcome["error"]["code"]) == ("failed", "agent.stopped")
    with psycopg.connect(postgres_url) as db:
        assert db.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_an_outage_while_a_statement_runs_does_not_disturb_it(pg: Bench) -> None:
    pg.server.add_job("e1", "SELECT pg_sleep(2.5)::text, 7")
    pg.server.fail["renew"] = [503, LOSE_ANSWER, 503]
    assert pg.run("e1")["outcome"] == "completed"
    assert pg.server.calls["renew"] >= 2


def test_a_short_lease_is_renewed_well_before_it_ends(pg: Bench) -> None:
    pg.server.lease_secs = 3
    pg.server.add_job("e1", "SELECT pg_sleep(4)::text")
    assert pg.run("e1")["outcome"] == "completed"
    assert pg.server.longest_wait <= 1
    assert pg.server.calls["renew"] >= 2


def test_an_agent_that_stops_gives_messages_back(lite: Bench) -> None:
    lite.closing.set()
    lite.quiet.set()
    with pytest.raises(PutBack):
        lite.runner.execute("r", "e1", "tag-1")
    assert lite.server.calls["claim"] == 0


def test_a_report_that_cannot_be_delivered_ends_with_the_agent(lite: Bench) -> None:
    lite.server.add_job("e1", "SELECT 1")
    lite.server.fail["complete"] = [503] * 1000
    with ThreadPoolExecutor() as pool:
        running = pool.submit(lite.runner.execute, "r", "e1", "tag-1")
        lite.server.until(lambda: lite.server.calls["complete"] >= 2)
        lite.abandon.set()
        running.result(30)
    assert not lite.server.outcomes


def test_the_lost_end_of_a_result_is_sent_again(lite: Bench) -> None:
    lite.server.add_job("e1", "SELECT name FROM t")
    lite.server.fail["complete"] = [503]
    whole = threading.Event()

    def lose_the_end() -> None:
        lite.server.until(lambda: lite.server.calls["complete"] == 1)
        del lite.server.stream["e1"][-3:]
        whole.set()

    thief = threading.Thread(target=lose_the_end)
    thief.start()
    outcome = lite.run("e1")
    thief.join(10)
    assert whole.is_set()
    assert outcome["outcome"] == "completed"
    assert hashlib.sha256(lite.server.stream["e1"]).hexdigest() == outcome["result_sha256"]


@pytest.mark.parametrize(
    ("operation", "statement", "expected"),
    [(Operation.EXECUTE_SELECT, "SELECT name FROM t", "failed"), (DML, "DELETE FROM t RETURNING id", "completed")],
)
def test_a_result_the_server_lost_for_good(lite: Bench, operation: Operation, statement: str, expected: str) -> None:
    """A read is worth nothing without its rows; a change has happened all the same."""
    lite.server.add_job("e1", statement, operation=operation)
    lite.server.fail["complete"] = [409]
    answer = lite.server.answer

    def lose(verb: str, execution_id: str, query: dict[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
        if verb == "complete" and json.loads(body)["result_size"] is not None:
            return 409, {"error": "lost", "code": "result.incomplete", "detail": {"size": 10_000_000}}
        return answer(verb, execution_id, query, body)

    lite.server.fail["complete"] = []
    lite.server.answer = lose  # type: ignore[method-assign]
    outcome = lite.run("e1")
    assert outcome["outcome"] == expected
    assert outcome["truncated"] == (expected == "completed")


def test_a_result_over_the_servers_limit_fails_the_read(lite: Bench) -> None:
    lite.server.max_result = 5
    lite.server.add_job("e1", "SELECT name FROM t")
    outcome = lite.run("e1")
    assert (outcome["outcome"], outcome["error"]["code"]) == ("failed", "payload.too_large")


def test_a_refused_upload_in_the_middle_rolls_a_change_back(lite: Bench, sqlite_path: Path) -> None:
    lite.server.max_result = 500_000
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)"
    insert = f"INSERT INTO t (name) {numbers} SELECT printf('%.1000c', 'x') FROM n WHERE true RETURNING id, name"
    lite.server.add_job("e1", insert, operation=DML)
    outcome = lite.run("e1")
    assert outcome["outcome"] == "failed"
    assert names(sqlite_path) == ["one", "two"]


def test_a_big_result_does_not_stay_in_memory(lite: Bench) -> None:
    import tracemalloc

    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)"
    lite.server.add_job("e1", f"{numbers} SELECT i, printf('%.500c', 'x') FROM n")
    lite.server.stream["e1"] = Forgetful()
    tracemalloc.start()
    try:
        outcome = lite.run("e1")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert outcome["row_count"] == 40_000
    assert peak < 10 * 1024 * 1024  # of 20


class Forgetful(bytearray):
    """Counts what it is given, and keeps none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def __setitem__(self, at: Any, data: Any) -> None:
        self.size = at.start + len(data)
