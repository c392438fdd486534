"""The audit chain, hashed here a second time by hand, and attacked in every way that its text can be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from dbward.domain.audit import (
    CATEGORY,
    AuditEvent,
    Break,
    Head,
    Link,
    Verdict,
    checkpoint_metadata,
    event_hash,
    purge_metadata,
    sign_checkpoint,
    sign_head,
    stamp,
    verify_chain,
    verify_checkpoint,
    verify_head,
)
from dbward.domain.model import Category, Event
from tests.support.props import calm

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes([1] * 32))
RING = {"k-1": KEY.public_key()}
ORDER = [
    "id",
    "event_type",
    "event_category",
    "event_version",
    "outcome",
    "actor_id",
    "actor_type",
    "resource_type",
    "resource_id",
    "peer_ip",
    "client_ip",
    "client_ip_source",
    "request_id",
    "operation",
    "database_name",
    "environment",
    "detail_fingerprint",
    "detail_raw",
    "reason",
    "metadata_json",
    "prev_hash",
    "created_at",
]

FULL = AuditEvent(
    id="11111111-1111-4111-8111-111111111111",
    event_type="request.created",
    event_category="approval",
    outcome="success",
    actor_id="ann",
    actor_type="user",
    resource_type="request",
    resource_id="r1",
    peer_ip="10.0.0.1",
    client_ip="192.0.2.7",
    client_ip_source="xff",
    request_id="r1",
    operation="execute_dml",
    database_name="app",
    environment="production",
    detail_fingerprint="UPDATE t SET a = ?",
    detail_raw="UPDATE t SET a = 'größe:\n1'",
    reason="because",
    metadata_json='{"a":1}',
    prev_hash="ab" * 32,
    created_at="2026-03-01T12:00:00.000000+00:00",
)


def by_hand(event: AuditEvent, prev_hash: str | None) -> str:
    lines = []
    for name in ORDER:
        value = prev_hash if name == "prev_hash" else getattr(event, name)
        raw = b"" if value is None else str(value).encode("utf-8")
        lines.append(str(len(raw)).encode() + b":" + raw)
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def test_there_are_22_fields_in_the_order_of_the_contract() -> None:
    assert [field.name for field in fields(AuditEvent)] == ORDER
    assert len(ORDER) == 22


def test_golden_vectors() -> None:
    assert event_hash(FULL, FULL.prev_hash) == by_hand(FULL, FULL.prev_hash)
    bare = AuditEvent(
        id="x", event_type="e", event_category="c", outcome="o", actor_id="a", actor_type="t", created_at="now"
    )
    text = b"1:x\n1:e\n1:c\n1:1\n1:o\n1:a\n1:t\n" + b"0:\n" * 12 + b"2:{}\n0:\n3:now"
    assert event_hash(bare, None) == hashlib.sha256(text).hexdigest()


@calm
@given(st.sampled_from(ORDER), st.text(st.characters(exclude_categories=["Cs"])), st.none() | st.text("0f", max_size=3))
def test_the_hash_is_the_one_computed_by_hand(name: str, value: str, prev_hash: str | None) -> None:
    event = replace(FULL, **{name: value})
    assert event_hash(event, prev_hash) == by_hand(event, prev_hash)


def test_every_event_has_a_category() -> None:
    assert set(CATEGORY) == set(Event)
    assert CATEGORY[Event.AUTH_FAILURE] is Category.AUTH


def test_stamp() -> None:
    elsewhere = datetime(2026, 3, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    assert stamp(elsewhere) == "2026-03-01T12:00:00.000000+00:00"
    with pytest.raises(ValueError, match="naive"):
        stamp(datetime(2026, 3, 1))  # noqa: DTZ001 - that is the point


def test_head_and_checkpoint_texts() -> None:
    KEY.public_key().verify(bytes.fromhex(sign_head(KEY, 7, "ab")), b"audit-head:v1|7|ab")
    KEY.public_key().verify(bytes.fromhex(sign_head(KEY, 0, None)), b"audit-head:v1|0|")
    KEY.public_key().verify(bytes.fromhex(sign_checkpoint(KEY, "ab", 3, "t")), b"audit-checkpoint:v1|ab|3|t")
    assert verify_checkpoint(KEY.public_key(), "ab", 3, "t", sign_checkpoint(KEY, "ab", 3, "t"))
    assert not verify_checkpoint(KEY.public_key(), "ab", 4, "t", sign_checkpoint(KEY, "ab", 3, "t"))
    assert verify_head([STRANGER.public_key(), KEY.public_key()], 7, "ab", sign_head(KEY, 7, "ab"))
    for seq, text, signature in (
        (8, "ab", sign_head(KEY, 7, "ab")),
        (7, "ac", sign_head(KEY, 7, "ab")),
        (7, "ab", "zz"),
    ):
        assert not verify_head([KEY.public_key()], seq, text, signature)


class Chain:
    """A chain as a server would have written it; `rows` may then be tampered with."""

    def __init__(self, events: str, key: Ed25519PrivateKey = KEY) -> None:
        """`e` an event, `c` a checkpoint; `p` all up to the last checkpoint is purged, `P` the same unvouched for."""
        self.rows: list[Link] = []
        self.first: tuple[int, str | None] = (1, None)
        self.key = key
        since = 0
        for number, kind in enumerate(events):
            previous = self.rows[-1].event_hash if self.rows else self.first[1]
            if kind == "e":
                self.append(Event.REQUEST_CREATED, json.dumps({"n": number}))
            elif kind == "c":
                assert previous is not None
                self.append(
                    Event.AUDIT_SIGNED_CHECKPOINT,
                    checkpoint_metadata(key, "k-1", head_hash=previous, count=since, created_at=self.time()),
                )
            else:
                last = max(
                    i for i, row in enumerate(self.rows) if row.event.event_type == Event.AUDIT_SIGNED_CHECKPOINT
                )
                cut = self.rows[last]
                before = self.time()
                since = len(self.rows) - last - 1
                if kind == "p":
                    count = len(self.rows) - last - 1
                    metadata = purge_metadata(
                        key, "k-1", last_purged_hash=cut.event_hash, purged_before=before, retained_count=count
                    )
                    self.append(Event.AUDIT_PURGE_CHECKPOINT, metadata)
                    since += 1
                self.rows = self.rows[last + 1 :]
                self.first = (cut.seq + 1, cut.event_hash)
                continue
            since = 0 if kind == "c" else since + 1

    def time(self) -> str:
        return stamp(datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=len(self.rows)))

    def append(self, event_type: Event, metadata: str) -> None:
        seq = self.rows[-1].seq + 1 if self.rows else self.first[0]
        prev_hash = self.rows[-1].event_hash if self.rows else self.first[1]
        event = AuditEvent(
            id=f"id-{seq}",
            event_type=event_type,
            event_category=CATEGORY[event_type],
            outcome="success",
            actor_id="ann",
            actor_type="user",
            metadata_json=metadata,
            prev_hash=prev_hash,
            created_at=self.time(),
        )
        self.rows.append(Link(seq, event, event_hash(event, prev_hash)))

    def head(self) -> Head:
        seq, text = (self.rows[-1].seq, self.rows[-1].event_hash) if self.rows else (self.first[0] - 1, self.first[1])
        return Head(seq, text, sign_head(self.key, seq, text), *self.first)

    def rehash(self, start: int) -> None:
        """What somebody with the database but without the key can do: make the links fit again."""
        for index in range(start, len(self.rows)):
            row = self.rows[index]
            prev_hash = self.rows[index - 1].event_hash if index else self.first[1]
            event = replace(row.event, prev_hash=prev_hash)
            self.rows[index] = replace(row, event=event, event_hash=event_hash(event, prev_hash))


def judge(rows: list[Link], head: Head | None) -> tuple[Break | None, str | None]:
    verdict = verify_chain(iter(rows), head, RING)
    assert verdict.valid == (verdict.reason is None)
    return verdict.reason, verdict.first_broken_id


@pytest.mark.parametrize("events", ["", "e", "eee", "eeecee", "ecc", "eecepe", "ecepcepce", "ecp"])
def test_what_a_server_writes_verifies(events: str) -> None:
    chain = Chain(events)
    assert verify_chain(chain.rows, chain.head(), RING) == Verdict(
        len(chain.rows),
        valid=True,
        checkpoints=sum(row.event.event_type == Event.AUDIT_SIGNED_CHECKPOINT for row in chain.rows),
    )


@pytest.mark.parametrize("name", [name for name in ORDER if name != "prev_hash"])
def test_any_changed_field_is_found_at_its_event(name: str) -> None:
    chain = Chain("eeeee")
    head = chain.head()
    row = chain.rows[2]
    changed = 2 if name == "event_version" else "other"
    chain.rows[2] = replace(row, event=replace(row.event, **{name: changed}))
    assert judge(chain.rows, head) == (Break.HASH, "other" if name == "id" else "id-3")
    chain.rehash(2)
    assert judge(chain.rows, head)[0] is Break.TAIL


def test_null_and_empty_hash_alike_and_nothing_else_does() -> None:
    """The contract writes null as empty; a stored empty text in place of null is no forgery worth having."""
    assert event_hash(replace(FULL, reason=None), None) == event_hash(replace(FULL, reason=""), None)


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_cut_tail_is_found(cut: int) -> None:
    chain = Chain("eeeee")
    head = chain.head()
    assert judge(chain.rows[:-cut], head) == (Break.TAIL, None)


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_cut_tail_with_a_head_to_match_needs_the_key(cut: int) -> None:
    chain = Chain("eeeee")
    signature = chain.head().signature
    rows = chain.rows[:-cut]
    last = rows[-1] if rows else Link(0, FULL, "")
    forged = Head(last.seq, last.event_hash or None, signature)
    assert judge(rows, forged)[0] is Break.HEAD_SIGNATURE
    stolen = replace(forged, signature=sign_head(STRANGER, forged.seq, forged.hash))
    assert judge(rows, stolen)[0] is Break.HEAD_SIGNATURE


def test_no_head_is_no_proof() -> None:
    assert judge([], None)[0] is Break.HEAD_MISSING
    assert judge(Chain("ee").rows, None)[0] is Break.HEAD_MISSING


def test_rows_missing_added_swapped_or_repeated() -> None:
    chain = Chain("eeecee")
    head, rows = chain.head(), chain.rows
    assert judge(rows[:2] + rows[3:], head) == (Break.SEQUENCE, "id-4")
    assert judge(rows[1:], head) == (Break.SEQUENCE, "id-2")
    assert judge([rows[1], rows[0], *rows[2:]], head) == (Break.SEQUENCE, "id-2")
    assert judge([rows[0], rows[0], *rows[1:]], head) == (Break.SEQUENCE, "id-1")
    longer = Chain("eeecee")
    longer.append(Event.REQUEST_CREATED, "{}")
    assert judge(longer.rows, head) == (Break.BEYOND_HEAD, "id-7")
    renumbered = [replace(row, seq=i + 1) for i, row in enumerate(rows[:2] + rows[3:])]
    assert judge(renumbered, head)[0] is Break.LINK
    assert judge([replace(rows[0], chain_version=1), *rows[1:]], head) == (Break.VERSION, "id-1")


def test_a_front_cut_without_a_vouched_boundary_is_found() -> None:
    chain = Chain("eeceePe")
    assert judge(chain.rows, chain.head())[0] is Break.PURGE_BOUNDARY
    whole = Chain("eecee")
    cut = replace(whole.head(), first_seq=3, first_prev_hash=whole.rows[1].event_hash)
    assert judge(whole.rows[2:], cut)[0] is not None
    purged = Chain("eecepe")
    deeper = replace(purged.head(), first_seq=purged.rows[1].seq, first_prev_hash=purged.rows[0].event_hash)
    assert judge(purged.rows[1:], deeper)[0] is Break.PURGE_BOUNDARY


def resigned(chain: Chain, index: int, metadata: str) -> tuple[Break | None, str | None]:
    """The chain with another metadata at `index`, as somebody who even holds the head's key would leave it."""
    row = chain.rows[index]
    chain.rows[index] = replace(row, event=replace(row.event, metadata_json=metadata))
    chain.rehash(index)
    return judge(chain.rows, chain.head())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"event_count_since_last_checkpoint": 2}, Break.CHECKPOINT_SIGNATURE),
        ({"event_count_since_last_checkpoint": True}, Break.CHECKPOINT_SIGNATURE),
        ({"chain_head_hash": "00"}, Break.CHECKPOINT_SIGNATURE),
        ({"key_id": "k-2"}, Break.CHECKPOINT_SIGNATURE),
        ({"key_id": None}, Break.CHECKPOINT_SIGNATURE),
        ({"signature": "00" * 64}, Break.CHECKPOINT_SIGNATURE),
        ({"signature": "no hex"}, Break.CHECKPOINT_SIGNATURE),
    ],
)
def test_a_tampered_checkpoint(change: dict[str, object], reason: Break) -> None:
    chain = Chain("eeece")
    metadata = json.loads(chain.rows[3].event.metadata_json)
    assert resigned(chain, 3, json.dumps(metadata | change)) == (reason, "id-4")


