"""Where backups are kept: a directory, or a bucket of S3 or what speaks its protocol."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from dbward.errors import Misconfigured, Missing, Unavailable
from dbward.keys import sync_directory
from dbward.settings.server import S3Settings

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

log = logging.getLogger("dbward.server")

_NAME: Final = re.compile(r"dbward-(\d{8}T\d{9})Z\.tar\.gz")


class Place(Protocol):
    """Names sort by age. Raises `Unavailable` when it cannot be reached or written."""

    def put(self, draft: Path, name: str) -> str:
        """Move the finished file there; where it is now, for people to read."""

    def names(self) -> list[str]:
        """The backups that are there, oldest first."""

    def fetch(self, name: str, target: Path) -> None:
        """Write one to the file `target`. Raises `Missing`."""

    def remove(self, name: str) -> None: ...


def name_at(moment: datetime) -> str:
    moment = moment.astimezone(UTC)
    return f"dbward-{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03}Z.tar.gz"


def made_at(name: str) -> datetime | None:
    """When the backup of this name was made; None when it is the name of something else."""
    found = _NAME.fullmatch(name)
    return datetime.strptime(found[1] + "000+0000", "%Y%m%dT%H%M%S%f%z") if found else None


class Folder:
    """A directory of its own. Drafts are made in it, so that a finished one only gets its name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, draft: Path, name: str) -> str:
        with _reported("the backup cannot be put there", OSError):
            draft.rename(self.path / name)
            sync_directory(self.path)
        return str(self.path / name)

    def names(self) -> list[str]:
        with _reported("backups cannot be listed", OSError):
            return sorted(p.name for p in self.path.iterdir() if made_at(p.name)) if self.path.exists() else []

    def fetch(self, name: str, target: Path) -> None:
        try:
            shutil.copyfile(self.path / name, target)
        except FileNotFoundError:
            raise Missing(f"there is no backup {self.path / name}", code="backup.missing") from None
        except OSError as e:
            raise Unavailable(f"{self.path / name} cannot be read: {e.strerror}", code="backup.failed") from e

    def remove(self, name: str) -> None:
        with _reported("an old backup cannot be removed", OSError):
            (self.path / name).unlink(missing_ok=True)


class Bucket:
    """Objects below one prefix. Nothing of an upload is visible before it is complete."""

    def __init__(self, settings: S3Settings) -> None:
        try:
            from dbward.results import s3
        except ImportError as e:
            raise Misconfigured(
                "backups in S3 need boto3", code="backup.library_missing", hint="pip install 'dbward[s3]'"
            ) from e
        from boto3.exceptions import Boto3Error
        from boto3.session import Session
        from botocore.exceptions import BotoCoreError, ClientError

        self._errors = (Boto3Error, BotoCoreError, ClientError)
        self._s3: S3Client = s3.open_client(Session(), settings, connect_secs=5, read_secs=60, attempts=4)
        self._bucket, self._prefix = settings.bucket, settings.prefix

    def put(self, draft: Path, name: str) -> str:
        with _reported("the backup cannot be stored in S3", *self._errors):
            self._s3.upload_file(str(draft), self._bucket, self._key(name))
        return f"s3://{self._bucket}/{self._key(name)}"

    def names(self) -> list[str]:
        with _reported("backups in S3 cannot be listed", *self._errors):
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._key("dbward-"))
            keys = [each["Key"].rpartition("/")[2] for page in pages for each in page.get("Contents", [])]
        return sorted(name for name in keys if made_at(name))

    def fetch(self, name: str, target: Path) -> None:
        with _reported("the backup cannot be read from S3", *self._errors):
            if name not in self.names():
                raise Missing(f"there is no backup s3://{self._bucket}/{self._key(name)}", code="backup.missing")
            self._s3.download_file(self._bucket, self._key(name), str(target))

    def remove(self, name: str) -> None:
        with _reported("an old backup cannot be removed from S3", *self._errors):
            self._s3.delete_object(Bucket=self._bucket, Key=self._key(name))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name


@contextmanager
def _reported(what: str, *errors: type[Exception]) -> Iterator[None]:
    """Why goes to the log: it may name a key or an address."""
    try:
        yield
    except errors as e:
        log.warning("%s: %s", what, e)
        raise Unavailable(f"{what}; the log says why", code="backup.failed") from e
