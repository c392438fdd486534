"""The audit chain: how an event is hashed, how the head and the checkpoints are signed, how all of it is verified.

Each event's hash covers the hash before it, so nothing in the middle can change unnoticed. The signed head says where
the chain ends, so a cut tail is noticed as well; signed checkpoints inside the chain do not depend on the head. What no
verification from the inside can notice is the whole database put back to an earlier copy of itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dbward.canonical import canonical_json, sha256_hex
from dbward.domain.model import Category, Event

CHAIN_VERSION = 2
EVENT_VERSION = 1

CATEGORY: dict[Event, Category] = {
    Event.REQUEST_CREATED: Category.APPROVAL,
    Event.REQUEST_AUTO_APPROVED: Category.APPROVAL,
    Event.REQUEST_BREAK_GLASS: Category.APPROVAL,
    Event.REQUEST_DISPATCHED: Category.APPROVAL,
    Event.REQUEST_REFUSED: Category.APPROVAL,
    Event.REQUEST_BLOCKED_BY_REVIEW: Category.APPROVAL,
    Event.DDL_BREAK_GLASS_BYPASS: Category.REQUEST,
    Event.STEP_APPROVED: Category.APPROVAL,
    Event.REQUEST_APPROVED: Category.APPROVAL,
    Event.REQUEST_REJECTED: Category.APPROVAL,
    Event.REQUEST_CANCELLED: Category.APPROVAL,
    Event.REQUEST_EXPIRED: Category.APPROVAL,
    Event.REQUEST_DISPATCH_TIMEOUT: Category.APPROVAL,
    Event.EXECUTION_CLAIMED: Category.EXECUTION,
    Event.EXECUTION_RELEASED: Category.EXECUTION,
    Event.EXECUTION_STARTED: Category.EXECUTION,
    Event.EXECUTION_COMPLETED: Category.EXECUTION,
    Event.EXECUTION_FAILED: Category.EXECUTION,
    Event.EXECUTION_TOKEN_REFUSED: Category.EXECUTION,
    Event.RESULT_PURGED: Category.EXECUTION,
    Event.RESULT_READ: Category.EXECUTION,
    Event.EXECUTION_LOST: Category.AGENT,
    Event.AGENT_REGISTERED: Category.AGENT,
    Event.SCHEMA_SNAPSHOT_UPDATED: Category.AGENT,
    Event.SCHEMA_SNAPSHOT_FAILED: Category.AGENT,
    Event.AUTH_FAILURE: Category.AUTH,
    Event.AUTH_LOGIN_SUCCESS: Category.AUTH,
    Event.TOKEN_CREATED: Category.TOKEN,
    Event.TOKEN_REVOKED: Category.TOKEN,
    Event.TOKEN_REISSUED_INITIAL: Category.TOKEN,
    Event.USER_CREATED: Category.IDENTITY,
    Event.USER_UPDATED: Category.IDENTITY,
    Event.USER_SUSPENDED: Category.IDENTITY,
    Event.USER_ACTIVATED: Category.IDENTITY,
    Event.USER_DELETED: Category.IDENTITY,
    Event.GROUP_MEMBER_ADDED: Category.IDENTITY,
    Event.GROUP_MEMBER_REMOVED: Category.IDENTITY,
    Event.CONFIG_SYNCED: Category.POLICY,
    Event.BACKUP_CREATED: Category.POLICY,
    Event.STATE_RESTORED: Category.POLICY,
    Event.PREFLIGHT_ATTEMPTED: Category.PREFLIGHT,
    Event.AUDIT_EXPORTED: Category.POLICY,
    Event.AUDIT_SIGNED_CHECKPOINT: Category.POLICY,
    Event.AUDIT_PURGE_CHECKPOINT: Category.POLICY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One event, its fields in the order in which they are hashed.

    `created_at` is the text that is stored and hashed, as `stamp` makes it. `metadata_json` is a JSON object as text.
    """

    id: str
    event_type: str
    event_category: str
    event_version: int = EVENT_VERSION
    outcome: str
    actor_id: str
    actor_type: str
    resource_type: str | None = None
    resource_id: str | None = None
    peer_ip: str | None = None
    client_ip: str | None = None
    client_ip_source: str | None = None
    request_id: str | None = None
    operation: str | None = None
    database_name: str | None = None
    environment: str | None = None
    detail_fingerprint: str | None = None
    detail_raw: str | None = None
    reason: str | None = None
    metadata_json: str = "{}"
    prev_hash: str | None = None
    created_at: str


_HASHED = tuple(field.name for field in fields(AuditEvent))
_values_of = attrgetter(*_HASHED)
_PREV_HASH = _HASHED.index("prev_hash")


