"""`/api/audit`."""

from __future__ import annotations

from typing import Any, Literal

from dbward.client.answers.base import Answer, Count, Time


class Event(Answer):
    """One event of the record. `metadata` is what `metadata_json`, the very text that is hashed, holds."""

    seq: Count
    id: str
    event_type: str
    event_category: str
    event_version: int
    outcome: str
    actor_id: str
    actor_type: str
    resource_type: str | None
    resource_id: str | None
    peer_ip: str | None
    client_ip: str | None
    client_ip_source: str | None
    request_id: str | None
    operation: str | None
    database_name: str | None
    environment: str | None
    detail_fingerprint: str | None
    detail_raw: str | None
    reason: str | None
    metadata_json: str
    metadata: dict[str, Any]
    prev_hash: str | None
    event_hash: str
    created_at: Time


class Events(Answer):
    """One page, newest first. `total` is counted up to 10,000; when there are more, `total_is_exact` is false."""

    events: list[Event]
    total: Count
    total_is_exact: bool
    limit: Count
    offset: Count


class Verdict(Answer):
    """`total_events` were read. `first_broken_id` is null too when no single event is wrong: an end is missing."""

    total_events: Count
    first_broken_id: str | None
    valid: bool
    reason: (
        Literal[
            "sequence_gap",
            "prev_hash_mismatch",
            "hash_mismatch",
            "unknown_chain_version",
            "checkpoint_head_mismatch",
            "checkpoint_count_mismatch",
            "checkpoint_signature_invalid",
            "purge_signature_invalid",
            "purge_boundary_unauthenticated",
            "head_missing",
            "head_signature_invalid",
            "tail_missing",
            "events_beyond_head",
            "older_than_anchor",
            "anchor_mismatch",
        ]
        | None
    )
    checkpoints: Count
