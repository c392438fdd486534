"""Searching and verifying the audit log, and the anchor that lets a verification notice an older copy put back."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

from dbward import keys
from dbward.client.shapes import AUDIT_PAGE_MAX, OFFSET_MAX, AuditFilter
from dbward.db import audit
from dbward.db.engine import Connection, Tx
from dbward.domain import rbac
from dbward.domain.audit import Head, purge_metadata, stamp, verify_chain, verify_head
from dbward.domain.model import Event, Permission, Principal
from dbward.runtime import Runtime
from dbward.services.journal import record_info
from dbward.services.views import View, check_time

log = logging.getLogger(__name__)

ANCHOR = "audit-anchor.json"
_COLUMNS = {
    "actor_id": "actor_id",
    "event_type": "event_type",
    "event_category": "event_category",
    "outcome": "outcome",
    "database": "database_name",
    "environment": "environment",
    "operation": "operation",
    "request_id": "request_id",
}


def search(rt: Runtime, who: Principal, wanted: AuditFilter) -> View:
    """One page of events, newest first, with the number that match. Raises `Refused`, `Invalid`."""
    if (refusal := rbac.refuse(who, Permission.AUDIT_READ, target=None, owner=None)) is not None:
        raise refusal
    since, until = check_time(wanted.since, "since"), check_time(wanted.until, "until")
    equal = {column: str(value) for key, column in _COLUMNS.items() if (value := getattr(wanted, key)) is not None}
    criteria = audit.Search(
        equal=equal,
        since=stamp(since) if since is not None else None,
        until=stamp(until) if until is not None else None,
    )
    limit = min(wanted.limit, AUDIT_PAGE_MAX)
    with rt.store.read() as conn:
        rows, total = audit.search(conn, criteria, limit=limit, offset=min(wanted.offset, OFFSET_MAX))
    return {"events": [_view(row) for row in rows], "total": total, "limit": limit, "offset": wanted.offset}


def _view(row: dict[str, Any]) -> View:
    shown = {name: value for name, value in row.items() if name not in {"seq", "chain_version"}}
    shown["metadata"] = json.loads(row["metadata_json"])
    return shown


def verify(rt: Runtime, who: Principal) -> View:
    """Read the whole chain and say whether it holds: links, hashes, checkpoints, the signed head and the anchor.

    Runs on a reader's snapshot: appends go on meanwhile. Raises `Refused`.
    """
    if (refusal := rbac.refuse(who, Permission.AUDIT_READ, target=None, owner=None)) is not None:
        raise refusal
    anchor = _read_anchor(rt.settings.state_dir)  # before the snapshot: it may only be older than what is read then
    with rt.store.read() as conn:
        head = audit.head(conn)
        verdict = verify_chain(audit.links(conn, head.seq if head is not None else 0), head, rt.keys.audit_keyring)
        reason: str | None = verdict.reason
        if verdict.valid and head is not None:
            if audit.beyond(conn, head.seq):
                reason = "events_beyond_head"
            elif anchor is not None:
                reason = _contradiction(rt, conn, head, anchor)
    return {
        "total_events": verdict.total_events,
        "first_broken_id": verdict.first_broken_id,
        "valid": verdict.valid and reason is None,
        "reason": reason,
        "checkpoints": verdict.checkpoints,
    }


def write_anchor(rt: Runtime) -> None:
    """Keep the signed head in a file beside the database: an older copy of the database contradicts it.

    One that does contradict it is left as it is: it is the evidence, until somebody who knows why removes it.
    """
    before = _read_anchor(rt.settings.state_dir)
    with rt.store.read() as conn:
        head = audit.head(conn)
        if head is None or head.seq == 0 or (before is not None and before.seq == head.seq):
            return
        found = _contradiction(rt, conn, head, before) if before is not None else None
    if found is not None:
        log.error("the audit log does not continue what %s stands for: %s", ANCHOR, found)
        return
    text = json.dumps({"seq": head.seq, "hash": head.hash, "signature": head.signature})
    keys.replace_file(rt.settings.state_dir / ANCHOR, text.encode())


def _contradiction(rt: Runtime, conn: Connection, head: Head, anchor: Head) -> str | None:
    """Why this chain cannot be the one the anchor was taken of; None when it may well be."""
    if not verify_head(rt.keys.audit_keyring.values(), anchor.seq, anchor.hash, anchor.signature):
        return "anchor_mismatch"
    if head.seq < anchor.seq:
        return "older_than_anchor"
    purged = anchor.seq < head.first_seq
    return None if purged or audit.hash_at(conn, anchor.seq) == anchor.hash else "anchor_mismatch"


def _read_anchor(state_dir: Path) -> Head | None:
    try:
        said = json.loads((state_dir / ANCHOR).read_bytes())
        return Head(int(said["seq"]), str(said["hash"]), str(said["signature"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return Head(0, None, "")  # a damaged anchor is signed by nobody


def purge(rt: Runtime, older_than: timedelta) -> bool:
    """Delete the events up to the newest checkpoint older than that; a signed event vouches for the new beginning."""
    cutoff = stamp(rt.now() - older_than)

    def work(tx: Tx) -> bool:
        found = audit.last_checkpoint_before(tx.conn, cutoff)
        head = audit.head(tx.conn)
        if found is None or head is None or found[0] < head.first_seq:
            return False
        seq, last_hash = found
        audit.cut(tx, seq, last_hash)
        said = purge_metadata(
            rt.keys.audit,
            rt.keys.audit_key_id,
            last_purged_hash=last_hash,
            purged_before=cutoff,
            retained_count=head.seq - seq,
        )
        record_info(rt, tx, Event.AUDIT_PURGE_CHECKPOINT, said)
        return True

    return rt.store.write(work)
