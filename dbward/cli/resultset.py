"""A result envelope on its way from the server: kept in a file that has no name, read row by row.

Memory holds one row at a time, whatever the result's size. The whole answer is here before any of it is shown, so what
is shown is never half a result, and a broken download can be repeated.
"""

from __future__ import annotations

import codecs
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final, TextIO

from dbward.client.http import ANSWER_SECS, NETWORK_ERROR, ApiClient
from dbward.errors import Unavailable

IN_MEMORY_BYTES: Final = 8 * 1024 * 1024
"""Smaller answers do not touch the disk."""
STREAM_WAIT_SECS: Final = 300
"""How long the server may take to answer `result/stream`."""

_CHUNK: Final = 64 * 1024
_TRIES: Final = 3
_TOLD_EVERY: Final = 1000
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_NON_ASCII: Final = re.compile(r"[^\x00-\x7e]")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """`key` is its name in the rows; it differs from `name` when a result has that name twice."""

    name: str
    key: str
    type: str = ""


@dataclass(frozen=True, slots=True)
class ResultSet:
    """`head` is the envelope without `result_data`; `facts` is `result_data` without its rows.

    `columns` is None when the result has no rows to show: a statement that only changed something, or failed.
    """

    head: Mapping[str, Any]
    facts: Mapping[str, Any]
    columns: tuple[Column, ...] | None
    row_count: int
    _file: IO[bytes]
    tell: Callable[[int], None] | None = None
    """Told from time to time how many rows were read, whenever they are."""

    @property
    def success(self) -> bool:
        return self.head.get("success") is True

    @property
    def rows_affected(self) -> int | None:
        value = self.head.get("rows_affected", self.facts.get("rows_affected"))
        return value if isinstance(value, int) else None

    @property
    def truncated(self) -> bool:
        return bool(self.head.get("truncated") or self.facts.get("truncated"))

    @property
    def truncation_reason(self) -> str:
        return str(self.facts.get("truncation_reason") or "a limit was reached")

    def rows(self) -> Iterator[Row]:
        """Every row, read again from the start."""
        columns = self.columns or ()
        for number, row in enumerate(_walk(self._file, {}, {})):
            if self.tell is not None and number % _TOLD_EVERY == 0:
                self.tell(number)
            yield row if isinstance(row, dict) else {c.key: v for c, v in zip(columns, row, strict=False)}

    def write_json(self, out: TextIO) -> None:
        """The envelope as the server sent it, on one line and in ASCII."""
        for text in _texts(self._file):
            flat = text.replace("\n", " ")
            out.write(flat if flat.isascii() else _NON_ASCII.sub(_escape, flat))

    def close(self) -> None:
        self._file.close()


def fetch(
    client: ApiClient,
    path: str,
    params: Mapping[str, Any] | None = None,
    tell: Callable[[int], None] | None = None,
) -> ResultSet | None:
    """The result that `path` answers with; None when there is none yet. A broken download is repeated. `tell` is told
    how many bytes are here.

    Raises what the server says, and `Unavailable`.
    """
    for _ in range(_TRIES - 1):
        try:
            return _fetch(client, path, params, tell)
        except Unavailable as e:
            if e.code != NETWORK_ERROR or not (e.detail or {}).get("sent"):
                raise
    return _fetch(client, path, params, tell)


def _fetch(
    client: ApiClient, path: str, params: Mapping[str, Any] | None, tell: Callable[[int], None] | None
) -> ResultSet | None:
    # Closed by the result set; it must outlive this function.
    file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115
    try:
        with client.stream(path, params, answer_secs=ANSWER_SECS + STREAM_WAIT_SECS) as chunks:
            if chunks is None:
                file.close()
                return None
            for chunk in chunks:
                file.write(chunk)
                if tell is not None:
                    tell(file.tell())
        return read(file)
    except BaseException:
        file.close()
        raise


def read(file: IO[bytes]) -> ResultSet:
    """The result in `file`, which it owns from here on. Raises `Unavailable` when it is not a whole envelope."""
    head: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    first: Any = None
    count = 0
    try:
        for row in _walk(file, head, facts):
            first = row if count == 0 else first
            count += 1
    except (ValueError, RecursionError) as e:
        raise Unavailable("the result ended early", code=NETWORK_ERROR, detail={"sent": True}) from e
    return ResultSet(head, facts, _columns(facts, first), count, file)


def _columns(facts: Mapping[str, Any], first: Any) -> tuple[Column, ...] | None:
    given = facts.get("columns")
    if isinstance(given, list):
        return tuple(
            Column(str(c["name"]), str(c.get("key", c["name"])), str(c.get("type", "")))
            if isinstance(c, dict)
            else Column(str(c), str(c))
            for c in given
        )
    return tuple(Column(name, name) for name in first) if isinstance(first, dict) else None


def _walk(file: IO[bytes], head: dict[str, Any], facts: dict[str, Any]) -> Iterator[Any]:
    """Yield the rows; fill `head` and `facts` with everything else by the time it ends. Raises `ValueError`."""
    source = _Json(_texts(file))
    for key in source.members():
        if key == "result_data" and source.peek() == "{":
            for inner in source.members():
                if inner == "rows" and source.peek() == "[":
                    yield from source.items()
                else:
                    facts[inner] = source.value()
        else:
            head[key] = source.value()
    if source.peek():
        raise ValueError("something follows the envelope")


def _texts(file: IO[bytes]) -> Iterator[str]:
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    while chunk := file.read(_CHUNK):
        yield decoder.decode(chunk)
    decoder.decode(b"", final=True)


def _escape(match: re.Match[str]) -> str:
    return json.dumps(match.group())[1:-1]


class _Json:
    """A JSON text read piece by piece: objects and arrays are entered, values inside them are decoded whole."""

    def __init__(self, texts: Iterator[str]) -> None:
        self._texts = texts
        self._buffer = ""
        self._at = 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            space = _SPACE.match(self._buffer, self._at)
            self._at = space.end() if space is not None else self._at
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._fill(1):
                return ""

    def members(self) -> Iterator[str]:
        """The keys of the object that starts here. Whoever takes a key reads its value before the next."""
        self._take("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise ValueError("a key is not a text")  # noqa: TRY004 - malformed JSON, like the rest
            self._take(":")
            yield key
            if self._take(",}") == "}":
                return

    def items(self) -> Iterator[Any]:
        """The values of the array that starts here."""
        self._take("[")
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            yield self.value()
            if self._take(",]") == "]":
                return

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError:
                # Perhaps it only is not all here yet; twice as much each time keeps long values linear.
                if not self._fill(max(_CHUNK, len(self._buffer) - self._at)):
                    raise
                continue
            # A number at the very end may go on in the next piece.
            if end == len(self._buffer) and isinstance(value, int | float) and self._fill(1):
                continue
            self._at = end
            return value

    def _take(self, allowed: str) -> str:
        char = self.peek()
        if not char or char not in allowed:
            raise ValueError(f"expected one of {allowed}")
        self._at += 1
        return char

    def _fill(self, least: int) -> bool:
        """Add at least `least` characters if there are any more; whether anything came."""
        pieces, size = [], 0
        while size < least:
            text = next(self._texts, None)
            if text is None:
                break
            pieces.append(text)
            size += len(text)
        if pieces:
            self._buffer = self._buffer[self._at :] + "".join(pieces)
            self._at = 0
        return bool(pieces)
