"""What the servers on one PostgreSQL state must have alike: their keys, and the place where results are kept.

The state remembers both. A server that differs is refused while others run; when it is alone it is what they were
before that has changed, and it says so.
"""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from dbward.db import audit, meta, servers
from dbward.db.engine import Tx
from dbward.domain.audit import verify_head
from dbward.errors import Misconfigured, Unavailable
from dbward.keys import write_private
from dbward.runtime import Runtime
from dbward.settings.server import ResultSettings

log = logging.getLogger(__name__)

MARK = ".dbward-results"
"""A file with an id of its own in a folder of results: servers that see the same one share the folder."""
_GONE_SECS: Final = 5
"""For how long one that has just ended may still seem to be there."""
_RETRY_SECS: Final = 0.2


def join(rt: Runtime) -> None:
    """Be one of the servers on the state. Raises `Misconfigured` beside others that have something else, and
    `Unavailable` when the folder of results cannot be used.
    """
    if rt.store.dialect != "postgresql":
        return
    place = _place(rt.settings.results)
    deadline = monotonic() + _GONE_SECS
    while (refusal := rt.store.write(lambda tx: _join(rt, tx, place))) is not None:
        if monotonic() > deadline:
            raise refusal
        sleep(_RETRY_SECS)


def _join(rt: Runtime, tx: Tx, place: str) -> Misconfigured | None:
    # Writes take turns, and whoever is here has entered before: of two that start together one sees the other.
    beside = servers.others(tx.conn, rt.store.id) > 0
    if beside and (refusal := _other_keys(rt, tx) or _other_place(rt, tx, place)) is not None:
        return refusal
    for key, value in ((meta.EXECUTION_KEY, rt.keys.execution_public_hex), (meta.RESULTS_PLACE, place)):
        known = meta.get(tx.conn, key)
        if known not in (None, value):
            log.warning("%s is another one than that of the servers before on this state", _NAMES[key])
        if known != value:
            meta.put(tx, key, value)
    return None


_NAMES = {
    meta.EXECUTION_KEY: "signing.key",
    meta.RESULTS_PLACE: "the place of the results, where earlier ones are not found,",
}


def _other_keys(rt: Runtime, tx: Tx) -> Misconfigured | None:
    head = audit.head(tx.conn)
    wrong = None
    if meta.get(tx.conn, meta.EXECUTION_KEY) not in (None, rt.keys.execution_public_hex):
        wrong = "signing.key"
    elif head is not None and not verify_head(rt.keys.audit_keyring.values(), head.seq, head.hash, head.signature):
        wrong = "audit-signing.key"
    if wrong is None:
        return None
    return Misconfigured(
        f"{wrong} in {rt.settings.state_dir} is not the one of the servers that run on this state",
        code="replica.other_keys",
        hint="give all of them the same [state] key_seed, or copy the keys of the first",
    )


def _other_place(rt: Runtime, tx: Tx, place: str) -> Misconfigured | None:
    if meta.get(tx.conn, meta.RESULTS_PLACE) in (None, place):
        return None
    results = rt.settings.results
    where = str(results.root_dir) if results.backend == "local" else f"S3, in {results.s3.bucket}"
    return Misconfigured(
        f"this server keeps results in {where}, and the servers that run on this state keep them elsewhere",
        code="replica.other_results",
        hint="give all of them one [result_storage]: S3, or a root_dir on a file system that they share",
    )


def _place(settings: ResultSettings) -> str:
    """A name for where results are, which servers that share it agree on."""
    if settings.backend == "s3":
        return f"s3 {settings.s3.endpoint or settings.s3.region} {settings.s3.bucket}/{settings.s3.prefix}"
    return f"folder {_mark(settings.root_dir)}"


def _mark(folder: Path) -> str:
    path = folder / MARK
    try:
        write_private(path, str(uuid.uuid4()).encode())  # unless it is there
        return f"{path.read_text().strip()} {path.stat().st_ino}"  # a copy of the folder is another one
    except OSError as e:
        raise Unavailable(f"{folder} cannot be used: {e.strerror or e}", code="result_store.unavailable") from e
