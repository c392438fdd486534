"""Rows on their way from a driver to the upload: column keys, the caps, batches, and the spool for results that may yet
be replaced by a later statement's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from tempfile import SpooledTemporaryFile
from typing import Protocol

from dbward.client.wire import ResultColumn
from dbward.domain.model import Limits
from worker.values import JsonValue

BATCH_ROWS = 500
BATCH_BYTES = 256 * 1024
SPOOL_IN_MEMORY = 1024 * 1024

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class RowSink(Protocol):
    """Takes a result as it comes: the columns once, then batches in order. Whatever it raises stops the statement."""

    def columns(self, columns: Sequence[ResultColumn], /) -> None: ...
    def rows(self, rows: Batch, /) -> None: ...


class Nowhere:
    """A sink for a result that nobody asked for."""

    def columns(self, columns: Sequence[ResultColumn], /) -> None: ...
    def rows(self, rows: Batch, /) -> None: ...


class Batch(list[list[JsonValue]]):
    """Rows in order. `encoded` is the same rows as UTF-8 NDJSON, one array and one newline each: made once, to be
    counted against the byte cap, and ready to be sent."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[bytes] = []

    def add(self, row: list[JsonValue], line: bytes) -> None:
        self.append(row)
        self._lines.append(line)

    @property
    def encoded(self) -> bytes:
        return b"".join(self._lines)


class RowTooLarge(Exception):
    """One row alone is over the byte cap, so no cut of the result could hold it."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"one row is {size} bytes, the limit of a whole result is {limit}")
        self.size = size
        self.limit = limit


def encode_row(row: Sequence[JsonValue]) -> bytes:
    """One row as a compact JSON array in UTF-8 with a newline: what the byte cap counts."""
    return (_encode(row) + "\n").encode()


def named_columns(named: Sequence[tuple[str, str]]) -> tuple[ResultColumn, ...]:
    """Columns from (name, database type), in order; a repeated name gets the key `name_2`, `name_3`, … that is free."""
    taken = {name for name, _ in named}
    seen: set[str] = set()
    columns = []
    for name, kind in named:
        key, n = name, 2
        while key in seen or (key != name and key in taken):
            key, n = f"{name}_{n}", n + 1
        seen.add(key)
        columns.append(ResultColumn(name=name, type=kind, key=key))
    return tuple(columns)


class RowWriter:
    """Applies the caps to one result and passes it on in batches.

    Row and byte cap are exact: a result that just fits is whole. With `strict` a row that alone is over the byte cap
    raises RowTooLarge; without, it cuts the result like any other.
    """

    def __init__(self, sink: RowSink, columns: Sequence[ResultColumn], limits: Limits, *, strict: bool) -> None:
        self._sink = sink
        self._limits = limits
        self._strict = strict
        self._batch = Batch()
        self._batch_bytes = 0
        self._bytes = 0
        self.row_count = 0
        self.truncation_reason: str | None = None
        sink.columns(columns)

    @property
    def full(self) -> bool:
        return self.truncation_reason is not None

    def add(self, row: list[JsonValue]) -> bool:
        """False once a cap is reached: this row and any later one is left out."""
        if self.full:
            return False
        if self.row_count >= self._limits.max_rows:
            self.truncation_reason = f"row limit of {self._limits.max_rows} reached"
            return False
        line = encode_row(row)
        size = len(line)
        if self._bytes + size > self._limits.max_bytes:
            if self._strict and size > self._limits.max_bytes:
                raise RowTooLarge(size, self._limits.max_bytes)
            self.truncation_reason = f"size limit of {self._limits.max_bytes} bytes reached"
            return False
        self._batch.add(row, line)
        self._bytes += size
        self._batch_bytes += size
        self.row_count += 1
        if len(self._batch) >= BATCH_ROWS or self._batch_bytes >= BATCH_BYTES:
            self.flush()
        return True

    def flush(self) -> None:
        if self._batch:
            batch, self._batch, self._batch_bytes = self._batch, Batch(), 0
            self._sink.rows(batch)


class Spool:
    """A RowSink that keeps a result aside, on disk beyond the first megabyte."""

    def __init__(self) -> None:
        self._columns: Sequence[ResultColumn] = ()
        self._file = SpooledTemporaryFile[bytes](max_size=SPOOL_IN_MEMORY)

    def columns(self, columns: Sequence[ResultColumn], /) -> None:
        self._columns = columns

    def rows(self, rows: Batch, /) -> None:
        self._file.write(rows.encoded)

    def replay(self, sink: RowSink) -> None:
        sink.columns(self._columns)
        self._file.seek(0)
        batch, size = Batch(), 0
        for line in self._file:
            batch.add(json.loads(line), line)
            size += len(line)
            if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
                sink.rows(batch)
                batch, size = Batch(), 0
        if batch:
            sink.rows(batch)

    def close(self) -> None:
        self._file.close()


class Results:
    """The results of a statement list, of which the last is the one that counts.

    A result known to be the last goes straight to the sink; one that a later statement may replace is spooled, and
    `finish` sends it on if nothing did.
    """

    def __init__(self, sink: RowSink, limits: Limits, *, strict: bool) -> None:
        self._sink = sink
        self._limits = limits
        self._strict = strict
        self._spool: Spool | None = None
        self._writer: RowWriter | None = None

    def open(self, columns: Sequence[ResultColumn], *, last: bool) -> RowWriter:
        self.close()
        target: RowSink = self._sink
        if not last:
            target = self._spool = Spool()
        self._writer = RowWriter(target, columns, self._limits, strict=self._strict)
        return self._writer

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.flush()
        if self._spool is not None:
            self._spool.replay(self._sink)
            self.close()

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    @property
    def row_count(self) -> int:
        return 0 if self._writer is None else self._writer.row_count

    @property
    def truncation_reason(self) -> str | None:
        return None if self._writer is None else self._writer.truncation_reason
