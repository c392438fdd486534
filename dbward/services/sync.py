"""Making the state what the configuration says: its users, their tokens, the queues of its databases.

Done at start and at each reload, in the transaction that puts the configuration's digest on the record.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime

from dbward import ids
from dbward.broker import store as broker
from dbward.broker.names import job_queue
from dbward.db import identities, meta
from dbward.db.engine import Tx
from dbward.db.rows import UserRow
from dbward.domain.model import SYSTEM, Event
from dbward.errors import Misconfigured
from dbward.runtime import Runtime
from dbward.services import outbox, people
from dbward.services.identity import AGENT_ROLE
from dbward.services.journal import record
from dbward.settings import sections
from dbward.settings.sections import Change
from dbward.settings.server_access import ConfiguredUser

CHANNEL = "config"
"""Woken when a configuration was synced: other servers on the same state read their files again."""
NOT_CONFIGURED = "not in the configuration any more"


def sync(rt: Runtime, tx: Tx, changes: Sequence[Change] = ()) -> str | None:
    """Make the state what `rt.settings` says; the digest of what it said before, None the first time.

    `changes` go on the record, as names. Raises `Misconfigured` when a configured token cannot be used, or when nobody
    would be left who may administrate.
    """
    _sync_users(rt, tx)
    _refuse_without_admin(rt, tx)
    outbox.cancel_removed(rt, tx)
    broker.ensure_job_queues(tx, [job_queue(target) for target in rt.settings.policy.targets])
    digest, before = rt.settings.config_digest, meta.get(tx.conn, meta.CONFIG_DIGEST)
    meta.put(tx, meta.CONFIG_DIGEST, digest)
    facts = {
        "digest": digest,
        "digest_before": before,
        "pid": os.getpid(),
        "summary": sections.counts(rt.settings),
        "changes": [asdict(change) for change in changes],
    }
    record(rt, tx, Event.CONFIG_SYNCED, actor=SYSTEM, metadata=facts)
    tx.wake(CHANNEL)
    return before


def _refuse_without_admin(rt: Runtime, tx: Tx) -> None:
    """A mistake in the file must not lock everybody out: only an administrator could let anybody in again."""
    oidc = rt.settings.oidc
    if oidc is not None and any(mapping.role == people.ADMIN for mapping in oidc.role_mappings):
        return
    if not any(people.is_admin(rt, user) for user in identities.all_users(tx.conn)):
        raise Misconfigured(
            "no active user would have the role `admin`, directly or through a group",
            code="config.no_admin",
            hint="give it to somebody in [[auth.users]]; at start, --force-bootstrap brings the first one back",
        )


def _sync_users(rt: Runtime, tx: Tx) -> None:
    """Make the configured users and their tokens what the file says; one that is gone from the file is suspended."""
    now = rt.now()
    wanted = {user.id: user for user in rt.settings.users}
    for row in identities.users_from(tx.conn, "config"):
        if row.id not in wanted and row.status == "active":
            _suspend(rt, tx, row)
    kept = set()
    for user in wanted.values():
        before = identities.find_user(tx.conn, user.id)
        if (taken := _taken(tx, user.id, before)) is not None:
            raise Misconfigured(f"[[auth.users]] {user.id}: {taken}", hint="use another id")
        people.save(rt, tx, _as_configured(user, before, now), before, actor=SYSTEM)
        if user.token is not None:
            kept.add(_sync_token(rt, tx, user.id, user.token.reveal()))
    for token in identities.of_kind(tx.conn, "config"):
        # Of a suspended user it is worth nothing, and good again when the user comes back with it.
        if token.revoked_at is None and token.hash not in kept and token.subject_id in wanted:
            identities.revoke(tx, token.id, now)
            record(rt, tx, Event.TOKEN_REVOKED, actor=SYSTEM, resource=("token", token.id), reason=NOT_CONFIGURED)


def issue(
    rt: Runtime, tx: Tx, plaintext: str, subject_type: str, subject_id: str, *, kind: str, ceiling: list[str] | None
) -> None:
    """Make a token that no person asked for: a first one, or one of the configuration."""
    row = identities.new_token(
        plaintext,
        subject_type=subject_type,
        subject_id=subject_id,
        kind=kind,
        name=f"{kind}-{subject_id}",
        ceiling=ceiling,
        now=rt.now(),
    )
    identities.add_token(tx, row)
    facts = {
        "issued_by": SYSTEM.subject,
        "issued_for": row.subject_id,
        "scope_ceiling": row.ceiling or ([AGENT_ROLE] if row.subject_type == "agent" else None),
    }
    record(rt, tx, Event.TOKEN_CREATED, actor=SYSTEM, resource=("token", row.id), metadata=facts)


def _taken(tx: Tx, user_id: str, before: UserRow | None) -> str | None:
    """Why the id cannot be this user's, or None."""
    if before is None:
        return "an agent goes by this name" if identities.is_agent(tx.conn, user_id) else None
    if before.deleted_at is not None:
        return "a user of this name was deleted"
    if before.source != "config":
        return "a user of this name exists and does not come from the configuration"
    return None


def _as_configured(user: ConfiguredUser, before: UserRow | None, now: datetime) -> UserRow:
    """The user as the file says, beside what it says nothing about. Whom a person has suspended stays so."""
    if before is None:
        return UserRow(user.id, list(user.roles), list(user.groups), "active", "config", now, now)
    given = replace(before, roles=list(user.roles), groups=list(user.groups), updated_at=now)
    if before.suspended_by in (None, SYSTEM.subject):
        given = replace(given, status="active", suspended_by=None)
    return given


def _suspend(rt: Runtime, tx: Tx, user: UserRow) -> None:
    """With what the user has going: their own tokens, and open requests. One in the file is good again with them."""
    gone = replace(user, status="suspended", suspended_by=SYSTEM.subject, updated_at=rt.now())
    people.save(rt, tx, gone, user, actor=SYSTEM, reason=NOT_CONFIGURED)
    people.shut_out(rt, tx, user.id, kinds=people.OWN_TOKENS, actor=SYSTEM, reason=NOT_CONFIGURED)


def _sync_token(rt: Runtime, tx: Tx, user_id: str, plaintext: str) -> str:
    """Make sure the configured token is valid for the user; returns its hash."""
    digest = ids.token_hash(plaintext)
    existing = identities.token_by_hash(tx.conn, digest)
    if existing is None:
        issue(rt, tx, plaintext, "user", user_id, kind="config", ceiling=None)
    elif existing.subject_id != user_id or existing.kind != "config" or existing.revoked_at is not None:
        raise Misconfigured(
            f"[[auth.users]] {user_id}: its token was revoked, or belongs to somebody else",
            code="config.token_unusable",
            hint="generate a new one",
        )
    return digest
