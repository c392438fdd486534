"""Searching and verifying the audit log, and the anchor that lets a verification notice an older copy put back."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from dbward.client.shapes import AUDIT_PAGE_MAX, AuditFilter
from dbward.db import audit
from dbward.db.engine import Tx
from dbward.domain import rbac
from dbward.domain.audit import purge_metadata, stamp, verify_chain, verify_head
from dbward.domain.model import Event, Permission, Principal
from dbward.errors import Invalid
from dbward.runtime import Runtime
from dbward.services.journal import record_info
from dbward.services.views import View

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
    for at in (wanted.since, wanted.until):
        if at is not None and at.tzinfo is None:
            raise Invalid("since and until must name their offset from UTC", hint="for example 2026-05-01T00:00:00Z")
    equal = {column: str(value) for key, column in _COLUMNS.items() if (value := getattr(wanted, key)) is not None}
    criteria = audit.Search(
        equal=equal,
        since=stamp(wanted.since) if wanted.since is not None else None,
        until=stamp(wanted.until) if wanted.until is not None else None,
    )
    limit = min(wanted.limit, AUDIT_PAGE_MAX)
    with rt.store.read() as conn:
        rows, total = audit.search(conn, criteria, limit=limit, offset=wanted.offset)
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
    with rt.store.read() as conn:
        head = audit.head(conn)
        verdict = verify_chain(audit.links(conn, head.seq if head is not None else 0), head, rt.keys.audit_keyring)
        reason: str | None = verdict.reason
        if verdict.valid and head is not None:
            anchor = _read_anchor(rt.settings.state_dir)
            if audit.beyond(conn, head.seq):
                reason = "events_beyond_head"
            elif anchor is not None and head.seq < anchor["seq"]:
                reason = "older_than_anchor"
            elif anchor is not None and anchor["seq"] >= head.first_seq:
                signed = verify_head(rt.keys.audit_keyring.values(), anchor["seq"], anchor["hash"], anchor["signature"])
                if not signed or audit.hash_at(conn, anchor["seq"]) != anchor["hash"]:
                    reason = "anchor_mismatch"
    return {
        "total_events": verdict.total_events,
        "first_broken_id": verdict.first_broken_id,
        "valid": verdict.valid and reason is None,
        "reason": reason,
        "checkpoints": verdict.checkpoints,
    }


def write_anchor(rt: Runtime) -> None:
    """Keep the signed head in a file beside the database: an older copy of the database contradicts it."""
    with rt.store.read() as conn:
        head = audit.head(conn)
    if head is None or head.seq == 0:
        return
    path = rt.settings.state_dir / ANCHOR
    draft = path.with_name(f".{ANCHOR}.{os.getpid()}")
    draft.write_text(json.dumps({"seq": head.seq, "hash": head.hash, "signature": head.signature}))
    draft.replace(path)


def _read_anchor(state_dir: Path) -> dict[str, Any] | None:
    try:
        anchor = json.loads((state_dir / ANCHOR).read_bytes())
        return {"seq": int(anchor["seq"]), "hash": str(anchor["hash"]), "signature": str(anchor["signature"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return {"seq": 2**62, "hash": "", "signature": ""}  # a damaged anchor proves nothing good


def purge(rt: Runtime, older_than: timedelta) -> bool:
    """Delete the events up to the newest checkpoint older than that; a signed event vouches for the new beginning."""
    cutoff = stamp(rt.now() - older_than)

    def work(tx: Tx) -> bool:
        found = audit.last_checkpoint_before(tx.conn, cutoff)
        head = audit.head(tx.conn)
        if found is None or head is None or found.seq < head.first_seq:
            return False
        audit.cut(tx, found.seq, found.event_hash)
        said = purge_metadata(
            rt.keys.audit,
            rt.keys.audit_key_id,
            last_purged_hash=found.event_hash,
            purged_before=cutoff,
            retained_count=head.seq - found.seq,
        )
        record_info(rt, tx, Event.AUDIT_PURGE_CHECKPOINT, said)
        return True

    return rt.store.write(work)
