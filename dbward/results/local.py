"""Results as files under one directory: `<root>/<request id>/<execution id>`, plus `.part` while one is uploaded."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from dbward.results.store import corrupt, gap, gone, incomplete, refuse_over, split_key, storage_key, unavailable

_CHUNK = 256 * 1024


class LocalResults:
    """The result store on a local directory. Safe to call from many threads; one process owns the directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._guard = threading.Lock()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def append(self, key: str, *, offset: int, data: bytes, limit: int) -> int:
        part = self._part(key)
        end = offset + len(data)
        refuse_over(limit, end)
        with self._guard:
            part.parent.mkdir(mode=0o700, exist_ok=True)
            with part.open("ab") as out:
                size = out.tell()
                if offset > size:
                    raise gap(offset, size)
                if end <= size:
                    return size  # a repeated part
                out.truncate(offset)  # the torn end of a part whose upload was cut
                out.write(data)
                return end

    def finish(self, key: str, *, size: int, sha256: str, expires_at: datetime) -> None:  # noqa: ARG002 - no tags here
        part, final = self._part(key), self._path(key)
        # Finished before; a late repetition of its first part may lie beside it.
        if final.exists() and _measure(final) == (size, sha256):
            part.unlink(missing_ok=True)
            return
        held, digest = _measure(part)
        if (held, digest) != (size, sha256):
            raise incomplete(held, digest, size, sha256)
        with self._guard:
            if size == 0:
                final.parent.mkdir(mode=0o700, exist_ok=True)
                final.touch(mode=0o600)
            elif part.exists():  # a second call may have done it meanwhile
                part.replace(final)
        _sync_directory(final.parent)

    def read(self, key: str, *, sha256: str) -> Iterator[bytes]:
        path = self._path(key)
        if not path.exists():
            raise gone()
        return _chunks(path, sha256)

    def delete(self, key: str) -> None:
        with self._guard:
            for path in (self._path(key), self._part(key)):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other executions of the request are still there
                self._path(key).parent.rmdir()

    def delete_all(self, request_id: str) -> None:
        directory = self._path(storage_key(request_id, "x")).parent
        with self._guard:
            shutil.rmtree(directory, ignore_errors=True)

    def abandoned(self, before: datetime) -> Iterator[tuple[str, str]]:
        for part in self._root.glob("*/*.part"):
            with contextlib.suppress(FileNotFoundError):  # finished meanwhile
                if part.stat().st_mtime < before.timestamp():
                    yield part.parent.name, part.name.removesuffix(".part")

    def discard(self, key: str) -> None:
        with self._guard:
            self._part(key).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the result, or other executions of the request, are still there
                self._path(key).parent.rmdir()

    def ping(self) -> None:
        if not os.access(self._root, os.W_OK | os.X_OK):
            raise unavailable(f"{self._root} cannot be written")

    def close(self) -> None:
        """Nothing is held open between two calls."""

    def _path(self, key: str) -> Path:
        request_id, execution_id = split_key(key)
        return self._root / request_id / execution_id

    def _part(self, key: str) -> Path:
        path = self._path(key)
        return path.with_name(path.name + ".part")


def _chunks(path: Path, sha256: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    try:
        stored = path.open("rb")
    except FileNotFoundError:
        raise gone() from None
    with stored:
        while chunk := stored.read(_CHUNK):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != sha256:
        raise corrupt()


def _measure(path: Path) -> tuple[int, str]:
    """Size and digest of a file that is durable from here on; of nothing when there is none."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
            return file.tell(), digest
    except FileNotFoundError:
        return 0, hashlib.sha256().hexdigest()


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
