"""Results in S3, or in what speaks its protocol: one object for a result, `<prefix>/<request id>/<execution id>`.

While a result is uploaded, each part that arrives becomes an object of its own below `<prefix>/.uploads/`. S3's own
multipart uploads cannot take them as they come (a part has at least 5 MiB there, an agent's has one, and keeps no more
than that to send again), and what waited in one server's memory or disk would be lost with it: this way any replica
takes any part, and a killed server loses nothing it has confirmed. `finish` streams the parts once more, holds them
against the digest, and writes the result, which exists only when it is whole.

No call needs more than `PutObject`, `GetObject` and `DeleteObject` on `<prefix>/*` and `ListBucket` for that prefix;
what else is used (tags, the ends of broken multipart uploads) is tried, and left alone when it is denied. Without
`ListBucket` on the whole bucket an absent object is answered with 403, so that existence is always asked of a list.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from time import monotonic
from typing import TYPE_CHECKING, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from dbward.errors import DbwardError
from dbward.results.store import corrupt, gap, gone, incomplete, refuse_over, split_key, storage_key, unavailable
from dbward.settings.server import S3Settings

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from types_boto3_s3 import S3Client

log = logging.getLogger(__name__)

EXPIRY_TAG: Final = "dbward-expires-at"
PIECE_BYTES: Final = 8 * 1024 * 1024
"""Of a result's multipart upload, and what one `finish` holds in memory; a result of no more is put in one call."""

CHUNK_BYTES: Final = 256 * 1024
RESUMES: Final = 3
"""How often in a row reading goes on after a connection broke without having brought a byte."""

PING_FOR: Final = timedelta(seconds=10)
"""How long one answer to `ping` holds: /ready is open to anybody, and every call to S3 costs."""

_COUNT_DOWN: Final = 10**16
"""Parts are named by this less their offset, so that the newest is listed first and one short list tells the size."""

_ABSENT: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_DENIED: Final = frozenset({"AccessDenied", "403", "AllAccessDisabled"})
_NOT_OFFERED: Final = _DENIED | {
    "NotImplemented",
    "MethodNotAllowed",
    "405",
    "501",
    "InvalidRequest",
    "InvalidArgument",
}


@dataclass(frozen=True, slots=True)
class _Object:
    name: str
    size: int
    modified: datetime


class _Vanished(Exception):
    """A part is gone that was listed just before: another call has finished the upload, or deleted it."""


