"""What every result store can do, and the words its refusals have in common.

A result arrives in parts, each naming the offset it starts at, so that the retry of a lost answer changes nothing and
an upload goes on after a restart of the server. Offsets of one upload always speak of the same bytes: a part that
reaches back over bytes already held repeats them. `finish` holds the whole against size and digest, and only then is
there a result; until then there is an upload, which can be abandoned.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Protocol

from dbward.errors import Conflict, Missing, TooLarge, Unavailable


class ResultStore(Protocol):
    """Where results are kept. Safe to call from many threads. Raises `Unavailable` when it cannot be reached."""

    def append(self, key: str, *, offset: int, data: bytes, limit: int) -> int:
        """Keep one part and return the bytes now held: the offset of the next part.

        Raises `Conflict` (`result.offset`, detail `size`) when bytes before `offset` are missing, and `TooLarge`.
        """

    def finish(self, key: str, *, size: int, sha256: str, expires_at: datetime) -> None:
        """Check an upload against what its sender says of it, make it durable and turn it into a result. Repeatable.

        `expires_at` is for people who look at the store itself: only `delete` removes a result.
        Raises `Conflict` (`result.incomplete`, detail `size`) when size or digest differ.
        """

    def read(self, key: str, *, sha256: str) -> Iterator[bytes]:
        """The stored bytes in chunks. Raises `Missing` at once, `Unavailable` at the end when the digest is wrong."""

    def delete(self, key: str) -> None:
        """Remove a result, or what was uploaded of it. Removing what is not there is no error."""

    def delete_all(self, request_id: str) -> None:
        """Remove whatever is held of a request, also uploads that no row tells of."""

    def abandoned(self, before: datetime) -> Iterator[tuple[str, str]]:
        """`(request id, execution id)` of uploads that have not grown since `before`."""

    def discard(self, key: str) -> None:
        """Remove an upload and leave a result of the same name alone."""

    def ping(self) -> None:
        """Raise `Unavailable` unless results can be stored now."""

    def close(self) -> None:
        """Give back connections."""


def storage_key(request_id: str, execution_id: str) -> str:
    return f"{request_id}/{execution_id}"


def split_key(key: str) -> tuple[str, str]:
    """Request and execution id of a storage key. Raises `ValueError` for anything that could name another place."""
    request_id, _, execution_id = key.partition("/")
    for piece in (request_id, execution_id):
        if not piece or not piece.isascii() or not piece.replace("-", "").isalnum():
            raise ValueError(f"not a storage key: {key!r}")
    return request_id, execution_id


def refuse_over(limit: int, end: int) -> None:
    """Raises `TooLarge` when a part ends after `limit`."""
    if end > limit:
        raise TooLarge(f"the result is over {limit} bytes", hint="raise [result_storage] max_persist_bytes")


def gap(offset: int, size: int) -> Conflict:
    return Conflict(f"{offset - size} bytes before this part are missing", code="result.offset", detail={"size": size})


def incomplete(held: int, digest: str | None, size: int, sha256: str) -> Conflict:
    """`digest` None: it was not computed, since the sizes differ."""
    seen = f"{held} bytes" if digest is None else f"{held} bytes ({digest[:12]}…)"
    return Conflict(
        f"the uploaded result has {seen}, its sender says {size} ({sha256[:12]}…)",
        code="result.incomplete",
        detail={"size": held},
    )


def gone() -> Missing:
    return Missing("the stored result is gone", code="result.missing")


def corrupt() -> Unavailable:
    return Unavailable("the stored result does not match its checksum", code="result.corrupt")


def unavailable(message: str) -> Unavailable:
    return Unavailable(message, code="result_store.unavailable")
