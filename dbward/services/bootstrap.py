"""Preparing the state before a server starts: schema, keys, first tokens, and the users of the configuration.

Runs in a process of its own before the server's, so it opens the database and closes it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from dbward import ids, keys
from dbward.db import audit, identities
from dbward.db.engine import Tx, open_store
from dbward.db.migrations import migrate
from dbward.db.rows import TokenRow, UserRow
from dbward.domain.audit import Head, sign_head, verify_head
from dbward.domain.model import SYSTEM, Event
from dbward.errors import Misconfigured
from dbward.runtime import Runtime, open_runtime, utc_now
from dbward.services import people
from dbward.services.journal import record
from dbward.services.sync import issue, sync
from dbward.settings.secret import Secret
from dbward.settings.server import ServerSettings

log = logging.getLogger(__name__)

ADMIN_TOKEN = "admin-token"  # noqa: S105 - a file's name
AGENT_TOKEN = "agent-token"  # noqa: S105
REQUESTER_TOKEN = "requester-token"  # noqa: S105

_FILES = {"user": (ADMIN_TOKEN, REQUESTER_TOKEN), "agent": (AGENT_TOKEN,)}
_ADMIN_ROLES = ["admin", "requester"]


def prepare(settings: ServerSettings, *, force_bootstrap: bool = False, now: Callable[[], datetime] = utc_now) -> bool:
    """Bring `state_dir` and its database up to date; True when the bootstrap tokens were made now.

    Whatever exists already (keys, token files) is kept. Raises `Misconfigured` for a state that does not fit together.
    """
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    migrate(settings.state)
    if (seed := settings.state.key_seed) is not None:
        keys.create_seeded(settings.state_dir, seed)
    else:
        _create_keys(settings, now)
    rt = open_runtime(settings, now=now)
    try:
        rt.store.write(lambda tx: _begin_audit(rt, tx))
        first = _first_tokens(seed, force=force_bootstrap)
        made = rt.store.write(lambda tx: _bootstrap(rt, tx, first, force=force_bootstrap))
        _say_if_new(rt, rt.store.write(lambda tx: sync(rt, tx)))
    finally:
        rt.close()
    return made


def _create_keys(settings: ServerSettings, now: Callable[[], datetime]) -> None:
    if (missing := keys.missing(settings.state_dir)) and _is_signed(settings):
        raise Misconfigured(
            f"{', '.join(missing)} missing in {settings.state_dir}, but the state database was signed with it",
            code="key.missing",
            hint="restore it from the backup of state_dir, or copy it from the server that shares the database",
        )
    keys.create_missing(settings.state_dir, now())


def _say_if_new(rt: Runtime, before: str | None) -> None:
    """Servers that share a state should have one configuration: the newest wins, and the others say that they lag."""
    if rt.store.dialect == "postgresql" and before not in (None, rt.settings.config_digest):
        log.warning(
            "the configuration is not the one that was in force on this state; other servers on it keep theirs, "
            "and say so, until they have the same file",
            extra={"digest": rt.settings.config_digest[:12], "digest_before": (before or "")[:12]},
        )


def _is_signed(settings: ServerSettings) -> bool:
    """Whether the database holds an audit log already."""
    store = open_store(settings.state, on_wake=lambda _: None)
    try:
        with store.read() as conn:
            return audit.tail(conn) is not None
    finally:
        store.close()


def _begin_audit(rt: Runtime, tx: Tx) -> None:
    head = audit.head(tx.conn)
    if head is None:
        audit.begin(tx, sign_head(rt.keys.audit, 0, None), rt.now())
    elif rt.settings.state.key_seed is not None and not _signed_by_us(rt, head):
        raise Misconfigured(
            "the state database was signed with other keys than those that `[state] key_seed` stands for",
            code="key.mismatch",
            hint="give the seed that its first server was started with",
        )


def _signed_by_us(rt: Runtime, head: Head) -> bool:
    return verify_head(rt.keys.audit_keyring.values(), head.seq, head.hash, head.signature)


def _first_tokens(seed: Secret | None, *, force: bool) -> dict[str, str]:
    """The token to make for each type of subject. Those of the seed cannot take the place of themselves."""
    if seed is None or force:
        return {kind: ids.new_token() for kind in _FILES}
    return {kind: ids.token_of(keys.from_seed(seed, f"first {kind} token", ids.TOKEN_BYTES)) for kind in _FILES}


def _bootstrap(rt: Runtime, tx: Tx, first: Mapping[str, str], *, force: bool) -> bool:
    """Make the first tokens unless there were any: whoever revokes them does not find new ones after a restart.

    The files are written before the commit: a crash between the two leaves files whose tokens were never valid, and the
    next start finds none in the database and writes them anew.
    """
    state_dir = rt.settings.state_dir
    made = identities.of_kind(tx.conn, "bootstrap")
    existing = [row for row in made if row.revoked_at is None]
    if made and not force:
        missing = {
            name: row for row in existing for name in _FILES[row.subject_type] if not (state_dir / name).exists()
        }
        if rt.settings.state.key_seed is not None:
            _restore(rt, missing, first)
        elif missing:
            raise Misconfigured(
                f"{', '.join(sorted(missing))} missing in {state_dir}, but the tokens exist",
                code="bootstrap.incomplete",
                hint="restore the file, or run once with --force-bootstrap to revoke them and make new ones",
            )
        return False
    for kind, token in first.items():
        for name in _FILES[kind]:
            keys.replace_file(state_dir / name, token.encode())  # what it held is not, or no longer, valid
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
    issue(rt, tx, first["user"], "user", "admin", kind="bootstrap", ceiling=_ADMIN_ROLES)
    issue(rt, tx, first["agent"], "agent", "agent", kind="bootstrap", ceiling=None)
    return True


def _restore(rt: Runtime, missing: Mapping[str, TokenRow], first: Mapping[str, str]) -> None:
    """Write the files of tokens that the seed stands for; those that `--force-bootstrap` made are where it was run."""
    for name, row in missing.items():
        token = first[row.subject_type]
        if ids.token_hash(token) == row.hash:
            keys.replace_file(rt.settings.state_dir / name, token.encode())
