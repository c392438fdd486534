"""The audit log: what is on it, what is not, and that no way of rewriting it goes unnoticed."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, func, select, update

from dbward.client.shapes import AuditFilter
from dbward.db.engine import Tx
from dbward.db.tables import audit_events, audit_head
from dbward.domain.model import SYSTEM, Event
from dbward.errors import Refused
from dbward.runtime import Current, open_runtime
from dbward.services import audit, bootstrap, housekeeping
from dbward.services.journal import CHECKPOINT_EVERY, record
from tests.services.conftest import Clock, Place, World, refused


def write(world: World, count: int) -> None:
    def work(tx: Tx) -> None:
        for _ in range(count):
            record(world.rt, tx, Event.RESULT_PURGED, actor=SYSTEM)

    world.rt.store.write(work)


def tamper(world: World, change: Callable[[Connection], object]) -> None:
    world.rt.store.write(lambda tx: change(tx.conn))


def last_seq(world: World) -> int:
    with world.rt.store.read() as conn:
        return conn.execute(select(func.max(audit_events.c.seq))).scalar_one()


# --- contents ---------------------------------------------------------------------------------------------------------


def test_every_event_says_who_what_and_how_it_went(world: World) -> None:
    made = world.create(environment="prod", reason="because", detail="SELECT * FROM t WHERE name = 'secret' AND n = 42")
    refused(lambda: world.approve("alice", made))
    world.approve("bob", made, comment="fine")
    made |= world.resume("alice", made)
    world.agent().run(made)
    seen = [
        (e["event_type"], e["actor_id"], e["actor_type"], e["outcome"]) for e in world.events(request_id=made["id"])
    ]
    assert seen == [
        ("request.created", "alice", "user", "success"),
        ("request.refused", "alice", "user", "denied"),
        ("step.approved", "bob", "user", "success"),
        ("request.approved", "bob", "user", "success"),
        ("request.dispatched", "alice", "user", "success"),
        ("execution.claimed", "agent", "agent", "success"),
        ("execution.started", "agent", "agent", "success"),
        ("execution.completed", "agent", "agent", "success"),
    ]
    for event in world.events(request_id=made["id"]):
        assert (event["database_name"], event["environment"], event["operation"]) == ("app", "prod", "execute_select")
        assert (event["client_ip"], event["client_ip_source"]) == ("192.0.2.1", "peer")
        resource = (
            ("execution", made["execution_id"]) if "execution." in event["event_type"] else ("request", made["id"])
        )
        assert (event["resource_type"], event["resource_id"]) == resource
    created = world.events(request_id=made["id"])[0]
    assert created["reason"] == "because"
    assert created["detail_fingerprint"] == "SELECT * FROM t WHERE name = ? AND n = ?"
    assert created["detail_raw"] is None


@pytest.mark.parametrize(
    ("redaction", "fingerprint", "raw"),
    [("literals", "SELECT ?", None), ("full", None, None), ("none", "SELECT ?", "SELECT 'secret'")],
)
def test_redaction_is_as_configured(
    place: Place, clock: Clock, redaction: str, fingerprint: str | None, raw: str | None
) -> None:
    settings = place.load(more=f'[audit]\nredaction = "{redaction}"')
    bootstrap.prepare(settings, now=clock)
    rt = open_runtime(settings, now=clock)
    try:
        world = World(rt, clock)
        made = world.create(detail="SELECT 'secret'")
        event = world.events(request_id=made["id"])[0]
        assert (event["detail_fingerprint"], event["detail_raw"]) == (fingerprint, raw)
        if redaction != "none":
            assert "secret" not in json.dumps(world.events(), default=str)
        assert world.verify()["valid"]
    finally:
        rt.close()


def test_searching(world: World) -> None:
    made = world.create()
    world.clock.advance(seconds=10)
    other = world.create("rita", "many")
    assert {e["request_id"] for e in world.events(actor_id="rita")} == {other["id"]}
    assert {e["event_type"] for e in world.events(event_category="approval", request_id=made["id"])} == {
        "request.auto_approved",
        "request.dispatched",
    }
    assert {e["request_id"] for e in world.events(environment="many", database="app")} == {other["id"]}
    assert {e["request_id"] for e in world.events(since=world.clock(), outcome="success")} == {other["id"]}
    early = world.events(until=world.clock() - timedelta(seconds=1), operation="execute_select")
    assert {e["request_id"] for e in early} == {made["id"]}
    page = audit.search(world.rt, world.who("olga"), AuditFilter(limit=2, offset=1))
    assert (len(page["events"]), page["total"], page["limit"]) == (2, len(world.events()), 2)
    assert audit.search(world.rt, world.who("olga"), AuditFilter(limit=999))["limit"] == 200
    assert refused(lambda: world.events(offset=2**70)) == "validation.failed"
    assert refused(lambda: world.events(since="2026-01-01T00:00:00")) == "validation.failed"
    assert refused(lambda: world.events(until="9999-12-31T23:59:59-14:00")) == "validation.failed"
    with pytest.raises(Refused):
        audit.search(world.rt, world.who("alice"), AuditFilter())
    with pytest.raises(Refused):
        audit.verify(world.rt, world.who("alice"))


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_every_hundred_events(world: World) -> None:
    before = len(world.events(event_type="audit.signed_checkpoint"))
    write(world, 3 * CHECKPOINT_EVERY)
    found = world.events(event_type="audit.signed_checkpoint")
    assert len(found) - before == 3
    assert {e["metadata"]["event_count_since_last_checkpoint"] for e in found} == {CHECKPOINT_EVERY}
    assert {(e["outcome"], e["actor_type"]) for e in found} == {("info", "system")}
    verdict = world.verify()
    assert (verdict["valid"], verdict["reason"], verdict["checkpoints"]) == (True, None, 3 + before)


def test_a_checkpoint_every_hour_when_there_is_something_to_vouch_for(world: World) -> None:
    world.clock.advance(minutes=59)
    housekeeping.vouch(world.rt)
    assert world.events(event_type="audit.signed_checkpoint") == []
    world.clock.advance(minutes=1)
    housekeeping.vouch(world.rt)
    assert len(world.events(event_type="audit.signed_checkpoint")) == 1
    world.clock.advance(hours=5)
    housekeeping.vouch(world.rt)
    assert len(world.events(event_type="audit.signed_checkpoint")) == 1, "nothing new happened"
    world.create()
    assert len(world.events(event_type="audit.signed_checkpoint")) == 2, "the next event brings it along"
    assert world.verify()["valid"]


# --- what verification notices ----------------------------------------------------------------------------------------


def test_a_whole_chain_verifies(world: World) -> None:
    write(world, 30)
    verdict = world.verify()
    assert verdict == {
        "total_events": last_seq(world),
        "first_broken_id": None,
        "valid": True,
        "reason": None,
        "checkpoints": 0,
    }


@pytest.mark.parametrize("column", ["outcome", "actor_id", "metadata_json", "created_at", "event_hash", "prev_hash"])
def test_a_changed_row_is_named(world: World, column: str) -> None:
    write(world, 5)
    seq = last_seq(world) - 2
    tamper(world, lambda c: c.execute(update(audit_events).where(audit_events.c.seq == seq).values({column: "x"})))
    with world.rt.store.read() as conn:
        broken = conn.execute(select(audit_events.c.id).where(audit_events.c.seq == seq)).scalar_one()
    verdict = world.verify()
    assert (verdict["valid"], verdict["first_broken_id"]) == (False, broken)


def test_a_missing_row_and_a_cut_tail_are_noticed(world: World) -> None:
    write(world, 5)
    last = last_seq(world)
    tamper(world, lambda c: c.execute(delete(audit_events).where(audit_events.c.seq == last)))
    assert world.verify()["reason"] == "tail_missing"
    tamper(world, lambda c: c.execute(delete(audit_events).where(audit_events.c.seq == last - 3)))
    assert world.verify()["reason"] == "sequence_gap"


def test_a_tail_cut_with_its_head_moved_back_is_noticed(world: World) -> None:
    """Whoever can write the database can move the head, but cannot sign it."""
    write(world, 5)
    last = last_seq(world)

    def cut(conn: Connection) -> None:
        conn.execute(delete(audit_events).where(audit_events.c.seq > last - 2))
        digest = conn.execute(select(audit_events.c.event_hash).where(audit_events.c.seq == last - 2)).scalar_one()
        conn.execute(update(audit_head).values(seq=last - 2, hash=digest))

    tamper(world, cut)
    assert world.verify()["reason"] == "head_signature_invalid"


def test_a_row_put_behind_the_head_is_noticed(world: World) -> None:
    write(world, 2)
    last = last_seq(world)

    def insert(conn: Connection) -> None:
        row = dict(conn.execute(select(audit_events).where(audit_events.c.seq == last)).mappings().one())
        conn.execute(audit_events.insert().values(row | {"seq": last + 1, "id": "forged"}))

    tamper(world, insert)
    verdict = world.verify()
    assert (verdict["valid"], verdict["reason"]) == (False, "events_beyond_head")


def test_a_beginning_cut_off_is_noticed(world: World) -> None:
    write(world, 120)

    def cut(conn: Connection) -> None:
        conn.execute(delete(audit_events).where(audit_events.c.seq <= 3))
        digest = conn.execute(select(audit_events.c.prev_hash).where(audit_events.c.seq == 4)).scalar_one()
        conn.execute(update(audit_head).values(first_seq=4, first_prev_hash=digest))

    tamper(world, cut)
    assert not world.verify()["valid"]


def test_an_older_copy_of_the_database_is_noticed_and_stays_noticed(world: World) -> None:
    """The anchor beside the database knows better, and is not led astray by what is appended to the copy."""
    write(world, 3)
    with world.rt.store.read() as conn:
        rows = [dict(row) for row in conn.execute(select(audit_events)).mappings()]
        head = dict(conn.execute(select(audit_head)).mappings().one())
    write(world, 4)
    audit.write_anchor(world.rt)
    assert world.verify()["valid"]

    def put_back(conn: Connection) -> None:
        conn.execute(delete(audit_events))
        conn.execute(audit_events.insert(), rows)
        conn.execute(update(audit_head).values(head))

    tamper(world, put_back)
    assert world.verify()["reason"] == "older_than_anchor"
    audit.write_anchor(world.rt)
    assert world.verify()["reason"] == "older_than_anchor"
    write(world, 9)
    assert world.verify()["reason"] == "anchor_mismatch"
    housekeeping.vouch(world.rt)
    verdict = world.verify()
    assert (verdict["valid"], verdict["reason"]) == (False, "anchor_mismatch")


@pytest.mark.parametrize("text", ["", "{}", '{"seq": 1, "hash": "x", "signature": "y"}', '{"seq": "x"}'])
def test_a_damaged_anchor_proves_nothing(world: World, text: str) -> None:
    (world.rt.settings.state_dir / audit.ANCHOR).write_text(text)
    assert world.verify()["reason"] == "anchor_mismatch"
    audit.write_anchor(world.rt)
    assert (world.rt.settings.state_dir / audit.ANCHOR).read_text() == text, "it is left as it was found"


def test_the_anchor_follows_the_log(world: World) -> None:
    path = world.rt.settings.state_dir / audit.ANCHOR
    for _ in range(3):
        world.create()
        housekeeping.vouch(world.rt)
        assert json.loads(path.read_text())["seq"] == last_seq(world)
        assert world.verify()["valid"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_put_back_while_the_server_was_down(tmp_path: Path, clock: Clock) -> None:
    place = Place(tmp_path, f"sqlite:///{tmp_path / 'state.db'}")
    settings = place.load()
    bootstrap.prepare(settings, now=clock)
    shutil.copy(tmp_path / "state.db", tmp_path / "older.db")
    rt = open_runtime(settings, now=clock)
    World(rt, clock).create()
    housekeeping.Housekeeper(Current(rt)).stop()
    rt.close()
    shutil.copy(tmp_path / "older.db", tmp_path / "state.db")
    bootstrap.prepare(settings, now=clock)
    rt = open_runtime(settings, now=clock)
    try:
        assert not World(rt, clock).verify()["valid"]
    finally:
        rt.close()


# --- purge ------------------------------------------------------------------------------------------------------------


def test_old_events_go_and_the_rest_still_verifies(world: World) -> None:
    ttl = world.rt.settings.retention.audit_ttl
    write(world, 2 * CHECKPOINT_EVERY + 20)
    world.clock.advance(days=ttl.days, seconds=1)
    assert audit.purge(world.rt, ttl)
    found = world.events()
    assert found[0]["event_type"] != "audit.signed_checkpoint"
    assert [e["event_type"] for e in found].count("audit.signed_checkpoint") == 0
    said = found[-1]
    assert (said["event_type"], said["metadata"]["retained_count"]) == ("audit.purge_checkpoint", len(found) - 1)
    assert world.verify()["valid"]
    assert not audit.purge(world.rt, ttl), "once is enough"
    write(world, CHECKPOINT_EVERY)
    assert world.verify()["valid"]
    world.clock.advance(days=ttl.days, seconds=1)
    assert audit.purge(world.rt, ttl)
    assert world.verify()["valid"], "the newer purge vouches for the newer beginning"


def test_without_an_old_checkpoint_nothing_goes(world: World) -> None:
    write(world, 50)
    world.clock.advance(days=1000)
    assert not audit.purge(world.rt, timedelta(days=365))


def test_a_purge_keeps_what_is_younger(world: World) -> None:
    write(world, CHECKPOINT_EVERY)
    world.clock.advance(days=300)
    write(world, CHECKPOINT_EVERY)
    world.clock.advance(days=66)
    assert audit.purge(world.rt, timedelta(days=365))
    assert len(world.events(event_type="audit.signed_checkpoint")) >= 1
    assert world.verify()["valid"]


def test_an_anchor_older_than_a_purge_is_no_contradiction(world: World) -> None:
    audit.write_anchor(world.rt)
    write(world, 2 * CHECKPOINT_EVERY)
    world.clock.advance(days=366)
    audit.purge(world.rt, timedelta(days=365))
    assert world.verify()["valid"]
    audit.write_anchor(world.rt)
    write(world, 1)
    assert world.verify()["valid"]


def test_the_server_cannot_be_talked_into_another_key(tmp_path: Path, clock: Clock) -> None:
    """Rows rewritten with a key of one's own verify only with that key."""
    place = Place(tmp_path, f"sqlite:///{tmp_path / 'state.db'}")
    settings = place.load()
    bootstrap.prepare(settings, now=clock)
    connection = sqlite3.connect(tmp_path / "state.db")
    with connection:
        connection.execute("UPDATE audit_head SET signature = ?", ("0" * 128,))
    connection.close()
    rt = open_runtime(settings, now=clock)
    try:
        assert World(rt, clock).verify()["reason"] == "head_signature_invalid"
    finally:
        rt.close()
