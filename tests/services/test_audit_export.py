"""The audit log as a file: whole, oldest first, harmless in a spreadsheet, and verified without the server."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dbward.client.shapes import AuditExport, AuditFilter
from dbward.db import audit as rows
from dbward.db.engine import Tx
from dbward.domain.auditfile import verify_file
from dbward.domain.model import SYSTEM, Event
from dbward.errors import Invalid, Refused
from dbward.services import audit, auditexport
from dbward.services.journal import CHECKPOINT_EVERY, record
from dbward.services.views import View
from tests.services.conftest import World, refused


def write(world: World, count: int, **said: Any) -> None:
    def work(tx: Tx) -> None:
        for _ in range(count):
            record(world.rt, tx, Event.RESULT_PURGED, actor=SYSTEM, **said)

    world.rt.store.write(work)


def start(world: World, **wanted: Any) -> Iterator[bytes]:
    return auditexport.export(world.rt, world.who("olga"), AuditExport(**wanted))


def lines(world: World, **wanted: Any) -> list[bytes]:
    return b"".join(start(world, **wanted)).splitlines(keepends=True)


def exported(world: World, **wanted: Any) -> list[View]:
    return [json.loads(line) for line in lines(world, **wanted)[1:-1]]


def cells(world: World, **wanted: Any) -> list[dict[str, str]]:
    text = b"".join(start(world, format="csv", **wanted)).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def everything(world: World) -> list[View]:
    """All events as the search gives them, page by page, oldest first."""
    found: list[View] = []
    while True:
        before = {"before_seq": found[-1]["seq"]} if found else {}
        page = audit.search(world.rt, world.who("olga"), AuditFilter(limit=7, **before))["events"]
        found += page
        if len(page) < 7:
            return found[::-1]


# --- contents ---------------------------------------------------------------------------------------------------------


def test_all_of_it_oldest_first_with_the_export_itself_as_the_last(world: World) -> None:
    world.executed()
    write(world, 30)
    found = exported(world)
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    assert [event["event_hash"] for event in found] == [event["event_hash"] for event in everything(world)]
    assert (found[-1]["event_type"], found[-1]["actor_id"]) == ("audit.exported", "olga")
    assert set(found[0]) == set(auditexport.CSV_COLUMNS)


def test_pages_fit_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PAGE_ROWS", 3)
    write(world, 20)
    found = exported(world)
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    assert world.verify()["valid"]
    monkeypatch.setattr(rows, "PAGE_BYTES", 1)
    assert [event["seq"] for event in exported(world)][: len(found)] == [event["seq"] for event in found]


def test_a_page_costs_the_same_wherever_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in steps of SQLite's machine: a page that is far from both ends reads no row but its own."""
    if world.rt.store.dialect != "sqlite":
        pytest.skip("PostgreSQL does not count its steps")
    monkeypatch.setattr(rows, "PAGE_ROWS", 10)
    write(world, 5000)

    def steps(after: int, upto: int) -> int:
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        with world.rt.store.read() as conn:
            driver = conn.connection.driver_connection
            driver.set_progress_handler(count, 1)
            found = rows.page(conn, rows.EVERYTHING, after=after, upto=upto)
            driver.set_progress_handler(None, 1)
        assert [link.seq for link in found] == list(range(after + 1, after + 11))
        return counted

    assert steps(after=2500, upto=5000) <= steps(after=0, upto=10) * 1.1


def test_a_page_is_short_where_the_rows_are_long(world: World) -> None:
    write(world, 20, reason="x" * 2**20)
    with world.rt.store.read() as conn:
        head = rows.head(conn)
    assert head is not None
    pages = list(audit.walk(world.rt, rows.EVERYTHING, head))
    assert max(sum(len(link.event.reason or "") for link in page) for page in pages) <= rows.PAGE_BYTES
    assert sum(len(page) for page in pages) == head.seq


def test_what_is_written_while_it_is_read_is_not_in_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PAGE_ROWS", 5)
    chunks = start(world)
    first = next(chunks) + next(chunks)
    write(world, 10)
    found = [json.loads(line) for line in (first + b"".join(chunks)).splitlines()]
    head = found[0]["audit_export"]["head"]
    assert found[-2]["seq"] == head["seq"]
    assert found[-2]["event_hash"] == head["hash"]
    assert found[-1] == {"audit_export_end": {"events": len(found) - 2}}


@pytest.mark.parametrize(
    "wanted",
    [
        {"actor_id": "alice"},
        {"actor_type": "agent"},
        {"event_type": "request.created"},
        {"event_category": "approval"},
        {"outcome": "denied"},
        {"status": "denied"},
        {"database": "app", "environment": "prod"},
        {"operation": "execute_select"},
        {"resource_type": "execution"},
        {"client_ip": "192.0.2.1"},
        {"event_type": "nothing.like_it"},
    ],
)
def test_an_export_and_a_search_find_the_same(world: World, wanted: dict[str, str]) -> None:
    world.executed(environment="prod")
    world.create("rita")
    pending = world.create(environment="prod")
    refused(lambda: world.approve("alice", pending))
    expected = [event["id"] for event in world.events(**wanted)]
    assert [event["id"] for event in exported(world, **wanted) if event["event_type"] != "audit.exported"] == expected
    assert (expected == []) == (wanted.get("event_type") == "nothing.like_it")
    column = {"database": "database_name", "status": "outcome"}
    assert all(event[column.get(k, k)] == v for event in world.events(**wanted) for k, v in wanted.items())


