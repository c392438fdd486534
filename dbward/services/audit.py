"""Searching and verifying the audit log, and the anchor that lets a verification notice an older copy put back."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

from dbward import keys
from dbward.client.shapes import AUDIT_COUNT_MAX, AUDIT_OFFSET_MAX, AUDIT_PAGE_MAX, AuditFilter, AuditMatch
from dbward.db import audit
from dbward.db.engine import Connection, Tx
from dbward.domain.audit import (
    AuditEvent,
    Break,
    Head,
    Link,
    metadata_of,
    purge_metadata,
    stamp,
    verify_chain,
    verify_head,
)
from dbward.domain.model import Event, Permission, Principal
from dbward.errors import Invalid, RateLimited, Unavailable
from dbward.runtime import Runtime
from dbward.services import access
from dbward.services.journal import record_info
from dbward.services.views import View, check_time

log = logging.getLogger(__name__)

ANCHOR = "audit-anchor.json"
_ATTEMPTS: Final = 3
_COLUMNS = {"database": "database_name"}
"""Filters that are called otherwise than their column."""


class PurgedMeanwhile(Unavailable):
    """Events were purged before their turn to be read came."""

    code = "audit.purged_meanwhile"


def search(rt: Runtime, who: Principal, wanted: AuditFilter) -> View:
    """One page of events, newest first, with the number that match. Raises `Refused`, `Invalid`."""
    access.check(who, Permission.AUDIT_READ)
    matching = criteria(wanted, before_seq=wanted.before_seq)
    if wanted.offset > AUDIT_OFFSET_MAX:
        hint = "go on from the last event of a page with before_seq, or export"
        raise Invalid(f"offset is at most {AUDIT_OFFSET_MAX}", hint=hint)
    limit = min(wanted.limit, AUDIT_PAGE_MAX)
    with rt.store.read() as conn:
        found = audit.search(conn, matching, limit=limit, offset=wanted.offset)
        total = audit.count(conn, matching, most=AUDIT_COUNT_MAX + 1)
    return {
        "events": [_view(link) for link in found],
        "total": min(total, AUDIT_COUNT_MAX),
        "total_is_exact": total <= AUDIT_COUNT_MAX,
        "limit": limit,
        "offset": wanted.offset,
    }


def criteria(wanted: AuditMatch, *, before_seq: int | None = None) -> audit.Search:
    """What to look for. Raises `Invalid` when the times cannot be read or `status` contradicts `outcome`."""
    since, until = check_time(wanted.since, "since"), check_time(wanted.until, "until")
    said = wanted.model_dump(include=set(AuditMatch.model_fields) - {"since", "until"}, exclude_none=True)
    if (status := said.pop("status", None)) is not None and said.setdefault("outcome", status) != status:
        raise Invalid("status is another name of outcome, and they differ")
    return audit.Search(
        equal={_COLUMNS.get(name, name): value for name, value in said.items()},
        since=stamp(since) if since is not None else None,
        until=stamp(until) if until is not None else None,
        before_seq=before_seq,
    )


def _view(link: Link) -> View:
    event = {name: getattr(link.event, name) for name in AuditEvent.__slots__}
    event["created_at"] = link.event.created_at.replace("+00:00", "Z")  # as every other time of the API
    return {"seq": link.seq, **event, "metadata": metadata_of(link.event), "event_hash": link.event_hash}


def walk(rt: Runtime, wanted: audit.Search, head: Head) -> Iterator[list[Link]]:
    """The matching events up to `head`, oldest first, page by page.

    Each page is read in a transaction of its own, so that nothing is held while the caller works on it; rows that are
    there never change, so the pages fit together. Raises `PurgedMeanwhile`.
    """
    after = 0
    while True:
        with rt.store.read() as conn:
            now = audit.head(conn)
            if now is not None and now.first_seq > max(after + 1, head.first_seq):
                raise PurgedMeanwhile("old events were purged while the record was read", hint="try again")
            links = audit.page(conn, wanted, after=after, upto=head.seq)
        if not links:
            return
        yield links
        after = links[-1].seq


def verify(rt: Runtime, who: Principal) -> View:
    """Read the whole chain and say whether it holds: links, hashes, checkpoints, the signed head and the anchor.

    What is appended meanwhile is not waited for, and nothing waits for this. One at a time in each server, for it
    keeps a core busy. Raises `Refused`, `RateLimited`, `PurgedMeanwhile`.
    """
    access.check(who, Permission.AUDIT_READ)
    if not rt.verifying.acquire(blocking=False):
        raise RateLimited("the record is being verified already", code="audit.verifying", hint="wait for that one")
    try:
        return examine(rt)
    finally:
        rt.verifying.release()


def examine(rt: Runtime) -> View:
    """As `verify`, for who needs no permission: whoever has the state in hand."""
    anchor = _read_anchor(rt.settings.state_dir)  # before the head: it may only be older than what is read then
    for attempt in range(1, _ATTEMPTS + 1):
        with rt.store.read() as conn:
            head = audit.head(conn)
        links = (link for page in walk(rt, audit.EVERYTHING, head) for link in page) if head is not None else ()
        try:
            verdict = verify_chain(links, head, rt.keys.audit_keyring)
            break
        except PurgedMeanwhile:  # the rest begins later now: read it from there
            if attempt == _ATTEMPTS:
                raise
    reason: str | None = verdict.reason
    if verdict.valid and head is not None:
        with rt.store.read() as conn:
            reason = _wrong_end(rt, conn, head, anchor)
    return {
        "total_events": verdict.total_events,
        "first_broken_id": verdict.first_broken_id,
        "valid": reason is None,
        "reason": reason,
        "checkpoints": verdict.checkpoints,
    }


def _wrong_end(rt: Runtime, conn: Connection, verified: Head, anchor: Head | None) -> str | None:
    """What contradicts a chain that holds up to `verified`: where it ends now, rows behind its end, or the anchor."""
    head = audit.head(conn)
    if head is None:
        return Break.HEAD_MISSING
    if not verify_head(rt.keys.audit_keyring.values(), head.seq, head.hash, head.signature):
        return Break.HEAD_SIGNATURE
    if head.seq < verified.seq:
        return Break.TAIL
    if audit.beyond(conn, head.seq):
        return Break.BEYOND_HEAD
    return _contradiction(rt, conn, head, anchor) if anchor is not None else None


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
