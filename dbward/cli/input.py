"""The SQL that a command is given: as an argument, in a file, or on standard input."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Final

import click

from dbward.cli.app import App
from dbward.errors import Invalid, Misconfigured

MOST_BYTES: Final = 64 * 1024 * 1024
"""No server takes more in one statement; what is read from a pipe must end somewhere."""

sql_file = click.option(
    "-f",
    "--file",
    "file",
    type=click.Path(allow_dash=True),
    metavar="FILE",
    help="Read the SQL from FILE; `-` is standard input.",
)


def sql_of(app: App, sql: str | None, file: str | None) -> str:
    """The text of exactly one of the two; `-` in either means standard input. Raises `UsageError`, `Invalid`."""
    if (sql is None) == (file is None):
        raise click.UsageError("give the SQL as an argument, or with -f FILE")
    return sql if sql is not None and sql != "-" else _read(app, file or "-")


def _read(app: App, file: str) -> str:
    """The statement exactly as it stands there, apart from a byte-order mark."""
    if file == "-":
        stream: IO[bytes] | None = getattr(app.env.stdin, "buffer", None)
        raw = stream.read(MOST_BYTES + 1) if stream is not None else app.env.stdin.read(MOST_BYTES + 1).encode()
    else:
        try:
            with (app.env.cwd / Path(file).expanduser()).open("rb") as source:
                raw = source.read(MOST_BYTES + 1)
        except OSError as e:
            raise Misconfigured(f"{file} cannot be read: {e.strerror or e}", code="input_unreadable") from e
    if len(raw) > MOST_BYTES:
        raise Invalid(f"the SQL is over {MOST_BYTES} bytes", code="payload.too_large")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise Invalid(f"the SQL is not UTF-8 text (byte {e.start})", hint="convert the file first") from e
