"""Questions for plans in the agent: which it takes, what it answers, and when it gives the message back."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dbward.client.agent_api import AgentApi
from dbward.client.wire import ExplainClaimed
from dbward.domain import tokens
from dbward.domain.model import Operation, Target
from worker.databases import Databases
from worker.drivers import open_driver
from worker.explain import Explainer, Question, question
from worker.intake import Intake, PutBack
from worker.job import Rejected, Rules
from worker.jobs import Jobs
from worker.keys import ServerKey
from worker.lease import Stop

NODE = "agent@host"
TARGET = Target("app", "test")
KEY = Ed25519PrivateKey.generate()
RULES = Rules(NODE, {TARGET}, {Operation.EXECUTE_SELECT}, timedelta(seconds=60))

MIGRATION_RULES = replace(RULES, operations={Operation.EXECUTE_SELECT, Operation.MIGRATE_STATUS})


def claimed(
    *texts: str,
    key: Ed25519PrivateKey = KEY,
    purpose: tokens.Purpose = tokens.Purpose.EXPLAIN,
    sign: dict[str, Any] | None = None,
    lifetime: float = 30,
    **changes: Any,
) -> ExplainClaimed:
    """A question whose token binds `sign`, with `changes` made to the answer afterwards."""
    now = datetime.now(UTC)
    statements = list(texts) or ["SELECT 1"]
    bound: dict[str, Any] = {
        "claim_id": "c1",
        "request_id": "x1",
        "execution_id": "x1",
        "agent": NODE,
        "operation": Operation.EXECUTE_SELECT,
        "database": "app",
        "environment": "test",
        "statements_sha256": tokens.statements_sha256(statements),
        "statement_timeout_ms": 5000,
        "max_rows": 0,
        "max_bytes": 0,
        "issued_at": now,
        "expires_at": now + timedelta(seconds=lifetime),
    } | (sign or {})
    answer = {
        "explain_id": "x1",
        "claim_id": "c1",
        "token": tokens.issue(key, tokens.ExecutionToken(**bound), purpose),
        "database": "app",
        "environment": "test",
        "statements": statements,
        "timeout_ms": 5000,
        "expires_at": now + timedelta(seconds=lifetime),
        "server_time": now,
    }
    return ExplainClaimed.model_validate(answer | changes)


def what_is_migrated(**changes: Any) -> ExplainClaimed:
    """The other kind of question, without a statement."""
    asked: dict[str, Any] = {
        "purpose": tokens.Purpose.MIGRATIONS,
        "sign": {"operation": Operation.MIGRATE_STATUS, "statements_sha256": tokens.statements_sha256([])},
        "statements": [],
        "kind": "migrations",
    }
    return claimed(**asked | changes)


def check(job: ExplainClaimed, *, rules: Rules = RULES, asked_for: str = "x1") -> Question | Rejected:
    return question(job, KEY.public_key(), rules, asked_for=asked_for, now=datetime.now(UTC))


def test_a_genuine_question_is_taken() -> None:
    found = check(claimed("SELECT 1", "SELECT 2"))
    assert isinstance(found, Question)
    assert (found.target, found.statements, found.timeout) == (TARGET, ("SELECT 1", "SELECT 2"), timedelta(seconds=5))


def test_the_agents_own_time_limit_holds() -> None:
    rules = Rules(NODE, {TARGET}, {Operation.EXECUTE_SELECT}, timedelta(seconds=1))
    found = check(claimed(), rules=rules)
    assert isinstance(found, Question)
    assert found.timeout == timedelta(seconds=1)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"statements": ["DELETE FROM t"]}, "token.mismatch"),
        ({"statements": ["SELECT 1", "SELECT 1"]}, "token.mismatch"),
        ({"database": "other"}, "token.mismatch"),
        ({"timeout_ms": 600_000}, "token.mismatch"),
        ({"claim_id": "c2"}, "token.mismatch"),
        ({"sign": {"agent": "other@host"}}, "token.mismatch"),
        ({"sign": {"operation": Operation.EXECUTE_DML}}, "token.mismatch"),
        ({"purpose": tokens.Purpose.RUN}, "token.bad_signature"),
        ({"key": Ed25519PrivateKey.generate()}, "token.bad_signature"),
        ({"lifetime": -1}, "token.expired"),
        ({"sign": {"environment": "prod"}, "environment": "prod"}, "agent.unknown_database"),
    ],
)
def test_what_is_not_genuine_is_refused(changes: dict[str, Any], code: str) -> None:
    found = check(claimed(**changes))
    assert isinstance(found, Rejected)
    assert found.code == code


def test_a_question_for_what_is_migrated_is_taken() -> None:
    found = check(what_is_migrated(), rules=MIGRATION_RULES)
    assert isinstance(found, Question)
    assert (found.kind, found.statements) == ("migrations", ())


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"kind": "plans"}, "token.bad_signature"),
        ({"purpose": tokens.Purpose.EXPLAIN}, "token.bad_signature"),
        ({"statements": ["SELECT 1"]}, "token.mismatch"),
        ({"sign": {"operation": Operation.MIGRATE_UP}}, "token.mismatch"),
        ({"database": "other"}, "token.mismatch"),
    ],
)
def test_a_question_for_what_is_migrated_that_is_not_genuine_is_refused(changes: dict[str, Any], code: str) -> None:
    found = check(what_is_migrated(**changes), rules=MIGRATION_RULES)
    assert isinstance(found, Rejected)
    assert found.code == code


def test_an_agent_that_does_not_list_it_does_not_say_what_is_migrated() -> None:
    found = check(what_is_migrated(), rules=RULES)
    assert isinstance(found, Rejected)
    assert found.code == "agent.operation_not_allowed"


def test_a_question_for_another_message_is_refused() -> None:
    assert isinstance(check(claimed(), asked_for="x2"), Rejected)


# --- from the message to the answer -----------------------------------------------------------------------------------


@dataclass
class FarEnd:
    """The server as the agent sees it: hands out one question, and keeps the answers. `claim` and `complete`: statuses
    to answer with before that."""

    job: ExplainClaimed
    claim: list[int] = field(default_factory=list)
    complete: list[int] = field(default_factory=list)
    answers: list[list[dict[str, Any]]] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        verb = request.url.path.rpartition("/")[2]
        if verb == "public-key":
            return httpx2.Response(200, json={"public_key": KEY.public_key().public_bytes_raw().hex()})
        statuses = self.claim if verb == "claim" else self.complete
        if statuses:
            status = statuses.pop(0)
            return httpx2.Response(status, json={"error": "no", "code": f"test.{status}", "hint": None})
        if verb == "claim":
            return httpx2.Response(200, content=self.job.model_dump_json())
        self.reports.append(json.loads(request.content))
        self.answers.append(self.reports[-1]["statements"])
        return httpx2.Response(200, json={})


@dataclass
class Bench:
    far: FarEnd
    explainer: Explainer
    jobs: Jobs
    closing: threading.Event
    unauthorized: threading.Event

    def explain(self, *statements: str, **more: Any) -> list[dict[str, Any]]:
        self.far.job = claimed(*statements, **more)
        self.explainer.explain("x1", "tag-1")
        return self.far.answers[-1]


@pytest.fixture
def bench(sqlite_path: Path) -> Iterator[Bench]:
    with closing(sqlite3.connect(sqlite_path)) as db:
        db.executescript("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO t VALUES (1, 'one');")
    databases = Databases(
        {TARGET: open_driver(f"sqlite:///{sqlite_path}")}, on_change=lambda: None, first_secs=0.05, last_secs=0.2
    )
    databases.start(until=None, stopped=lambda: False)
    far = FarEnd(claimed())
    api = AgentApi("http://far.test", "token", transport=httpx2.MockTransport(far))
    jobs = Jobs(lambda: None)
    closing_, quiet, unauthorized = threading.Event(), threading.Event(), threading.Event()
    quiet.set()
    intake = Intake(
        ServerKey(api, KEY.public_key()),
        jobs=jobs,
        session="session-1",
        closing=closing_,
        quiet=quiet,
        on_unauthorized=unauthorized.set,
        on_forgotten=lambda: None,
    )
    explainer = Explainer(api, databases, intake, lambda: MIGRATION_RULES)
    yield Bench(far, explainer, jobs, closing_, unauthorized)
    databases.close()
    api.close()


def test_each_statement_has_its_plan_or_its_error(bench: Bench) -> None:
    one, two, three = bench.explain("SELECT * FROM t", "SELECT * FROM nowhere", "DELETE FROM t WHERE id = 1")
    assert one["plan"]["scans"] == [{"table": "t", "rows": None}]
    assert (two["plan"], two["error"]["message"]) == (None, "no such table: nowhere")
    assert three["plan"]["steps"][0]["operation"].startswith("Search")
    assert len(bench.jobs) == 0


def test_a_question_that_does_not_verify_asks_the_database_nothing(bench: Bench) -> None:
    [answer] = bench.explain("SELECT * FROM t", purpose=tokens.Purpose.RUN)
    assert answer["error"]["code"] == "token.bad_signature"


def test_an_outage_is_waited_out(bench: Bench) -> None:
    bench.far.claim = [503]
    bench.far.complete = [503, 503]
    assert bench.explain("SELECT 1")[0]["error"] is None


@pytest.mark.parametrize("status", [404, 409])
def test_what_is_over_is_dropped(bench: Bench, status: int) -> None:
    bench.far.claim = [status]
    bench.explainer.explain("x1", "tag-1")
    assert bench.far.answers == []


def test_what_is_over_when_it_is_answered_is_dropped(bench: Bench) -> None:
    bench.far.complete = [409]
    bench.explainer.explain("x1", "tag-1")
    assert bench.far.answers == []


def test_a_refused_claim_is_given_back(bench: Bench) -> None:
    bench.far.claim = [403]
    with pytest.raises(PutBack):
        bench.explainer.explain("x1", "tag-1")


def test_a_refused_token_stops_the_agent(bench: Bench) -> None:
    bench.far.claim = [401]
    with pytest.raises(PutBack):
        bench.explainer.explain("x1", "tag-1")
    assert bench.unauthorized.is_set()


def test_an_agent_that_stops_takes_nothing_new(bench: Bench) -> None:
    bench.closing.set()
    with pytest.raises(PutBack):
        bench.explainer.explain("x1", "tag-1")


def test_a_question_in_hand_is_given_back_when_the_agent_is_stopped(bench: Bench) -> None:
    def stop(request: httpx2.Request) -> httpx2.Response:
        bench.jobs.stop_all(Stop.DRAINED)
        return bench.far(request)

    api = AgentApi("http://far.test", "token", transport=httpx2.MockTransport(stop))
    bench.explainer._api = api
    with pytest.raises(PutBack):
        bench.explainer.explain("x1", "tag-1")
    api.close()
    assert bench.far.answers == []


def test_a_database_that_is_gone_is_said_for_every_statement(bench: Bench, sqlite_path: Path) -> None:
    away = sqlite_path.rename(sqlite_path.with_suffix(".away"))
    answers = bench.explain("SELECT * FROM t", "SELECT 1")
    away.rename(sqlite_path)
    assert [answer["error"]["code"] for answer in answers] == ["database.unreachable"] * 2
    assert str(sqlite_path) not in json.dumps(answers)


def ask(bench: Bench, **changes: Any) -> dict[str, Any]:
    bench.far.job = what_is_migrated(**changes)
    bench.explainer.explain("x1", "tag-1")
    report = bench.far.reports[-1]
    assert report["statements"] == []
    found: dict[str, Any] = report["applied"]
    return found


def test_what_is_migrated(bench: Bench, sqlite_path: Path) -> None:
    assert ask(bench) == {"versions": [], "error": None}
    with closing(sqlite3.connect(sqlite_path)) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]
        db.executescript(
            "CREATE TABLE schema_migrations (version varchar(128) PRIMARY KEY);"
            "CREATE TABLE dbward_migrations (version, name, checksum, applied_at, request_id);"
            "INSERT INTO schema_migrations VALUES ('10'), ('9'), ('8');"
            "INSERT INTO dbward_migrations VALUES ('9', 'nine', 'abc', '2026-01-02T03:04:05.678Z', 'r1'),"
            " ('8', 'eight', NULL, 'yesterday', NULL), ('7', 'undone elsewhere', 'x', '', 'r1');"
        )
    nothing = {"name": None, "checksum": None, "applied_at": None, "request_id": None}
    assert ask(bench)["versions"] == [
        nothing | {"version": "8", "name": "eight"},
        {"version": "9", "name": "nine", "checksum": "abc", "request_id": "r1"}
        | {"applied_at": "2026-01-02T03:04:05.678000Z"},
        nothing | {"version": "10"},
    ]


def test_why_it_is_not_known_what_is_migrated(bench: Bench, sqlite_path: Path) -> None:
    assert ask(bench, purpose=tokens.Purpose.EXPLAIN)["error"]["code"] == "token.bad_signature"
    with closing(sqlite3.connect(sqlite_path)) as db:
        db.execute("CREATE TABLE schema_migrations (id INTEGER)")
    assert ask(bench)["error"]["message"] == "no such column: version"
    away = sqlite_path.rename(sqlite_path.with_suffix(".away"))
    assert ask(bench)["error"]["code"] == "database.unreachable"
    away.rename(sqlite_path)
