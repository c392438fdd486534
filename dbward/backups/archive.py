"""One backup: a compressed tar of the database and of the small files that belong to it.

It is as secret as the state itself: the keys are in it, since a database is of no use without those it was signed with.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from dbward.errors import Misconfigured

DATABASE: Final = "dbward.db"
FILES: Final = (
    "signing.key",
    "audit-signing.key",
    "audit-keys.json",
    "audit-anchor.json",
    "admin-token",
    "agent-token",
    "requester-token",
)
"""What of `state_dir` is in a backup beside the database; those that are there."""
_ABOUT: Final = "about.json"
_FORMAT: Final = 1
_SMALL: Final = 1024 * 1024
_LEVEL: Final = 1
"""Of compression: a third of the work of the usual one, for a file that is a tenth larger at most."""
_SQLITE: Final = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class About:
    """`made_at` is ISO 8601 in UTC, `version` that of the dbward that made it."""

    made_at: str
    version: str


def read_files(state_dir: Path) -> dict[str, bytes]:
    """The small files. Read them before the database is copied: the anchor may be older than it, never newer."""
    return {name: (state_dir / name).read_bytes() for name in FILES if (state_dir / name).exists()}


def pack(target: Path, about: About, files: Mapping[str, bytes], database: Path) -> None:
    """Write the archive, 0600, durable before this returns. Raises OSError."""
    fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as out:
        with tarfile.open(fileobj=out, mode="w:gz", compresslevel=_LEVEL) as tar:
            _add(tar, _ABOUT, json.dumps({"format": _FORMAT, **asdict(about)}).encode())
            for name, data in files.items():
                _add(tar, name, data)
            with database.open("rb") as file:
                tar.addfile(_entry(DATABASE, database.stat().st_size), file)
        out.flush()
        os.fsync(out.fileno())


def is_database(source: Path) -> bool:
    """Whether the file is a SQLite database itself and no archive. Raises OSError."""
    with source.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def unpack(source: Path, into: Path) -> About:
    """Write what the archive holds into the empty directory `into`.

    Raises `Misconfigured` when it is none of ours or damaged, OSError.
    """
    about: About | None = None
    try:
        with gzip.open(source) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                if not member.isreg() or member.name not in {_ABOUT, DATABASE, *FILES}:
                    raise _unusable(source, f"it holds {member.name!r}")
                if member.name != DATABASE and member.size > _SMALL:
                    raise _unusable(source, f"{member.name} is too large")
                content = tar.extractfile(member)
                assert content is not None
                if member.name == _ABOUT:
                    about = _read_about(source, content.read())
                    continue
                fd = os.open(into / member.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(fd, "wb") as out:
                    shutil.copyfileobj(content, out, _SMALL)
                    out.flush()
                    os.fsync(out.fileno())
            while stream.read(_SMALL):
                pass  # only the end of the stream says whether all of it was right
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, FileExistsError) as e:
        raise _unusable(source, str(e)) from e
    if about is None or not (into / DATABASE).exists():
        raise _unusable(source, "it is not complete")
    return about


def _read_about(source: Path, data: bytes) -> About:
    try:
        said = json.loads(data)
        if said["format"] != _FORMAT:
            raise _unusable(source, f"its format {said['format']} is of a newer version of dbward")
        return About(str(said["made_at"]), str(said["version"]))
    except (ValueError, KeyError, TypeError) as e:
        raise _unusable(source, "what it says about itself cannot be read") from e


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    tar.addfile(_entry(name, len(data)), io.BytesIO(data))


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry


def _unusable(source: Path, why: str) -> Misconfigured:
    return Misconfigured(f"{source.name} is not a backup of dbward: {why}", code="backup.unusable")
