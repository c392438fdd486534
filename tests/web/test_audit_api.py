"""`/api/audit` over HTTP: who may, what is answered, and whose address stands on the record."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import pytest

from dbward.client.answers.audit import Verdict
from dbward.domain.audit import Break
from dbward.domain.auditfile import verify_file
from dbward.runtime import Runtime
from tests.web.conftest import DEVELOPMENT, PRODUCTION, Caller

ROUTES = ["/api/audit/events", "/api/audit/verify", "/api/audit/export", "/api/audit/export?format=csv"]


@pytest.fixture
def olga(caller: Callable[[str | None], Caller]) -> Caller:
    return caller("olga")


@pytest.mark.parametrize("path", [*ROUTES, "/api/audit/events?nonsense=1", "/api/audit/export?format=xml"])
def test_the_permission_is_asked_for_before_anything_is_read(alice: Caller, path: str) -> None:
    answer = alice.get(path)
    assert (answer.status_code, answer.json["code"]) == (403, "forbidden")


def test_a_search(alice: Caller, olga: Caller) -> None:
    made = alice.post("/api/requests", DEVELOPMENT).json["id"]
    answer = olga.get(f"/api/audit/events?request_id={made}&limit=1").json
    assert (answer["total"], answer["total_is_exact"], answer["limit"], answer["offset"]) == (2, True, 1, 0)
    (newest,) = answer["events"]
    assert newest["event_type"] == "request.dispatched"
    assert newest["created_at"].endswith("Z")
    (older,) = olga.get(f"/api/audit/events?request_id={made}&before_seq={newest['seq']}").json["events"]
    assert (older["event_type"], older["event_hash"]) == ("request.auto_approved", newest["prev_hash"])
    assert olga.get("/api/audit/events?offset=1&limit=1").json["events"][0]["seq"] == newest["seq"] - 1


@pytest.mark.parametrize(
    "query",
    [
        "nonsense=1",
        "limit=-1",
        "offset=-1",
        "offset=10001",
        "before_seq=0",
        f"before_seq={2**63}",
        "since=yesterday",
        "since=2026-01-01T00:00:00",
        "status=denied&outcome=success",
        "outcome=denied&outcome=denied",
    ],
)
def test_a_search_that_cannot_be_meant(olga: Caller, query: str) -> None:
    assert olga.get(f"/api/audit/events?{query}").status_code == 400


def test_numbers_beyond_any_record(olga: Caller) -> None:
    assert len(olga.get(f"/api/audit/events?limit={10**30}").json["events"]) <= 200
    assert olga.get(f"/api/audit/events?before_seq={2**53}").json["events"]


def test_the_word_of_older_clients_for_the_outcome(alice: Caller, olga: Caller) -> None:
    made = alice.post("/api/requests", PRODUCTION).json["id"]
    assert alice.post(f"/api/requests/{made}/approve", {}).status_code == 403
    found = olga.get("/api/audit/events?status=denied").json["events"]
    assert {event["outcome"] for event in found} == {"denied"}


def test_an_export_is_a_file_that_verifies(alice: Caller, olga: Caller, rt: Runtime) -> None:
    alice.post("/api/requests", DEVELOPMENT)
    answer = olga.get("/api/audit/export")
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"] == 'attachment; filename="dbward-audit.ndjson"'
    assert answer.headers["Cache-Control"] == "no-store"
    verdict, _ = verify_file(answer.data.splitlines(), rt.keys.audit_keyring)
    assert verdict.valid
    answer = olga.get("/api/audit/export?format=csv&actor_id=alice")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="dbward-audit.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [row["event_type"] for row in rows] == ["request.auto_approved", "request.dispatched"]


def test_verify_says_what_is_wrong_and_one_at_a_time(olga: Caller, rt: Runtime) -> None:
    assert olga.get("/api/audit/verify").json["reason"] is None
    with rt.verifying:
        answer = olga.get("/api/audit/verify")
    assert (answer.status_code, answer.json["code"]) == (429, "audit.verifying")
    assert answer.headers["Retry-After"]
    rt.store.write(lambda tx: tx.conn.exec_driver_sql("UPDATE audit_events SET actor_id = 'mallory' WHERE seq = 2"))
    said = olga.get("/api/audit/verify").json
    assert (said["valid"], said["reason"], said["total_events"]) == (False, "hash_mismatch", 2)
    assert said["first_broken_id"] is not None


def test_a_record_without_a_head_can_still_be_searched(olga: Caller, rt: Runtime) -> None:
    rt.store.write(lambda tx: tx.conn.exec_driver_sql("DELETE FROM audit_head"))
    assert olga.get("/api/audit/events").json["events"]
    assert olga.get("/api/audit/verify").json["reason"] == "head_missing"


def test_every_reason_is_one_that_the_description_names() -> None:
    for reason in [*Break, "anchor_mismatch", "older_than_anchor"]:
        Verdict(total_events=1, first_broken_id=None, valid=False, reason=str(reason), checkpoints=0)  # type: ignore[arg-type]
