"""What goes wrong at the edges gets a clear error with a stable code, through the real server and a real agent."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from dbward.ids import new_token
from tests.e2e.people import CONFIG, People
from tests.support import services
from tests.support.processes import Farm, Server

pytestmark = pytest.mark.e2e

BIG = (
    CONFIG
    + """
[requests]
max_detail_bytes = 1048576

[result_storage]
max_persist_bytes = 268435456

[[execution_policies]]
max_rows = 2000000
"""
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all that only asks and is refused."""
    farm = Farm(tmp_path_factory.mktemp("bad-input"))
    yield farm.server(config=CONFIG, env=People.tokens_env())
    farm.close()


@pytest.fixture(scope="module")
def people(server: Server) -> People:
    return People(server)


EDGE = {"subject_id": "edge", "subject_type": "agent", "name": "edge"}


def code(answer: httpx2.Response) -> tuple[int, str]:
    body = answer.json()
    assert set(body) >= {"error", "code", "hint"}
    return answer.status_code, body["code"]


def admin(server: Server, method: str, path: str, body: Any = None) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {server.admin_token}"}
    return httpx2.request(method, server.url + path, json=body, headers=headers)


def request_body(**changes: Any) -> dict[str, Any]:
    return {"database": "app", "environment": "development", "detail": "SELECT 1", **changes}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"database": "nowhere"}, (400, "database.not_registered")),
        ({"environment": "staging"}, (400, "database.not_registered")),
        ({"database": "No Name!"}, (400, "validation.failed")),
        ({"detail": ""}, (400, "sql.empty")),
        ({"detail": "-- nothing\n;"}, (400, "sql.empty")),
        ({"detail": "SELECT 'a\0b'"}, (400, "validation.failed")),
        ({"detail": "SELECT FROM WHERE (("}, (400, "sql.unparsable")),
        ({"detail": "SELEC 1"}, (400, "sql.unparsable")),
        ({"detail": "SELECT " + "1," * 1_100_000 + "1"}, (413, "payload.too_large")),
        ({"detail": 7}, (422, "validation.failed")),
        ({"emergency": "yes"}, (422, "validation.failed")),
        ({"surprise": True}, (422, "validation.failed")),
        ({"emergency": True}, (403, "forbidden")),
        ({"allow_ddl": True}, (400, "validation.failed")),
        ({"share_with": ["nobody"]}, (400, "validation.failed")),
        ({"reason": "r" * 1025}, (400, "validation.failed")),
        ({"idempotency_key": ""}, (422, "validation.failed")),
    ],
)
def test_a_request_that_is_wrong(people: People, changes: dict[str, Any], expected: tuple[int, str]) -> None:
    answer = people.call("alice", "POST", "/api/requests", request_body(**changes))
    assert code(answer) == expected
    assert people.ask("carol", "GET", "/api/requests")["total"] == 0


def test_an_emergency_needs_a_reason(people: People):
    answer = people.call("carol", "POST", "/api/requests", request_body(emergency=True))
    assert code(answer) == (400, "validation.failed")


def test_bodies_that_are_no_json(people: People) -> None:
    headers = {"Authorization": "Bearer " + People.tokens_env()["TOKEN_ALICE"]}

    def post(path: str, **how: Any) -> httpx2.Response:
        return httpx2.post(people.server.url + path, **how)

    broken = post("/api/requests", content=b'{"database": ', headers={**headers, "Content-Type": "application/json"})
    assert broken.status_code == 400
    plain = post("/api/requests", content=b"hello", headers={**headers, "Content-Type": "text/plain"})
    assert plain.status_code == 415
    huge = post(
        "/api/requests", content=b" " * (8 * 1024 * 1024), headers={**headers, "Content-Type": "application/json"}
    )
    assert code(huge) == (413, "payload.too_large")


def test_tokens_that_are_not_good(server: Server, people: People) -> None:
    def me(token: str) -> httpx2.Response:
        return httpx2.get(f"{server.url}/api/me", headers={"Authorization": f"Bearer {token}"})

    assert code(me(new_token())) == (401, "unauthorized")
    assert code(me("short")) == (401, "unauthorized")
    soon = datetime.now(UTC) + timedelta(seconds=2)
    body = {"subject_id": "admin", "subject_type": "user"}
    made = admin(server, "POST", "/api/tokens", {**body, "expires_at": soon.isoformat()}).json()
    assert me(made["token"]).status_code == 200
    people.server.farm.until(lambda: me(made["token"]).status_code == 401, "the token has expired")
    lasting = admin(server, "POST", "/api/tokens", body).json()
    assert me(lasting["token"]).status_code == 200
    assert admin(server, "DELETE", f"/api/tokens/{lasting['id']}").status_code == 200
    assert code(me(lasting["token"])) == (401, "unauthorized")


def test_a_megabyte_of_sql_runs_where_the_limit_allows_it(farm: Farm, sqlite_path: Path) -> None:
    sqlite3.connect(sqlite_path).close()
    server = farm.server(config=BIG, env=People.tokens_env())
    farm.agent(server, {("app", "development"): f"sqlite:///{sqlite_path}"})
    people = People(server)
    text = "x" * (1024 * 1024 - 100)
    made = people.submit(f"SELECT length('{text}') AS n", "development")
    envelope = people.ask("alice", "GET", f"/api/requests/{made['id']}/result/stream")
    assert envelope["result_data"]["rows"] == [{"n": len(text)}]
    assert code(people.call("alice", "POST", "/api/requests", request_body(detail=f"SELECT '{text * 2}'"))) == (
        413,
        "payload.too_large",
    )


