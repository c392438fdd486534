"""`[backup]` of `server.toml`: how often the SQLite state is copied, where to, and how many copies are kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from dbward.settings.load import Table

DEFAULT_KEEP = 7


@dataclass(frozen=True, slots=True)
class BackupSettings:
    """`every` None: only when asked. Kept in `folder`, or in S3 below `prefix` of `bucket` when there is one."""

    folder: Path
    every: timedelta | None = None
    keep: int = DEFAULT_KEEP
    bucket: str | None = None
    prefix: str = ""


def read_backup(table: Table, base: Path, state_dir: Path, *, sqlite: bool, warnings: list[str]) -> BackupSettings:
    """What the section says; `sqlite`: whether there is a file to copy at all."""
    hours = table.integer("every_hours", 0, most=24 * 366)
    keep = table.integer("keep", DEFAULT_KEEP, least=1, most=10_000)
    target = table.maybe("target")
    if hours and not sqlite:
        warnings.append(
            "[backup] has no effect on a PostgreSQL state: back the database up with PostgreSQL's own tools"
        )
    bucket, prefix, folder = None, "", state_dir / "backups"
    if target is not None and "://" in target:
        parts = urlsplit(target)
        bucket, prefix = parts.netloc, parts.path.strip("/")
        if parts.scheme != "s3" or not bucket or parts.query or parts.fragment:
            table.wrong("target", "must be a directory, or s3://bucket/prefix")
    elif target is not None:
        folder = base / Path(target).expanduser()
    return BackupSettings(folder, timedelta(hours=hours) if hours else None, keep, bucket, prefix)