def stamp(at: datetime) -> str:
    """A time as an event carries it: RFC 3339, microseconds, `+00:00`. Raises `ValueError` for a naive one."""
    if at.tzinfo is None:
        raise ValueError("a naive datetime has no place in the audit log")
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def event_hash(event: AuditEvent, prev_hash: str | None) -> str:
    """SHA-256 hex of the 22 fields as `<bytes>:<value>` lines; `prev_hash` stands in place of the event's own."""
    values = list(_values_of(event))
    values[_PREV_HASH] = prev_hash
    lines = [b"" if value is None else str(value).encode() for value in values]
    return sha256_hex(b"\n".join([b"%d:%b" % (len(line), line) for line in lines]))


# --- signatures: Ed25519 in hex over short texts that say what they are ---


def sign_head(key: Ed25519PrivateKey, seq: int, head_hash: str | None) -> str:
    """Sign where the chain ends. `seq` 0 and hash None stand for a chain without events."""
    return key.sign(_head_text(seq, head_hash)).hex()


def verify_head(keys: Iterable[Ed25519PublicKey], seq: int, head_hash: str | None, signature: str) -> bool:
    """Whether one of the audit keys signed exactly this head."""
    return any(_signed(key, _head_text(seq, head_hash), signature) for key in keys)


def sign_checkpoint(key: Ed25519PrivateKey, head_hash: str, count: int, created_at: str) -> str:
    """Sign the hash before the checkpoint and the number of events since the last one, checkpoints not counted."""
    return key.sign(_checkpoint_text(head_hash, count, created_at)).hex()


def verify_checkpoint(key: Ed25519PublicKey, head_hash: str, count: int, created_at: str, signature: str) -> bool:
    return _signed(key, _checkpoint_text(head_hash, count, created_at), signature)


def checkpoint_metadata(key: Ed25519PrivateKey, key_id: str, *, head_hash: str, count: int, created_at: str) -> str:
    """`metadata_json` of an `audit.signed_checkpoint` event; `created_at` is the event's own."""
    return canonical_json(
        {
            "chain_head_hash": head_hash,
            "event_count_since_last_checkpoint": count,
            "key_id": key_id,
            "signature": sign_checkpoint(key, head_hash, count, created_at),
        }
    )


def purge_metadata(
    key: Ed25519PrivateKey, key_id: str, *, last_purged_hash: str, purged_before: str, retained_count: int
) -> str:
    """`metadata_json` of an `audit.purge_checkpoint` event, which vouches for where the chain begins after a purge.

    `last_purged_hash` must be the hash of a signed checkpoint: a chain begins right after one. `purged_before` is a
    time as `stamp` makes it.
    """
    text = _purge_text(last_purged_hash, purged_before, retained_count)
    return canonical_json(
        {
            "key_id": key_id,
            "last_purged_hash": last_purged_hash,
            "purged_before": purged_before,
            "retained_count": retained_count,
            "signature": key.sign(text).hex(),
        }
    )


def _head_text(seq: int, head_hash: str | None) -> bytes:
    return f"audit-head:v1|{seq}|{head_hash or ''}".encode()


def _checkpoint_text(head_hash: str, count: int, created_at: str) -> bytes:
    return f"audit-checkpoint:v1|{head_hash}|{count}|{created_at}".encode()


def _purge_text(last_hash: str, purged_before: str, retained_count: int) -> bytes:
    return f"purge-checkpoint:v1|{last_hash}|{purged_before}|{retained_count}".encode()


def _signed(key: Ed25519PublicKey, text: bytes, signature: str) -> bool:
    try:
        key.verify(bytes.fromhex(signature), text)
    except (InvalidSignature, ValueError):
        return False
    return True


# --- verification ---


@dataclass(frozen=True, slots=True)
class Link:
    """One stored row: the event with the `prev_hash` it was stored with, its place and its hash."""

    seq: int
    event: AuditEvent
    event_hash: str
    chain_version: int = CHAIN_VERSION


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends, signed; and after a purge, where it begins (`first_prev_hash` None: at the start)."""

    seq: int
    hash: str | None
    signature: str
    first_seq: int = 1
    first_prev_hash: str | None = None


class Break(StrEnum):
    """What is wrong with a chain."""

    SEQUENCE = "sequence_gap"
    LINK = "prev_hash_mismatch"
    HASH = "hash_mismatch"
    VERSION = "unknown_chain_version"
    CHECKPOINT_HEAD = "checkpoint_head_mismatch"
    CHECKPOINT_COUNT = "checkpoint_count_mismatch"
    CHECKPOINT_SIGNATURE = "checkpoint_signature_invalid"
    PURGE_SIGNATURE = "purge_signature_invalid"
    PURGE_BOUNDARY = "purge_boundary_unauthenticated"
    HEAD_MISSING = "head_missing"
    HEAD_SIGNATURE = "head_signature_invalid"
    TAIL = "tail_missing"
    BEYOND_HEAD = "events_beyond_head"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`total_events` were read. `first_broken_id` is also None when no single event is wrong: an end is missing."""

    total_events: int
    valid: bool
    first_broken_id: str | None = None
    reason: Break | None = None
    checkpoints: int = 0


