"""A copy of the SQLite state as of one moment, made while it is in use."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from dbward.db import connect
from dbward.errors import Misconfigured


def copy(path: Path, target: Path, *, exclusive: bool) -> None:
    """Write the last committed state of the file `path` to `target`, 0600, durable before this returns.

    Only the process that owns an `exclusive` state may call this. An earlier `target` is replaced.
    Raises sqlite3.Error, OSError.
    """
    target.unlink(missing_ok=True)
    fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with closing(connect.open_sqlite(path, exclusive=exclusive, write=False)) as source:
            source.execute("PRAGMA query_only=OFF")  # it forbids writing to the copy as well
            source.execute("VACUUM INTO ?", (str(target),))
        os.fsync(fd)
    finally:
        os.close(fd)


def check(path: Path) -> None:
    """Raise `Misconfigured` unless the file is a whole SQLite database."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as found:
            (said,) = found.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as e:
        said = str(e)
    if said != "ok":
        raise Misconfigured(f"the database is damaged: {said}", code="state_broken")