def test_a_hundred_megabyte_row_is_refused_clearly(farm: Farm, sqlite_path: Path) -> None:
    sqlite3.connect(sqlite_path).close()
    server = farm.server(config=CONFIG, env=People.tokens_env())
    farm.agent(server, {("app", "development"): f"sqlite:///{sqlite_path}"})
    people = People(server)
    made = people.submit("SELECT printf('%.*c', 100000000, 'x') AS big", "development")
    envelope = people.ask("alice", "GET", f"/api/requests/{made['id']}/result/stream")
    assert envelope["success"] is False
    assert envelope["error"]["code"] == "result.row_too_large"


@pytest.mark.slow
def test_a_million_rows_arrive_whole(farm: Farm, sqlite_path: Path) -> None:
    sqlite3.connect(sqlite_path).close()
    server = farm.server(config=BIG, env=People.tokens_env())
    farm.agent(server, {("app", "development"): f"sqlite:///{sqlite_path}"})
    people = People(server)
    sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT i FROM n"
    made = people.submit(sql, "development")
    assert people.await_end(made["id"], 150) == "executed"
    envelope = people.ask("alice", "GET", f"/api/requests/{made['id']}/result/content")
    data = envelope["result_data"]
    assert (data["row_count"], data["truncated"], len(data["rows"])) == (1_000_000, False, 1_000_000)
    assert (data["rows"][0], data["rows"][-1]) == ({"i": 1}, {"i": 1_000_000})


def test_rows_beyond_the_cap_are_cut_and_said_to_be(farm: Farm, sqlite_path: Path) -> None:
    sqlite3.connect(sqlite_path).close()
    server = farm.server(config=CONFIG, env=People.tokens_env())
    farm.agent(server, {("app", "development"): f"sqlite:///{sqlite_path}"})
    people = People(server)
    sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT i FROM n"
    for rows, cut in ((10_000, False), (10_001, True)):
        made = people.submit(sql.format(rows), "development")
        envelope = people.ask("alice", "GET", f"/api/requests/{made['id']}/result/stream")
        data = envelope["result_data"]
        assert (len(data["rows"]), envelope["truncated"]) == (10_000, cut)
        assert bool(data["truncation_reason"]) is cut


def test_an_unreachable_database_keeps_its_job_and_says_so(farm: Farm, sqlite_path: Path) -> None:
    sqlite3.connect(sqlite_path).close()
    server = farm.server(config=CONFIG, env=People.tokens_env())
    nowhere = f"postgresql://u:p@127.0.0.1:{services.free_port()}/db"
    farm.agent(
        server, {("app", "development"): f"sqlite:///{sqlite_path}", ("app", "production"): nowhere}, name="agent"
    )
    people = People(server)
    request_id = people.submit_and_approve("UPDATE t SET a = 1 WHERE b = 2")
    people.resume_despite_outage(request_id)
    shown = people.show(request_id)
    assert (shown["status"], shown["queue_hint"]) == ("dispatched", "no_agents")
    databases = people.ask("carol", "GET", "/api/agents")["agents"][0]["databases"]
    assert {d["environment"]: d["status"] for d in databases} == {"development": "up", "production": "down"}
    made = people.submit("SELECT 1 AS one", "development")
    assert people.await_end(made["id"]) == "executed"


def test_a_wrong_database_password_ends_the_agent_at_once(farm: Farm, postgres_url: str) -> None:
    server = farm.server(config=CONFIG, env=People.tokens_env())
    host = postgres_url.partition("@")[2]
    agent = farm.agent(server, {("app", "production"): f"postgresql://nobody_here:secretpw@{host}"}, ready=False)
    assert agent.wait(60) == 1
    log = agent.log()
    assert "app/production" in log
    assert "secretpw" not in log
    assert "Traceback" not in log


def test_an_agent_with_a_wrong_token_ends_with_a_clear_message(farm: Farm, sqlite_path: Path) -> None:
    sqlite3.connect(sqlite_path).close()
    server = farm.server(config=CONFIG, env=People.tokens_env())
    agent = farm.agent(server, {("app", "production"): f"sqlite:///{sqlite_path}"}, token=new_token(), ready=False)
    assert agent.wait(60) != 0
    assert "token" in agent.log()
    assert "Traceback" not in agent.log()


def test_an_agent_whose_token_is_revoked_stops(farm: Farm, sqlite_path: Path) -> None:
    sqlite3.connect(sqlite_path).close()
    server = farm.server(config=CONFIG, env=People.tokens_env())
    scopes = [{"database": "app", "environment": "development"}]
    made = admin(
        server, "POST", "/api/tokens", {"subject_id": "edge", "subject_type": "agent", "scopes": scopes, "name": "edge"}
    ).json()
    agent = farm.agent(server, {("app", "development"): f"sqlite:///{sqlite_path}"}, token=made["token"])
    assert admin(server, "DELETE", f"/api/tokens/{made['id']}").status_code == 200
    assert agent.wait(60) == 77
    assert "Traceback" not in agent.log()


def test_an_agent_outside_its_scopes_is_refused(farm: Farm, sqlite_path: Path) -> None:
    sqlite3.connect(sqlite_path).close()
    server = farm.server(config=CONFIG, env=People.tokens_env())
    scopes = [{"database": "app", "environment": "development"}]
    made = admin(
        server, "POST", "/api/tokens", {"subject_id": "edge", "subject_type": "agent", "scopes": scopes}
    ).json()
    agent = farm.agent(server, {("app", "production"): f"sqlite:///{sqlite_path}"}, token=made["token"], ready=False)
    assert agent.wait(60) == 1
    assert "app/production" in agent.log()