class S3Results:
    """The result store on a bucket. Safe to call from many threads and from several servers at once."""

    def __init__(self, settings: S3Settings) -> None:
        self._bucket = settings.bucket
        self._results = f"{settings.prefix}/"
        self._uploads = f"{settings.prefix}/.uploads/"
        self._probe = f"{settings.prefix}/.ping"
        session = boto3.session.Session()  # one for both: it reads the library's models, which takes a second
        self._s3 = open_client(session, settings, connect_secs=5, read_secs=20, attempts=4)
        self._quick = open_client(session, settings, connect_secs=2, read_secs=3, attempts=1)
        self._offered = {"tags": True, "multipart listing": True}
        self._pinging = threading.Lock()
        self._pinged: tuple[float, DbwardError | None] | None = None
        self._written = False

    def append(self, key: str, *, offset: int, data: bytes, limit: int) -> int:
        end = offset + len(data)
        refuse_over(limit, end)
        with _reported():
            held = self._held(key)
            if offset > held:
                raise gap(offset, held)
            if end <= held:
                return held  # a repeated part
            self._put(f"{self._upload(key)}{_COUNT_DOWN - held:017d}", data[held - offset :])
            return end

    def finish(self, key: str, *, size: int, sha256: str, expires_at: datetime) -> None:
        with _reported():
            parts = sorted(self._list(self._upload(key)), key=_offset)
            held = _contiguous(parts)
            if not (held == size and self._join(key, parts, size, sha256)) and not self._is_whole(key, size, sha256):
                raise incomplete(held, None, size, sha256)
            self._tag(key, expires_at)
            self._remove(parts)  # must succeed: what is left of an upload would pass for one that goes on

    def read(self, key: str, *, sha256: str) -> Iterator[bytes]:
        name = self._result(key)
        with _reported():
            if self._look_up(name) is None:
                raise gone()
        return self._chunks(name, sha256)

    def delete(self, key: str) -> None:
        with _reported():
            self._s3.delete_object(Bucket=self._bucket, Key=self._result(key))
            self._remove(self._list(self._upload(key)))

    def delete_all(self, request_id: str) -> None:
        split_key(storage_key(request_id, "x"))
        with _reported():
            for root in (self._results, self._uploads):
                self._remove(self._list(f"{root}{request_id}/"))

    def abandoned(self, before: datetime) -> Iterator[tuple[str, str]]:
        """Also of `finish`es that a crash ended in the middle."""
        with _reported():
            uploads = groupby(self._list(self._uploads), lambda part: part.name.rpartition("/")[0])
            found = {
                name.removeprefix(self._uploads)
                for name, parts in uploads
                if max(part.modified for part in parts) < before
            }
            found |= {
                name.removeprefix(self._results) for name, _, begun in self._multiparts(self._results) if begun < before
            }
        for key in sorted(found):
            try:
                yield split_key(key)
            except ValueError:
                log.warning("something that is not dbward's lies below %s in the bucket", self._results)

    def discard(self, key: str) -> None:
        with _reported():
            self._remove(self._list(self._upload(key)))
            for name, upload_id, _ in list(self._multiparts(self._result(key))):
                if name == self._result(key):
                    self._abort(name, upload_id)

    def ping(self) -> None:
        """One small write until one has succeeded, from then on a list; an answer holds for `PING_FOR`."""
        with self._pinging:
            now = monotonic()
            if self._pinged is None or now - self._pinged[0] >= PING_FOR.total_seconds():
                self._pinged = (now, self._try())
            failure = self._pinged[1]
        if failure is not None:
            raise unavailable(failure.message)

    def close(self) -> None:
        self._s3.close()
        self._quick.close()

    def _try(self) -> DbwardError | None:
        try:
            with _reported():
                if not self._written:
                    self._quick.put_object(Bucket=self._bucket, Key=self._probe, Body=b"")
                    self._written = True
                self._quick.list_objects_v2(Bucket=self._bucket, Prefix=self._probe, MaxKeys=1)
        except DbwardError as e:
            return e
        return None

    # --- names --------------------------------------------------------------------------------------------------------

    def _result(self, key: str) -> str:
        request_id, execution_id = split_key(key)
        return f"{self._results}{request_id}/{execution_id}"

    def _upload(self, key: str) -> str:
        """What the names of an upload's parts begin with."""
        request_id, execution_id = split_key(key)
        return f"{self._uploads}{request_id}/{execution_id}/"

    # --- finishing ----------------------------------------------------------------------------------------------------

    def _join(self, key: str, parts: list[_Object], size: int, sha256: str) -> bool:
        """Write the result from its parts; False, and nothing written, when they are not what their sender says."""
        name = self._result(key)
        digest = hashlib.sha256()
        about = {"sha256": sha256}
        pieces = _pieces(self._contents(parts, digest))
        if size <= PIECE_BYTES:
            try:
                whole = b"".join(pieces)
            except _Vanished:
                return False
            if (len(whole), digest.hexdigest()) != (size, sha256):
                return False
            self._put(name, whole, about)
            return True
        upload_id = self._s3.create_multipart_upload(Bucket=self._bucket, Key=name, Metadata=about)["UploadId"]
        completed = False
        try:
            tags = [self._put_piece(name, upload_id, number, piece) for number, piece in enumerate(pieces, start=1)]
            if digest.hexdigest() == sha256:
                self._s3.complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=name,
                    UploadId=upload_id,
                    MultipartUpload={
                        "Parts": [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, start=1)]
                    },
                )
                completed = True
        except _Vanished:
            pass
        finally:
            if not completed:
                self._abort(name, upload_id)
        return completed

    def _contents(self, parts: list[_Object], digest: hashlib._Hash) -> Iterator[bytes]:
        for part in parts:
            body = self._open(part.name)
            if body is None:
                raise _Vanished
            with body:
                data = body.read()
            digest.update(data)
            yield data

    def _is_whole(self, key: str, size: int, sha256: str) -> bool:
        """Whether the result is there already: the retry of a `finish` whose answer was lost, or that was cut off."""
        stored = self._look_up(self._result(key))
        if stored is None or stored.size != size:
            return False
        head = self._s3.head_object(Bucket=self._bucket, Key=stored.name)
        return head["Metadata"].get("sha256") == sha256

    def _tag(self, key: str, expires_at: datetime) -> None:
        if not self._offered["tags"]:
            return
        when = expires_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            self._s3.put_object_tagging(
                Bucket=self._bucket,
                Key=self._result(key),
                Tagging={"TagSet": [{"Key": EXPIRY_TAG, "Value": when}]},
            )
        except (ClientError, BotoCoreError) as e:
            self._do_without("tags", e)

    def _abort(self, name: str, upload_id: str) -> None:
        """Give up a multipart upload, as far as that is allowed: nothing but the room it takes depends on it."""
        try:
            self._s3.abort_multipart_upload(Bucket=self._bucket, Key=name, UploadId=upload_id)
        except (ClientError, BotoCoreError) as e:
            log.info("a multipart upload was left to the bucket's life-cycle rule: %s", _reason(e))

    def _do_without(self, what: str, e: ClientError | BotoCoreError) -> None:
        """What the bucket's policy or this kind of server does not offer is not asked for again by this process."""
        if isinstance(e, ClientError) and _code(e) in _NOT_OFFERED:
            self._offered[what] = False
            log.info("results are stored without %s: %s", what, _reason(e))
        else:
            log.warning("no %s this time: %s", what, _reason(e))

    # --- reading ------------------------------------------------------------------------------------------------------

    def _chunks(self, name: str, sha256: str) -> Iterator[bytes]:
        digest = hashlib.sha256()
        position = broken = 0
        while True:
            with _reported():
                body = self._open(name, position)
            if body is None:
                raise gone()
            with body:
                try:
                    for chunk in body.iter_chunks(CHUNK_BYTES):
                        digest.update(chunk)
                        position += len(chunk)
                        broken = 0
                        yield chunk
                except BotoCoreError as e:
                    broken += 1
                    if broken > RESUMES:
                        log.warning("reading a result from S3 failed: %s", _reason(e))
                        raise unavailable("the result store broke off") from e
                else:
                    break
        if digest.hexdigest() != sha256:
            raise corrupt()

    def _open(self, name: str, position: int = 0) -> StreamingBody | None:
        """An object's bytes from `position`, to be closed; None when there is no such object."""
        try:
            if position:
                return self._s3.get_object(Bucket=self._bucket, Key=name, Range=f"bytes={position}-")["Body"]
            return self._s3.get_object(Bucket=self._bucket, Key=name)["Body"]
        except ClientError as e:
            if _code(e) in _ABSENT or (_code(e) in _DENIED and self._look_up(name) is None):
                return None
            raise

    # --- objects ------------------------------------------------------------------------------------------------------

    def _held(self, key: str) -> int:
        prefix = self._upload(key)
        newest = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=prefix, MaxKeys=1).get("Contents", [])
        return _COUNT_DOWN - int(newest[0]["Key"].removeprefix(prefix)) + newest[0]["Size"] if newest else 0

    def _look_up(self, name: str) -> _Object | None:
        return next((found for found in self._list(name, most=1) if found.name == name), None)

    def _list(self, prefix: str, *, most: int = 1000) -> Iterator[_Object]:
        """Everything whose name begins so, in the order of names, `most` a call."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix, PaginationConfig={"PageSize": most}
        )
        for page in pages:
            for found in page.get("Contents", []):
                yield _Object(found["Key"], found["Size"], found["LastModified"])

    def _multiparts(self, prefix: str) -> Iterator[tuple[str, str, datetime]]:
        """Name, upload id and beginning of multipart uploads that were not ended, as far as they may be seen."""
        if not self._offered["multipart listing"]:
            return
        try:
            pages = self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix)
            for page in pages:
                for found in page.get("Uploads", []):
                    yield found["Key"], found["UploadId"], found["Initiated"]
        except ClientError as e:
            self._do_without("multipart listing", e)

    def _put(self, name: str, data: bytes, about: dict[str, str] | None = None) -> None:
        self._s3.put_object(Bucket=self._bucket, Key=name, Body=data, ContentMD5=_md5(data), Metadata=about or {})

    def _put_piece(self, name: str, upload_id: str, number: int, data: bytes) -> str:
        put = self._s3.upload_part(
            Bucket=self._bucket, Key=name, UploadId=upload_id, PartNumber=number, Body=data, ContentMD5=_md5(data)
        )
        return put["ETag"]

    def _remove(self, found: Iterable[_Object]) -> None:
        """One call each: the one that takes many needs a checksum that servers other than AWS do not agree on."""
        for each in found:
            self._s3.delete_object(Bucket=self._bucket, Key=each.name)


def open_client(
    session: boto3.session.Session, settings: S3Settings, *, connect_secs: float, read_secs: float, attempts: int
) -> S3Client:
    """A client. Without keys in the settings the usual chain finds them: environment, shared file, role of the task."""
    secret = settings.secret_access_key
    return session.client(
        "s3",
        region_name=settings.region,
        endpoint_url=settings.endpoint,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=None if secret is None else secret.reveal(),
        config=Config(
            connect_timeout=connect_secs,
            read_timeout=read_secs,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=64,
            s3={"addressing_style": "path" if settings.path_style else "auto"},
            # Every write carries its MD5, which all servers check; newer checksums are refused by some of them.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _offset(part: _Object) -> int:
    return _COUNT_DOWN - int(part.name.rpartition("/")[2])


def _contiguous(parts: list[_Object]) -> int:
    """Bytes from the beginning up to the first gap."""
    held = 0
    for part in parts:
        if _offset(part) != held:
            break
        held += part.size
    return held


def _pieces(contents: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of `PIECE_BYTES`, the last one shorter."""
    rest = bytearray()
    for data in contents:
        rest += data
        while len(rest) >= PIECE_BYTES:
            yield bytes(rest[:PIECE_BYTES])
            del rest[:PIECE_BYTES]
    if rest:
        yield bytes(rest)


def _md5(data: bytes) -> str:
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


@contextmanager
def _reported() -> Iterator[None]:
    """Turns what S3 and its library raise into `Unavailable`; why goes to the log, with no name, key or signature."""
    try:
        yield
    except (ClientError, BotoCoreError) as e:
        log.warning("the result store failed: %s", _reason(e))
        raise unavailable("the result store does not answer as it should; the server's log says why") from e


def _code(e: ClientError) -> str:
    return str(e.response.get("Error", {}).get("Code", ""))


def _reason(e: ClientError | BotoCoreError) -> str:
    if isinstance(e, ClientError):
        return f"{e.operation_name} was answered with {_code(e) or 'an error'}"
    return type(e).__name__
