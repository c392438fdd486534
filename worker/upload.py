"""The result stream on its way to the server: encoded as rows come, sent in parts, never more than a part in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Final

from dbward.canonical import canonical_json
from dbward.client.agent_api import AgentApi, patiently
from dbward.client.wire import ResultColumn
from dbward.errors import Conflict, DbwardError, RateLimited, Unavailable
from worker.rows import Batch

PART_BYTES: Final = 1024 * 1024
PATIENCE_SECS: Final = 600.0
"""How long an upload waits for a server that is away, with the statement held open behind it."""


class UploadFailed(Exception):
    """The server did not take the result, and waiting does not change that; `stopped`: nobody wants it any more."""

    def __init__(self, code: str, message: str, *, stopped: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.stopped = stopped


@dataclass(frozen=True, slots=True)
class Stored:
    """What the server holds after `finish`: bytes and their SHA-256 hex."""

    size: int
    sha256: str


class Upload:
    """A row sink. The first line of the stream is `{"columns": […]}`, each further one a row as a JSON array.

    Sending happens in the caller's thread, which is the back-pressure: the cursor is not read while the server is slow.
    `stop` ends the waiting for a server that is away. Raises `UploadFailed`.
    """

    def __init__(self, api: AgentApi, execution_id: str, claim_id: str, *, stop: Event) -> None:
        self._api = api
        self._execution_id = execution_id
        self._claim_id = claim_id
        self._stop = stop
        self._pending = bytearray()
        self._sent = 0
        self._last = (0, b"")
        """Where the newest part begins, and its bytes: a server that lost its end can be given it again."""
        self._sha = hashlib.sha256()
        self._started = False

    def columns(self, columns: Sequence[ResultColumn], /) -> None:
        self._started = True
        self._add(canonical_json({"columns": [column.model_dump() for column in columns]}).encode() + b"\n")

    def rows(self, rows: Batch, /) -> None:
        self._add(rows.encoded)

    def finish(self) -> Stored | None:
        """Send what is left; None when there was no result set at all."""
        if not self._started:
            return None
        if self._pending:
            self._send(bytes(self._pending))
            self._pending.clear()
        return Stored(size=self._sent, sha256=self._sha.hexdigest())

    def resend(self, held: int) -> bool:
        """Send again what the server lost beyond its first `held` bytes; False when that is not kept here any more."""
        begin, part = self._last
        if not begin <= held < self._sent:
            return False
        self._sent = held
        self._push(begin, part)
        return True

    def _add(self, lines: bytes) -> None:
        self._pending += lines
        while len(self._pending) >= PART_BYTES:
            part = bytes(self._pending[:PART_BYTES])
            del self._pending[:PART_BYTES]
            self._send(part)

    def _send(self, part: bytes) -> None:
        self._sha.update(part)
        self._last = (self._sent, part)
        self._push(self._sent, part)

    def _push(self, begin: int, part: bytes) -> None:
        end = begin + len(part)
        rewinds = 0
        while self._sent < end:
            offset = self._sent
            send = partial(
                self._api.part, self._execution_id, claim_id=self._claim_id, offset=offset, data=part[offset - begin :]
            )
            try:
                held = patiently(
                    send,
                    stop=self._stop,
                    what="result upload",
                    limit_secs=PATIENCE_SECS,
                )
            except Conflict as e:
                held = self._where_to_go_on(e)
                rewinds += 1
            except (Unavailable, RateLimited) as e:
                raise UploadFailed("result.upload_failed", e.message, stopped=self._stop.is_set()) from e
            except DbwardError as e:
                raise UploadFailed(e.code, e.message) from e
            if not begin <= held <= end or rewinds > 3:
                # A server that lost earlier parts cannot be helped: they are not kept here.
                raise UploadFailed(
                    "result.upload_lost", f"the server holds {held} bytes of the result, {offset} were sent"
                )
            self._sent = held

    def _where_to_go_on(self, e: Conflict) -> int:
        size = (e.detail or {}).get("size")
        if e.code == "result.offset" and isinstance(size, int):
            return size
        raise UploadFailed(e.code, e.message) from e
