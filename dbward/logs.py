"""Logging of server and agent: one line a record, text or JSON, with the ids of what is being worked on.

SQL text and secrets do not belong in a log line; nothing here can tell them apart, so nobody may pass them.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Literal, Protocol, TextIO

_context: ContextVar[Mapping[str, str]] = ContextVar("dbward_log_context", default={})  # noqa: B039 - never mutated

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "context", "taskName"}
_CHATTY: Final = (
    "alembic",
    "botocore",
    "celery.app.trace",
    "celery.worker.strategy",
    "httpcore2",
    "httpx2",
    "urllib3",
)
"""What these say at level info, or below, our own lines say already."""

_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 0x09} | {
    0x0A: "\\n",
    0x0D: "\\r",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
"""What would end a line or drive a terminal."""


@contextmanager
def bound(**ids: str) -> Iterator[None]:
    """Every line logged inside, by this thread or task, carries `ids` (request_id, execution_id, …)."""
    token = _context.set({**_context.get(), **ids})
    try:
        yield
    finally:
        _context.reset(token)


class Wanted(Protocol):
    """The `[logging]` section, whose type lies in a higher layer."""

    @property
    def level(self) -> str: ...
    @property
    def format(self) -> Literal["text", "json"]: ...


def configure(wanted: Wanted, stream: TextIO | None = None) -> None:
    """Send the logs of this process to `stream` (stderr). Replaces whatever was set up before."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if wanted.format == "json" else TextLines())
    handler.addFilter(_attach)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.getLevelNamesMapping()[wanted.level.upper()])
    logging.captureWarnings(capture=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _attach(record: logging.LogRecord) -> bool:
    record.context = dict(_context.get())
    return True


def _stamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    """Bound ids, then what the call passed in `extra`."""
    bound_ids: dict[str, Any] = getattr(record, "context", {})
    if not record.name.startswith("dbward"):  # what others attach is for their own handlers
        return bound_ids
    return {**bound_ids, **{key: value for key, value in vars(record).items() if key not in _STANDARD}}


class TextLines(logging.Formatter):
    """`2026-01-31T12:00:00.123Z INFO dbward.server: message request_id=…`, tracebacks on the lines after it."""

    def format(self, record: logging.LogRecord) -> str:
        facts = "".join(f" {key}={value}" for key, value in _facts(record).items())
        line = f"{_stamp(record)} {record.levelname} {record.name}: {record.getMessage()}{facts}".translate(_CONTROL)
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


class JsonLines(logging.Formatter):
    """One JSON object a line: `ts`, `level`, `logger`, `message`, the facts, `exception` when there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "ts": _stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry = {**entry, **{key: value for key, value in _facts(record).items() if key not in entry}}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True, default=str)
