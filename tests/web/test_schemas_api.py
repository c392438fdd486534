"""Schema snapshots over HTTP: agents send, people see."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from dbward.client.wire import PROTOCOL, SCHEMA_BATCH_BYTES, SCHEMA_BATCH_TABLES

SESSION = "session-of-this-test"
TARGET = {"database": "app", "environment": "production"}
BEGIN = {"session": SESSION, "dialect": "postgresql", **TARGET}


def table(name: str, **changes: Any) -> dict[str, Any]:
    column = {"name": "id", "data_type": "integer", "nullable": False, "is_primary_key": True}
    shape = {"schema_name": "public", "name": name, "kind": "table", "estimated_rows": 3, "columns": [column]}
    return {**shape, "constraints": [], "indexes": [], **changes}


def key(**changes: Any) -> dict[str, Any]:
    said = {"name": "fk", "constraint_type": "foreign_key", "columns": ["id"], "referenced_table": "users"}
    return {**said, "referenced_columns": ["id"], "referenced_schema": "public", "on_delete": "CASCADE", **changes}


@pytest.fixture
def reported(agent):
    """The agent, after its first report."""
    served = [{**TARGET, "dialect": "postgresql", "status": "up"}]
    report = {"instance": "one", "session": SESSION, "protocol": PROTOCOL, "version": "1", "databases": served}
    rest = {"operations": [], "max_concurrent": 1, "in_flight": 0, "started_at": datetime.now(UTC).isoformat()}
    assert agent.post("/api/agent/report", {**report, **rest}).status_code == 200
    return agent


@pytest.fixture
def upload(reported) -> str:
    answer = reported.post("/api/agent/schemas", BEGIN)
    assert answer.status_code == 200
    return str(answer.json["upload_id"])


def add(agent: Any, upload: str, *tables: dict[str, Any]) -> Any:
    return agent.post(f"/api/agent/schemas/{upload}/tables", {"tables": list(tables)})


def test_from_the_agent_to_the_person(reported, upload, alice):
    assert add(reported, upload, table("users"), table("orders", constraints=[key()])).status_code == 200
    assert alice.get("/api/schemas/app").status_code == 404
    assert reported.post(f"/api/agent/schemas/{upload}/commit", {"tables": 2}).status_code == 200
    seen = alice.get("/api/schemas/app").json
    assert {name: seen[name] for name in ("database", "environment", "dialect", "status")} == {
        **TARGET,
        "dialect": "postgresql",
        "status": "ready",
    }
    assert datetime.fromisoformat(seen["collected_at"]).tzinfo is not None
    assert [one["name"] for one in seen["tables"]] == ["orders", "users"]
    whole = alice.get("/api/schemas/app?environment=production&table=public.orders").json["table"]
    assert whole["constraints"] == [key()]
    assert "columns" not in seen["tables"][0]
    assert "columns" in alice.get("/api/schemas/app?summary=false").json["tables"][0]


def test_a_failure(reported, alice):
    assert reported.post("/api/agent/schemas/failed", {**BEGIN, "error": "cannot connect"}).status_code == 200
    answer = alice.get("/api/schemas/app")
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")
    assert "cannot connect" in answer.json["error"]


def test_who_gets_in(reported, upload, alice, nobody):
    path = f"/api/agent/schemas/{upload}/commit"
    assert [who.post(path, {"tables": 0}).status_code for who in (alice, nobody)] == [403, 401]
    assert [who.get("/api/schemas/app").status_code for who in (reported, nobody)] == [403, 401]
    reported.post(path, {"tables": 0})
    assert alice.get("/api/schemas/app").json["tables"] == []


@pytest.mark.parametrize("query", ["table=", "summary=maybe", "env=production", "environment=a&environment=b"])
def test_wrong_queries(alice, query):
    answer = alice.get(f"/api/schemas/app?{query}")
    assert (answer.status_code, answer.json["code"]) == (400, "request.malformed")


@pytest.mark.parametrize(
    "wrong",
    [
        table(""),
        table("x" * 256),
        table("t", kind="heap"),
        table("t", estimated_rows=-1),
        table("t", estimated_rows=2**63),
        table("t", extra=1),
        table("t", constraints=[key(on_delete="DESTROY")]),
        table("t", constraints=[key(referenced_table=None)]),
        table("t", constraints=[key(constraint_type="unique")]),
    ],
)
def test_wrong_tables(reported, upload, wrong):
    assert add(reported, upload, wrong).status_code == 422
    assert reported.post(f"/api/agent/schemas/{upload}/commit", {"tables": 1}).status_code == 409


def test_a_piece_has_a_size(reported, upload):
    most = [table(f"t{n}") for n in range(SCHEMA_BATCH_TABLES)]
    assert add(reported, upload, *most).status_code == 200
    assert add(reported, upload, *most, table("more")).status_code == 422
    wide = [{"name": "c" * 2000, "data_type": "d" * 2000, "nullable": True}] * (SCHEMA_BATCH_BYTES // 4000 + 1)
    answer = add(reported, upload, table("wide", columns=wide))
    assert (answer.status_code, answer.json["code"]) == (413, "payload.too_large")
    assert (
        add(reported, upload, table("wide", columns=wide[:800])).status_code == 200
    )  # more than other bodies may have


def test_uploads_that_are_not_there(reported):
    for path, body in (("tables", {"tables": []}), ("commit", {"tables": 0})):
        answer = reported.post(f"/api/agent/schemas/nothing/{path}", body)
        assert (answer.status_code, answer.json["code"]) == (404, "schema.unknown_upload")
    assert reported.post("/api/agent/schemas", {**BEGIN, "environment": "nowhere"}).status_code == 404
    assert reported.post("/api/agent/schemas", {**BEGIN, "dialect": "oracle"}).status_code == 422
    assert reported.post("/api/agent/schemas", {**BEGIN, "dialect": "mysql"}).status_code == 403
