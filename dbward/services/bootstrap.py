"""Preparing the state before a server starts: schema, keys, first tokens, and the users of the configuration.

Runs in a process of its own before the server's, so it opens the database and closes it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from dbward import ids, keys
from dbward.db import audit, identities, requests
from dbward.db.engine import Tx, open_store
from dbward.db.migrations import migrate
from dbward.db.rows import TokenRow, UserRow
from dbward.domain.audit import sign_head
from dbward.domain.model import SYSTEM, Event
from dbward.domain.states import CANCELLABLE
from dbward.errors import Misconfigured
from dbward.runtime import Runtime, open_runtime, utc_now
from dbward.services.identity import AGENT_ROLE
from dbward.services.journal import record
from dbward.services.requests import cancel_row
from dbward.settings.server import ServerSettings

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
    """Make the first tokens unless they exist.

    The files are written before the commit: a crash between the two leaves files whose tokens were never valid, and the
    next start finds none in the database and writes them anew.
    """
    state_dir = rt.settings.state_dir
    with rt.store.read() as conn:
        existing = identities.active_of_kind(conn, "bootstrap")
    if existing and not force:
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
        _save_user(
            rt, tx, _as_given(before, UserRow("admin", _ADMIN_ROLES, [], "active", "bootstrap", now, now)), before
        )
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


def _as_given(before: UserRow | None, given: UserRow) -> UserRow:
    """The user as given, with what is known beyond that, such as when they were last seen."""
    if before is None:
        return given
    return replace(
        before,
        roles=given.roles,
        groups=given.groups,
        status=given.status,
        source=given.source,
        updated_at=given.updated_at,
        deleted_at=None,
    )


def _save_user(rt: Runtime, tx: Tx, row: UserRow, before: UserRow | None = None) -> None:
    """Store the user as `row`, and put on the record what that changes."""
    event = _change(before, row)
    if event is None:
        return
    identities.save_user(tx, row)
    facts = {"roles": row.roles, "groups": row.groups, "source": row.source}
    if before is not None:
        facts |= {"roles_before": before.roles, "groups_before": before.groups}
    record(rt, tx, event, actor=SYSTEM, resource=("user", row.id), metadata=facts)


def _change(before: UserRow | None, row: UserRow) -> Event | None:
    if before is None:
        return Event.USER_CREATED
    if before.status != row.status:
        return Event.USER_ACTIVATED if row.status == "active" else Event.USER_SUSPENDED
    same = (before.roles, before.groups) == (row.roles, row.groups)
    return None if same else Event.USER_UPDATED


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
        if before is not None and before.source != "config":
            raise Misconfigured(
                f"[[auth.users]] {user.id}: a user of this name exists and does not come from the configuration",
                hint="use another id",
            )
        given = UserRow(user.id, list(user.roles), list(user.groups), "active", "config", now, now)
        _save_user(rt, tx, _as_given(before, given), before)
        if user.token is not None:
            kept.add(_sync_token(rt, tx, user.id, user.token.reveal(), now))
    for token in identities.active_of_kind(tx.conn, "config"):
        # Of a suspended user it is worth nothing, and good again when the user comes back with it.
        if token.hash not in kept and token.subject_id in wanted:
            identities.revoke(tx, token.id, now)
            record(rt, tx, Event.TOKEN_REVOKED, actor=SYSTEM, resource=("token", token.id), reason=NOT_CONFIGURED)
    facts = {"digest": rt.settings.config_digest, "pid": os.getpid()}
    record(rt, tx, Event.CONFIG_SYNCED, actor=SYSTEM, metadata=facts)


def _suspend(rt: Runtime, tx: Tx, user: UserRow) -> None:
    """With what the user has going: tokens of their own making, and open requests."""
    now = rt.now()
    _save_user(rt, tx, replace(user, status="suspended", updated_at=now), user)
    for token_id in identities.revoke_issued(tx, user.id, now):
        record(rt, tx, Event.TOKEN_REVOKED, actor=SYSTEM, resource=("token", token_id), reason=NOT_CONFIGURED)
    for request_id in requests.of_requester(tx.conn, user.id, CANCELLABLE):
        cancel_row(rt, tx, requests.lock(tx, request_id), actor=SYSTEM, reason=f"its requester is {NOT_CONFIGURED}")


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
