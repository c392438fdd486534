"""Results as people read them: table, vertical, csv or json, on the terminal or into a file."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TextIO

from dbward.cli import migrateview
from dbward.cli.output import Output
from dbward.cli.resultset import ResultSet
from dbward.cli.tables import CELL_MAX, clean, counted, cut, lines, width
from dbward.errors import Misconfigured
from dbward.settings.client import ResultFormat

NULL: Final = "NULL"
_BY_SUFFIX: Final[Mapping[str, ResultFormat]] = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "ndjson",
    ".ndjson": "ndjson",
}


def show(out: Output, result: ResultSet, form: ResultFormat) -> None:
    """A successful result on stdout, and what there is to say about it on stderr."""
    if result.columns is not None:
        shortened = _WRITERS[form](out.env.stdout, result, out.env.shows)
        if shortened:
            out.say("(some values were cut; see them whole with --result-format vertical)")
    elif form == "json":
        _json(out.env.stdout, result, out.env.shows)
    else:
        out.data(_effects(result))
    if result.columns is not None:
        out.say(summary(result))
    elif took := duration(result):
        out.say(f"({took})")


def _effects(result: ResultSet) -> list[str]:
    """What a statement without rows, or migrations, came to."""
    steps = result.facts.get("migrations")
    return list(migrateview.outcomes(steps)) if steps else counts(result)


def counts(result: ResultSet) -> list[str]:
    """How many rows there are, and how many were affected."""
    parts = []
    if result.columns is not None:
        parts.append(counted(result.row_count, "row"))
    if result.rows_affected is not None:
        parts.append(f"{counted(result.rows_affected, 'row')} affected")
    return parts or ["done"]


def summary(result: ResultSet) -> str:
    """`(3 rows, 12 ms)`: how much there is and how long the statement took."""
    took = duration(result)
    return f"({', '.join([*counts(result), took] if took else counts(result))})"


def duration(result: ResultSet) -> str:
    took = result.head.get("duration_ms")
    return migrateview.took(took) or "" if isinstance(took, int) else ""


def note_truncation(out: Output, result: ResultSet) -> None:
    if result.truncated:
        kept = counted(result.row_count, "row")
        out.warn(f"the result was cut after {kept}: {result.truncation_reason}; there may be more")


def format_for(path: Path, asked: ResultFormat | None, usual: ResultFormat) -> ResultFormat:
    """What a file gets: what was asked for, else what its suffix says, else the usual."""
    return asked or _BY_SUFFIX.get(path.suffix.lower(), usual)


def check_writable(path: Path) -> None:
    """Raise `Misconfigured` if `path` cannot become a file: better before the statement runs than after."""
    if path.is_dir():
        raise Misconfigured(f"--output {path} is a directory", code="output_unwritable")
    if not path.parent.is_dir():
        raise Misconfigured(f"--output {path}: there is no directory {path.parent}", code="output_unwritable")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise Misconfigured(f"--output {path} may not be written", code="output_unwritable")


def save(path: Path, result: ResultSet, form: ResultFormat, tell: Callable[[int], None] | None = None) -> None:
    """Write the result for its owner's eyes only, whole or not at all. `tell` is told from time to time how many rows
    are written. Raises `OSError`.
    """
    result = replace(result, tell=tell)
    if path.exists() and not path.is_file():  # a device or a pipe is written to, not replaced
        with path.open("w", encoding="utf-8", newline="\n") as out:
            _write_all(out, result, form)
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    draft = Path(name)
    try:
        with open(handle, "w", encoding="utf-8", newline="\n", errors="backslashreplace") as out:  # noqa: PTH123 - a descriptor
            _write_all(out, result, form)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _write_all(out: TextIO, result: ResultSet, form: ResultFormat) -> None:
    if result.columns is None and form != "json":
        _write_effects(out, result, form)
    else:
        _WRITERS[form](out, result, False)  # noqa: FBT003 - the writers' common signature


def _write_effects(out: TextIO, result: ResultSet, form: ResultFormat) -> None:
    if form == "csv":
        out.write(f"rows_affected\n{_text(result.rows_affected)}\n")
    elif form == "ndjson":
        out.write(_dump(result.facts) + "\n")
    else:
        out.writelines(line + "\n" for line in _effects(result))


def _table(out: TextIO, result: ResultSet, _terminal: bool) -> bool:  # noqa: FBT001 - the writers' common signature
    """Two passes: one to measure, one to print. Whether any value was cut."""
    columns = result.columns or ()
    header = [cut(clean(column.name), CELL_MAX) for column in columns]
    widths = [width(name) for name in header]
    numeric = [True] * len(columns)
    shortened = False
    for row in result.rows():
        for i, column in enumerate(columns):
            value = row.get(column.key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                numeric[i] = False
            size = width(clean(_text(value)))
            shortened = shortened or size > CELL_MAX
            widths[i] = max(widths[i], min(size, CELL_MAX))
    right = [flag and result.row_count > 0 for flag in numeric]
    rows = ([cut(clean(_text(row.get(c.key))), CELL_MAX) for c in columns] for row in result.rows())
    out.writelines(line + "\n" for line in lines(header, rows, widths, right=right))
    return shortened


def _vertical(out: TextIO, result: ResultSet, _terminal: bool) -> bool:  # noqa: FBT001 - same
    columns = result.columns or ()
    for number, row in enumerate(result.rows(), 1):
        out.write(("\n" if number > 1 else "") + f"*** Row {number} ***\n")
        for column in columns:
            # Later lines are indented, so that no value can pass for another column or another row.
            value = clean(_text(row.get(column.key)), keep="\n\t").replace("\n", "\n    ")
            out.write(f"{clean(column.name)}: {value}\n")
    return False


def _csv(out: TextIO, result: ResultSet, terminal: bool) -> bool:  # noqa: FBT001 - same
    """NULL stands bare and the text `NULL` in quotes. Bytes for a program stay as they are; a terminal is protected."""
    columns = result.columns or ()

    def field(value: Any) -> str:
        text = _text(value)
        if terminal:
            text = clean(text, keep="\n\t")
        quoted = (value is not None and text == NULL) or any(char in text for char in ',"\r\n')
        return '"' + text.replace('"', '""') + '"' if quoted else text

    out.write(",".join(field(column.name) for column in columns) + "\n")
    out.writelines(",".join(field(row.get(column.key)) for column in columns) + "\n" for row in result.rows())
    return False


def _json(out: TextIO, result: ResultSet, _terminal: bool) -> bool:  # noqa: FBT001 - same
    """`{columns, rows (arrays), rows_affected, truncated, truncation_reason}`, a line for each row."""
    columns = result.columns or ()
    named = [{"name": column.name, "type": column.type} for column in columns]
    out.write(f'{{\n  "columns": {_dump(named)},\n  "rows": [')
    before = "\n    "
    for row in result.rows() if columns else ():
        out.write(before + _dump([row.get(column.key) for column in columns]))
        before = ",\n    "
    reason = result.truncation_reason if result.truncated else None
    out.write("],\n" if before == "\n    " else "\n  ],\n")
    out.write(f'  "rows_affected": {_dump(result.rows_affected)},\n  "truncated": {_dump(result.truncated)},\n')
    out.write(f'  "truncation_reason": {_dump(reason)}\n}}\n')
    return False


def _ndjson(out: TextIO, result: ResultSet, _terminal: bool) -> bool:  # noqa: FBT001 - same
    """An object a line, for each row."""
    out.writelines(_dump(row) + "\n" for row in result.rows())
    return False


_WRITERS: Final[Mapping[ResultFormat, Callable[[TextIO, ResultSet, bool], bool]]] = {
    "table": _table,
    "vertical": _vertical,
    "csv": _csv,
    "json": _json,
    "ndjson": _ndjson,
}


def _text(value: Any) -> str:
    if value is None:
        return NULL
    return value if isinstance(value, str) else _dump(value)


def _dump(value: Any) -> str:
    """Compact JSON. Control characters beyond ASCII are escaped too; everything else that is printable is kept."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if text.isprintable() else json.dumps(value, separators=(",", ":"))
