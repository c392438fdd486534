"""The audit log as a file on this machine: fetched, and verified without the server."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from dbward.cli.app import App
from dbward.cli.exits import Outcome
from dbward.cli.render import check_writable
from dbward.cli.spinner import Spinner
from dbward.errors import Misconfigured

PATIENCE_SECS: Final = 600.0
"""How long the server may look for the next events when few of a long record match."""


def download(app: App, params: dict[str, Any], output: str) -> Outcome:
    """Write the answer of the export to `output`. Raises what the server says, and `Misconfigured`."""
    size = 0
    with (
        _target(_path(app, output)) as out,
        Spinner(app.out, "exporting") as spinner,
        app.client.stream("/api/audit/export", params, answer_secs=PATIENCE_SECS) as chunks,
    ):
        for chunk in chunks or ():
            out.write(chunk)
            size += len(chunk)
            spinner.text = f"exporting: {size / 2**20:.1f} MB"
    app.out.say(f"Exported to {output} ({size:,} bytes).")
    return Outcome({"file": output, "bytes": size})


def verify_export(app: App, file: str, ring: str) -> dict[str, Any]:
    """The verdict over an export, as the server gives one over its record. Raises `Misconfigured`, `Invalid`."""
    from dbward import keys
    from dbward.domain.auditfile import verify_file

    _, keyring = keys.read_ring(_path(app, ring))
    try:
        with _path(app, file).open("rb") as lines, Spinner(app.out, "verifying the export") as spinner:
            verdict, head = verify_file(_told(lines, spinner), keyring)
    except OSError as e:
        raise Misconfigured(f"{file} cannot be read: {e.strerror or e}", code="input_unreadable") from e
    return {
        "total_events": verdict.total_events,
        "first_broken_id": verdict.first_broken_id,
        "valid": verdict.valid,
        "reason": verdict.reason,
        "checkpoints": verdict.checkpoints,
        "last_seq": head.seq,
    }


def _told(lines: Iterable[bytes], spinner: Spinner) -> Iterator[bytes]:
    for number, line in enumerate(lines):
        if number % 10_000 == 0:
            spinner.text = f"verifying the export: {number:,} events"
        yield line


@contextmanager
def _target(path: Path) -> Iterator[IO[bytes]]:
    """A file, for its owner only, that takes its name when it is whole; a pipe or a device is written to as it is."""
    check_writable(path)
    if path.exists() and not path.is_file():
        with path.open("wb") as out:
            yield out
        return
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _path(app: App, name: str) -> Path:
    return app.env.cwd / Path(name).expanduser()
