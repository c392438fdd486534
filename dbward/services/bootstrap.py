"""Preparing the state before a server starts: schema, keys, first tokens, and the users of the configuration.

Runs in a process of its own before the server's, so it opens the database and closes it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from dbward import ids, keys
from dbward.db import audit, identities
from dbward.db.engine import Tx, open_store
from dbward.db.migrations import migrate
from dbward.db.rows import TokenRow, UserRow
from dbward.domain.audit import sign_head
from dbward.domain.model import SYSTEM, Event
from dbward.errors import Misconfigured
from dbward.runtime import Runtime, open_runtime, utc_now
from dbward.services import outbox, people
from dbward.services.identity import AGENT_ROLE
from dbward.services.journal import record
from dbward.settings.server import ServerSettings
from dbward.settings.server_access import ConfiguredUser

ADMIN_TOKEN = "admin-token"  # noqa: S105 - a file's name
AGENT_TOKEN = "agent-token"  # noqa: S105
REQUESTER_TOKEN = "requester-token"  # noqa: S105

NOT_CONFIGURED = "not in the configuration any more"
_FILES = {"user": (ADMIN_TOKEN, REQUESTER_TOKEN), "agent": (AGENT_TOKEN,)}
_ADMIN_ROLES = ["admin", "requester"]


def prepare(settings: ServerSettings, *, force_bootstrap: bool = False, now: Callable[[], datetime] = utc_now) -> bool:
    """Bring `state_dir` and its database up to date; True when the bootstrap tokens were made now.

    Whatever exists already (keys, token files) is kept. Raises `Misconfigured` for a state that does not fit together.
    """
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    migrate(settings.state)
    if (missing := keys.missing(settings.state_dir)) and _is_signed(settings):
        raise Misconfigured(
            f"{', '.join(missing)} missing in {settings.state_dir}, but the state database was signed with it",
            code="key.missing",
            hint="restore it from the backup of state_dir, or copy it from the server that shares the database",
        )
    keys.create_missing(settings.state_dir, now())
    rt = open_runtime(settings, now=now)
    try:
        rt.store.write(lambda tx: _begin_audit(rt, tx))
        made = _bootstrap(rt, force=force_bootstrap)
        rt.store.write(lambda tx: _sync(rt, tx))
    finally:
        rt.close()
    return made


def _is_signed(settings: ServerSettings) -> bool:
    """Whether the database holds an audit log already."""
    store = open_store(settings.state, on_wake=lambda _: None)
    try:
        with store.read() as conn:
            return audit.tail(conn) is not None
    finally:
        store.close()


def _begin_audit(rt: Runtime, tx: Tx) -> None:
    if audit.tail(tx.conn) is None:
        audit.begin(tx, sign_head(rt.keys.audit, 0, None), rt.now())


def _bootstrap(rt: Runtime, *, force: bool) -> bool:
    """Make the first tokens unless there were any: whoever revokes them does not find new ones after a restart.

    The files are written before the commit: a crash between the two leaves files whose tokens were never valid, and the
    next start finds none in the database and writes them anew.
    """
    state_dir = rt.settings.state_dir
    with rt.store.read() as conn:
        made = identities.of_kind(conn, "bootstrap")
    existing = [row for row in made if row.revoked_at is None]
    if made and not force:
        wanted = {name for row in existing for name in _FILES[row.subject_type]}
        missing = sorted(name for name in wanted if not (state_dir / name).exists())
        if missing:
            raise Misconfigured(
                f"{', '.join(missing)} missing in {state_dir}, but the tokens exist",
                code="bootstrap.incomplete",
                hint="restore the file, or run once with --force-bootstrap to revoke them and make new ones",
            )
        return False
    admin, agent = ids.new_token(), ids.new_token()
    for kind, token in (("user", admin), ("agent", agent)):
        for name in _FILES[kind]:
            keys.replace_file(state_dir / name, token.encode())  # what it held is not, or no longer, valid

    def work(tx: Tx) -> None:
        now = rt.now()
        for row in existing:
            identities.revoke(tx, row.id, now)
            record(rt, tx, Event.TOKEN_REVOKED, actor=SYSTEM, resource=("token", row.id), reason="--force-bootstrap")
        before = identities.find_user(tx.conn, "admin")
        known = before or UserRow("admin", [], [], "active", "bootstrap", now, now)
        admin_user = replace(
            known,
            roles=_ADMIN_ROLES,
            groups=[],
            status="active",
            source="bootstrap",
            updated_at=now,
            suspended_by=None,
            deleted_at=None,
        )
        people.save(rt, tx, admin_user, before, actor=SYSTEM)
        _issue(rt, tx, _token("user", "admin", admin, "bootstrap", _ADMIN_ROLES, now))
        _issue(rt, tx, _token("agent", "agent", agent, "bootstrap", None, now))

    rt.store.write(work)
    return True


def _token(
    subject_type: str, subject_id: str, plaintext: str, kind: str, ceiling: list[str] | None, now: datetime
) -> TokenRow:
    return TokenRow(
        id=ids.new_id(),
        subject_type=subject_type,
        subject_id=subject_id,
        prefix=ids.token_prefix(plaintext),
        hash=ids.token_hash(plaintext),
        name=f"{kind}-{subject_id}",
        kind=kind,
        ceiling=ceiling,
        scopes=None,
        expires_at=None,
        created_at=now,
        revoked_at=None,
    )


def _issue(rt: Runtime, tx: Tx, row: TokenRow) -> None:
    identities.add_token(tx, row)
    facts = {
        "issued_by": SYSTEM.subject,
        "issued_for": row.subject_id,
        "scope_ceiling": row.ceiling or ([AGENT_ROLE] if row.subject_type == "agent" else None),
    }
    record(rt, tx, Event.TOKEN_CREATED, actor=SYSTEM, resource=("token", row.id), metadata=facts)


def _sync(rt: Runtime, tx: Tx) -> None:
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
            kept.add(_sync_token(rt, tx, user.id, user.token.reveal(), now))
    for token in identities.of_kind(tx.conn, "config"):
        # Of a suspended user it is worth nothing, and good again when the user comes back with it.
        if token.revoked_at is None and token.hash not in kept and token.subject_id in wanted:
            identities.revoke(tx, token.id, now)
            record(rt, tx, Event.TOKEN_REVOKED, actor=SYSTEM, resource=("token", token.id), reason=NOT_CONFIGURED)
    outbox.cancel_removed(rt, tx)
    facts = {"digest": rt.settings.config_digest, "pid": os.getpid()}
    record(rt, tx, Event.CONFIG_SYNCED, actor=SYSTEM, metadata=facts)


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


def _sync_token(rt: Runtime, tx: Tx, user_id: str, plaintext: str, now: datetime) -> str:
    """Make sure the configured token is valid for the user; returns its hash."""
    digest = ids.token_hash(plaintext)
    existing = identities.token_by_hash(tx.conn, digest)
    if existing is None:
        _issue(rt, tx, _token("user", user_id, plaintext, "config", None, now))
    elif existing.subject_id != user_id or existing.kind != "config" or existing.revoked_at is not None:
        raise Misconfigured(
            f"[[auth.users]] {user_id}: its token was revoked, or belongs to somebody else",
            code="config.token_unusable",
            hint="generate a new one",
        )
    return digest