@pytest.mark.parametrize("metadata", ["", "[]", "{", "null", "[" * 5000])
def test_a_checkpoint_that_says_nothing(metadata: str) -> None:
    assert resigned(Chain("eeece"), 3, metadata) == (Break.CHECKPOINT_SIGNATURE, "id-4")


def test_a_checkpoint_that_counts_wrong_or_stands_elsewhere() -> None:
    chain = Chain("eeece")
    event = chain.rows[3].event
    assert event.prev_hash is not None
    wrong = checkpoint_metadata(KEY, "k-1", head_hash=event.prev_hash, count=2, created_at=event.created_at)
    assert resigned(chain, 3, wrong) == (Break.CHECKPOINT_COUNT, "id-4")
    chain = Chain("eeece")
    elsewhere = checkpoint_metadata(KEY, "k-1", head_hash="00" * 32, count=3, created_at=event.created_at)
    assert resigned(chain, 3, elsewhere) == (Break.CHECKPOINT_HEAD, "id-4")


def test_a_rewritten_past_cannot_keep_its_checkpoint() -> None:
    chain = Chain("eeece")
    assert resigned(chain, 1, '{"n":"rewritten"}') == (Break.CHECKPOINT_HEAD, "id-4")


def test_a_purge_signed_by_a_stranger() -> None:
    chain = Chain("eecepe")
    index = next(i for i, row in enumerate(chain.rows) if row.event.event_type == Event.AUDIT_PURGE_CHECKPOINT)
    said = json.loads(chain.rows[index].event.metadata_json)
    keep = {name: said[name] for name in ("last_purged_hash", "purged_before", "retained_count")}
    assert resigned(chain, index, purge_metadata(STRANGER, "k-1", **keep))[0] is Break.PURGE_SIGNATURE


@calm
@given(st.lists(st.sampled_from("ec"), min_size=2, max_size=12).map("".join), st.data())
def test_no_subset_and_no_order_but_the_right_one_verifies(events: str, data: st.DataObject) -> None:
    chain = Chain("e" + events)
    picked = data.draw(st.lists(st.sampled_from(range(len(chain.rows))), max_size=len(chain.rows) + 1))
    rows = [chain.rows[i] for i in picked]
    assert verify_chain(rows, chain.head(), RING).valid == (rows == chain.rows)


def test_a_long_chain_is_read_as_a_stream() -> None:
    chain = Chain("e" * 500)
    alive = 0

    def stream() -> Iterator[Link]:
        nonlocal alive
        for row in chain.rows:
            alive += 1
            yield row

    chain.rows[3] = replace(chain.rows[3], event_hash="00")
    assert verify_chain(stream(), chain.head(), RING) == Verdict(
        4, valid=False, first_broken_id="id-4", reason=Break.HASH
    )
    assert alive == 4