def verify_chain(rows: Iterable[Link], head: Head | None, keyring: Mapping[str, Ed25519PublicKey]) -> Verdict:
    """Read the whole chain in order, in constant memory.

    `rows` are those with `seq` up to `head.seq`, read in the same snapshot as `head` or after it; `keyring` holds every
    audit key ever used, by its id.
    """
    if head is None:
        return Verdict(0, valid=False, reason=Break.HEAD_MISSING)
    if not verify_head(keyring.values(), head.seq, head.hash, head.signature):
        return Verdict(0, valid=False, reason=Break.HEAD_SIGNATURE)
    state = _State(next_seq=head.first_seq, prev_hash=head.first_prev_hash)
    state.boundary_proven = head.first_seq == 1 and head.first_prev_hash is None
    for row in rows:
        state.total += 1
        broken = Break.BEYOND_HEAD if row.seq > head.seq else state.step(row, head, keyring)
        if broken is not None:
            return Verdict(state.total, valid=False, first_broken_id=row.event.id, reason=broken)
    if (state.next_seq - 1, state.prev_hash) != (head.seq, head.hash):
        return Verdict(state.total, valid=False, reason=Break.TAIL)
    if not state.boundary_proven:
        return Verdict(state.total, valid=False, reason=Break.PURGE_BOUNDARY)
    return Verdict(state.total, valid=True, checkpoints=state.checkpoints)


@dataclass(slots=True)
class _State:
    next_seq: int
    prev_hash: str | None
    total: int = 0
    since_checkpoint: int = 0
    checkpoints: int = 0
    boundary_proven: bool = False

    def step(self, row: Link, head: Head, keyring: Mapping[str, Ed25519PublicKey]) -> Break | None:
        broken = self._link(row)
        if broken is not None:
            return broken
        if row.event.event_type == Event.AUDIT_SIGNED_CHECKPOINT:
            broken = self._checkpoint(row.event, keyring)
            self.since_checkpoint = 0
            self.checkpoints += 1
        else:
            self.since_checkpoint += 1
            if row.event.event_type == Event.AUDIT_PURGE_CHECKPOINT:
                broken = self._purge(row.event, head, keyring)
        self.next_seq = row.seq + 1
        self.prev_hash = row.event_hash
        return broken

    def _link(self, row: Link) -> Break | None:
        if row.chain_version != CHAIN_VERSION:
            return Break.VERSION
        if row.seq != self.next_seq:
            return Break.SEQUENCE
        if row.event.prev_hash != self.prev_hash:
            return Break.LINK
        return None if event_hash(row.event, self.prev_hash) == row.event_hash else Break.HASH

    def _checkpoint(self, event: AuditEvent, keyring: Mapping[str, Ed25519PublicKey]) -> Break | None:
        said = _Metadata(event)
        key = keyring.get(said.text("key_id"))
        count = said.number("event_count_since_last_checkpoint")
        head_hash = said.text("chain_head_hash")
        if key is None or not verify_checkpoint(key, head_hash, count, event.created_at, said.text("signature")):
            return Break.CHECKPOINT_SIGNATURE
        if head_hash != event.prev_hash:
            return Break.CHECKPOINT_HEAD
        return None if count == self.since_checkpoint else Break.CHECKPOINT_COUNT

    def _purge(self, event: AuditEvent, head: Head, keyring: Mapping[str, Ed25519PublicKey]) -> Break | None:
        said = _Metadata(event)
        key = keyring.get(said.text("key_id"))
        last_hash = said.text("last_purged_hash")
        text = _purge_text(last_hash, said.text("purged_before"), said.number("retained_count"))
        if key is None or not _signed(key, text, said.text("signature")):
            return Break.PURGE_SIGNATURE
        if last_hash == head.first_prev_hash:
            self.boundary_proven = True
        return None


def metadata_of(event: AuditEvent) -> dict[str, Any]:
    """An event's metadata, read without trust: empty when it is not a JSON object."""
    try:
        found: Any = json.loads(event.metadata_json)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


class _Metadata:
    """What an event's metadata says: whatever is missing or odd becomes a value that proves nothing."""

    def __init__(self, event: AuditEvent) -> None:
        self._found = metadata_of(event)

    def text(self, key: str) -> str:
        value = self._found.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int:
        value = self._found.get(key)
        return value if type(value) is int else -1
