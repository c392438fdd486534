"""Results as files under one directory: `<root>/<request id>/<execution id>`, plus `.part` while one is uploaded.

A result arrives in parts, each naming the offset it starts at, so that the retry of a lost answer changes nothing and
an upload goes on after a restart of the server.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from dbward.errors import Conflict, Missing, TooLarge, Unavailable

_CHUNK = 256 * 1024


class LocalResults:
    """The result store on a local directory. Safe to call from many threads; one process owns the directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._guard = threading.Lock()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def append(self, key: str, *, offset: int, data: bytes, limit: int) -> int:
        """Write one part and return the bytes now held: the offset of the next part.

        Raises `Conflict` (`result.offset`, detail `size`) when bytes before `offset` are missing, and `TooLarge`.
        """
        part = self._part(key)
        end = offset + len(data)
        if end > limit:
            raise TooLarge(f"the result is over {limit} bytes", hint="raise [result_storage] max_persist_bytes")
        with self._guard:
            part.parent.mkdir(mode=0o700, exist_ok=True)
            with part.open("ab") as out:
                size = out.tell()
                if offset > size:
                    raise Conflict(
                        f"{offset - size} bytes before this part are missing",
                        code="result.offset",
                        detail={"size": size},
                    )
                if end <= size:
                    return size  # a repeated part
                out.truncate(offset)  # the torn end of a part whose upload was cut
                out.write(data)
                return end

    def finish(self, key: str, *, size: int, sha256: str) -> None:
        """Check an upload against what its sender says of it, make it durable and give it its final name. Repeatable.

        Raises `Conflict` (`result.incomplete`) when size or digest differ.
        """
        part, final = self._part(key), self._path(key)
        if final.exists() and not part.exists():
            return
        try:
            with part.open("rb") as upload:
                digest = hashlib.file_digest(upload, "sha256").hexdigest()
                held = upload.tell()
                os.fsync(upload.fileno())
        except FileNotFoundError:
            held, digest = 0, hashlib.sha256().hexdigest()
        if (held, digest) != (size, sha256):
            raise Conflict(
                f"the uploaded result has {held} bytes ({digest[:12]}…), its sender says {size} ({sha256[:12]}…)",
                code="result.incomplete",
                detail={"size": held},
            )
        part.replace(final)
        _sync_directory(final.parent)

    def read(self, key: str, *, sha256: str) -> Iterator[bytes]:
        """The stored bytes in chunks. Raises `Missing` at once, `Unavailable` at the end when the digest is wrong."""
        path = self._path(key)
        if not path.exists():
            raise _gone()
        return _chunks(path, sha256)

    def delete(self, key: str) -> None:
        """Remove a result, or what was uploaded of it. Removing what is not there is no error."""
        with self._guard:
            for path in (self._path(key), self._part(key)):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other executions of the request are still there
                self._path(key).parent.rmdir()

    def delete_all(self, request_id: str) -> None:
        """Remove whatever is held of a request, also uploads that no row tells of."""
        directory = self._path(storage_key(request_id, "x")).parent
        with self._guard:
            shutil.rmtree(directory, ignore_errors=True)

    def abandoned(self, before: datetime) -> Iterator[tuple[str, str]]:
        """`(request id, execution id)` of uploads that have not grown since `before`."""
        for part in self._root.glob("*/*.part"):
            with contextlib.suppress(FileNotFoundError):  # finished meanwhile
                if part.stat().st_mtime < before.timestamp():
                    yield part.parent.name, part.name.removesuffix(".part")

    def ping(self) -> None:
        """Raise `Unavailable` unless the directory can be written."""
        if not os.access(self._root, os.W_OK | os.X_OK):
            raise Unavailable(f"{self._root} cannot be written", code="result_store.unavailable")

    def _path(self, key: str) -> Path:
        request_id, _, execution_id = key.partition("/")
        for piece in (request_id, execution_id):
            if not piece or not piece.replace("-", "").isalnum():
                raise ValueError(f"not a storage key: {key!r}")
        return self._root / request_id / execution_id

    def _part(self, key: str) -> Path:
        path = self._path(key)
        return path.with_name(path.name + ".part")


def storage_key(request_id: str, execution_id: str) -> str:
    return f"{request_id}/{execution_id}"


def _chunks(path: Path, sha256: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    try:
        stored = path.open("rb")
    except FileNotFoundError:
        raise _gone() from None
    with stored:
        while chunk := stored.read(_CHUNK):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != sha256:
        raise Unavailable("the stored result does not match its checksum", code="result.corrupt")


def _gone() -> Missing:
    return Missing("the stored result is gone", code="result.missing")


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