def test_by_request_and_time(world: World) -> None:
    made = world.create()
    world.clock.advance(hours=1)
    other = world.create()
    assert {e["request_id"] for e in exported(world, request_id=made["id"])} == {made["id"]}
    assert {e["request_id"] for e in exported(world, since=world.clock(), operation="execute_select")} == {other["id"]}
    assert {e["request_id"] for e in exported(world, until=world.clock() - timedelta(seconds=1), actor_id="alice")} == {
        made["id"]
    }
    assert refused(lambda: start(world, since="2026-01-01T00:00:00")) == "validation.failed"
    assert refused(lambda: start(world, status="denied", outcome="success")) == "validation.failed"


def test_the_permission_comes_first_and_a_refused_export_is_none(world: World) -> None:
    with pytest.raises(Refused):
        auditexport.export(world.rt, world.who("alice"), AuditExport(status="denied", outcome="success"))
    assert world.events(event_type="audit.exported") == []


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1"])
def test_no_cell_is_a_formula(world: World, value: str) -> None:
    write(world, 1, reason=value)
    assert [row["reason"] for row in cells(world, event_type="result.purged")] == [f"'{value}"]


def test_csv_keeps_quotes_commas_and_lines(world: World) -> None:
    reason = 'he said "no", and\r\nleft; ünïcode 語'
    write(world, 1, reason=reason)
    found = cells(world)
    assert b"".join(start(world, format="csv")).startswith(b"seq,id,event_type,")
    assert [row["reason"] for row in found if row["event_type"] == "result.purged"] == [reason]
    assert list(found[0]) == list(auditexport.CSV_COLUMNS)
    assert [int(row["seq"]) for row in found] == list(range(1, len(found) + 1))


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_one_that_cannot_be_finished_says_so_and_breaks_off(
    world: World, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "PAGE_ROWS", 10)
    write(world, 3 * CHECKPOINT_EVERY)
    chunks = start(world, format=form)
    kept = [next(chunks), next(chunks)]
    world.clock.advance(days=2)
    assert audit.purge(world.rt, timedelta(days=1))
    with pytest.raises(audit.PurgedMeanwhile):
        kept.extend(chunks)
    last = kept[-1].decode().strip()
    assert last.startswith('{"audit_export_incomplete":' if form == "ndjson" else "audit_export_incomplete")


# --- verifying a file -------------------------------------------------------------------------------------------------


def test_a_whole_export_verifies_and_so_does_one_after_a_purge(world: World) -> None:
    write(world, 2 * CHECKPOINT_EVERY + 5)
    ring = world.rt.keys.audit_keyring
    verdict, head = verify_file(lines(world), ring)
    assert (verdict.valid, verdict.total_events, verdict.checkpoints) == (True, head.seq, 2)
    world.clock.advance(days=2)
    audit.purge(world.rt, timedelta(days=1))
    verdict, head = verify_file(lines(world), ring)
    assert verdict.valid
    assert verdict.total_events == head.seq - head.first_seq + 1


def test_one_that_somebody_else_signed_does_not(world: World) -> None:
    ring = {world.rt.keys.audit_key_id: Ed25519PrivateKey.generate().public_key()}
    verdict, _ = verify_file(lines(world), ring)
    assert (verdict.valid, verdict.reason) == (False, "head_signature_invalid")


def test_a_part_of_the_record_cannot_be_verified(world: World) -> None:
    with pytest.raises(Invalid) as caught:
        verify_file(lines(world, outcome="success"), world.rt.keys.audit_keyring)
    assert caught.value.code == "audit.export_filtered"


# --- verifying on the server ------------------------------------------------------------------------------------------


def test_one_verification_at_a_time(world: World) -> None:
    with world.rt.verifying:
        assert refused(world.verify) == "audit.verifying"
    assert world.verify()["valid"]


def test_a_verification_goes_on_after_a_purge_in_the_middle_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(world, 3 * CHECKPOINT_EVERY)
    monkeypatch.setattr(rows, "PAGE_ROWS", 10)
    world.clock.advance(days=2)
    whole = rows.page
    asked = []

    def page(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["after"])
        if len(asked) == 3:
            audit.purge(world.rt, timedelta(days=1))
        return whole(*args, **kwargs)

    monkeypatch.setattr(rows, "page", page)
    assert world.verify()["valid"]
    assert asked.count(0) == 2, "it began again"


def test_writers_do_not_wait_for_a_reader_of_the_whole_record(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write(world, 50)
    monkeypatch.setattr(rows, "PAGE_ROWS", 10)
    whole = rows.page

    def page(*args: Any, **kwargs: Any) -> Any:
        found = whole(*args, **kwargs)
        write(world, 1)
        return found

    with world.rt.store.read() as conn:
        head = rows.head(conn)
    assert head is not None
    monkeypatch.setattr(rows, "page", page)
    assert world.verify()["total_events"] == head.seq
    monkeypatch.undo()
    assert world.verify()["total_events"] > head.seq


def test_totals_are_counted_so_far_and_no_further(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "AUDIT_COUNT_MAX", 10)
    write(world, 9)
    found = audit.search(world.rt, world.who("olga"), AuditFilter(event_type="result.purged", limit=2, before_seq=3))
    assert (found["events"], found["total"], found["total_is_exact"]) == ([], 9, True)
    write(world, 2)
    found = audit.search(world.rt, world.who("olga"), AuditFilter(event_type="result.purged", limit=2))
    assert (len(found["events"]), found["total"], found["total_is_exact"]) == (2, 10, False)


def test_a_record_that_was_tampered_with_can_still_be_searched(world: World) -> None:
    made = world.create()
    for text in ("x", "[]", "[" * 100_000):
        world.rt.store.write(
            lambda tx, text=text: tx.conn.execute(rows.audit_events.update().values(metadata_json=text))  # type: ignore[misc]
        )
        assert world.events(request_id=made["id"])[0]["metadata"] == {}
