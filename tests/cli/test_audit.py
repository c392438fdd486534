"""`dbward audit`: the record as a file, and verified with and without the server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dbward.runtime import Runtime
from tests.cli.conftest import Person
from tests.support.chain import extend


@pytest.fixture
def ring(rt: Runtime) -> str:
    return str(rt.settings.state_dir / "audit-keys.json")


def test_an_export_becomes_a_file_for_its_owner_that_verifies(olga: Person, rt: Runtime, ring: str) -> None:
    extend(rt, 150)
    ran = olga("audit", "export", "--output", "log.ndjson")
    assert (ran.status, ran.out) == (0, "")
    assert "Exported to log.ndjson" in ran.err
    file = olga.cwd / "log.ndjson"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in olga.cwd.iterdir() if "log.ndjson" in path.name] == ["log.ndjson"]
    verified = olga("audit", "verify", "--file", "log.ndjson", "--keys", ring, "--format", "json").data
    last = json.loads(file.read_text().splitlines()[-2])
    assert (verified["valid"], verified["last_seq"], verified["checkpoints"]) == (True, last["seq"], 1)
    again = olga("audit", "export", "--output", "log.ndjson", "--format", "json").data
    assert again == {"file": "log.ndjson", "bytes": file.stat().st_size}


def test_csv_with_filters(alice: Person, olga: Person) -> None:
    sql = "UPDATE t SET a = 1 WHERE id = 1"
    pending = alice("execute", sql, "-e", "production", "--format", "json").data["request_id"]
    argv = (
        "audit",
        "export",
        "--output",
        "log.csv",
        "--result-format",
        "csv",
        "--request",
        pending,
        "-e",
        "production",
    )
    assert olga(*argv).status == 0
    header, *rows = (olga.cwd / "log.csv").read_text().splitlines()
    assert header.startswith("seq,id,event_type,")
    assert rows
    assert all(pending in row for row in rows)


def test_a_changed_export_is_broken(olga: Person, rt: Runtime, ring: str) -> None:
    olga("audit", "export", "--output", "log.ndjson")
    file = olga.cwd / "log.ndjson"
    file.write_text(file.read_text().replace('"actor_id":"system"', '"actor_id":"nobody"', 1))
    ran = olga("audit", "verify", "--file", "log.ndjson", "--keys", ring)
    assert ran.status == 1
    assert "BROKEN at event" in ran.err
    assert "hash mismatch" in ran.err


@pytest.mark.parametrize(
    ("argv", "status", "code"),
    [
        (["verify", "--file", "log.ndjson"], 2, "usage"),
        (["verify", "--keys", "ring.json"], 2, "usage"),
        (["verify", "--file", "none.ndjson", "--keys", "{ring}"], 1, "input_unreadable"),
        (["verify", "--file", "log.ndjson", "--keys", "log.ndjson"], 1, "key.unreadable"),
        (["verify", "--file", "ring.json", "--keys", "{ring}"], 1, "audit.export_unreadable"),
        (["export"], 2, "usage"),
        (["export", "--output", "no/such/place"], 1, "output_unwritable"),
        (["export", "--output", "."], 1, "output_unwritable"),
        (["--user", "alice", "export", "--output", "x"], 2, "usage"),
        (["--verify", "verify"], 2, "usage"),
    ],
)
def test_what_cannot_be_done_says_so(olga: Person, ring: str, argv: list[str], status: int, code: str) -> None:
    olga("audit", "export", "--output", "log.ndjson")
    (olga.cwd / "ring.json").write_text(Path(ring).read_text())
    ran = olga("audit", *(part.format(ring=ring) for part in argv), "--format", "json")
    assert (ran.status, ran.json["error"]["code"]) == (status, code)
    assert not (olga.cwd / "x").exists()


def test_who_may_not_read_the_record_gets_no_file(alice: Person) -> None:
    ran = alice("audit", "export", "--output", "log.ndjson", "--format", "json")
    assert (ran.status, ran.json["error"]["code"]) == (1, "forbidden")
    assert list(alice.cwd.glob("*log.ndjson*")) == []


def test_verify_names_the_reason(olga: Person, rt: Runtime) -> None:
    rt.store.write(lambda tx: tx.conn.exec_driver_sql("DELETE FROM audit_events WHERE seq = 3"))
    ran = olga("audit", "verify")
    assert (ran.status, ran.out) == (1, "")
    assert "sequence gap" in ran.err


def test_more_than_a_page_is_read_page_by_page(olga: Person, rt: Runtime) -> None:
    extend(rt, 450)
    found = olga("audit", "--limit", "430", "--format", "json").data["events"]
    seqs = [event["seq"] for event in found]
    assert seqs == list(range(seqs[0], seqs[0] - 430, -1))
