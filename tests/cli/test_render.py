"""Results in every format, on a terminal and in a file."""

from __future__ import annotations

import csv
import io
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from dbward.cli import render
from dbward.cli.env import Env
from dbward.cli.output import Output
from dbward.cli.resultset import ResultSet, read
from dbward.errors import Misconfigured
from dbward.settings.client import ResultFormat
from tests.cli.conftest import Terminal

ROWS = [
    {"id": 1, "name": "Ann", "note": None},
    {"id": 20, "name": 'a,"b"\nc', "note": "NULL"},
    {"id": 3, "name": "数\x1b]0;pwned\x07", "note": ""},
    {"id": None, "name": "x" * 70, "note": {"k": [1, True]}},
]


def result(
    rows: list[dict[str, Any]] | None = None, names: tuple[str, ...] = ("id", "name", "note"), **more: Any
) -> ResultSet:
    columns = [{"name": name, "key": name, "type": "t"} for name in names]
    facts = {"columns": columns, "truncated": False, "rows": ROWS if rows is None else rows}
    envelope = {"success": True, "rows_affected": None, "result_data": facts, "duration_ms": 12, **more}
    return read(io.BytesIO(json.dumps(envelope).encode()))


def shown(found: ResultSet, form: ResultFormat, *, terminal: bool = False) -> tuple[str, str]:
    out, err = Terminal() if terminal else io.StringIO(), io.StringIO()
    render.show(Output(Env(io.StringIO(), out, err, {}), "human"), found, form)
    return out.getvalue(), err.getvalue()


def test_table() -> None:
    out, err = shown(result(), "table")
    assert out.splitlines() == [
        "  id  name" + " " * 58 + "note",
        "────  " + "─" * 60 + "  ──────────────",
        "   1  Ann" + " " * 59 + "NULL",
        '  20  a,"b"\\nc' + " " * 54 + "NULL",
        "   3  数\\x1b]0;pwned\\x07" + " " * 42 + "  ",
        "NULL  " + "x" * 57 + '...  {"k":[1,true]}',
    ]
    assert "(4 rows, 12 ms)" in err
    assert "some values were cut" in err


def test_no_rows_show_their_columns() -> None:
    out, err = shown(result([]), "table")
    assert out == "id  name  note\n──  ────  ────\n"
    assert "(0 rows, 12 ms)" in err


def test_vertical_cannot_be_forged() -> None:
    out, _ = shown(result([{"id": 1, "name": "a\n*** Row 2 ***\nid: 2", "note": "\x1b[2J"}]), "vertical")
    assert out == "*** Row 1 ***\nid: 1\nname: a\n    *** Row 2 ***\n    id: 2\nnote: \\x1b[2J\n"


def test_csv_for_programs_is_exact() -> None:
    out, _ = shown(result(), "csv")
    rows = list(csv.reader(io.StringIO(out, newline="")))
    assert rows[0] == ["id", "name", "note"]
    assert rows[2] == ["20", 'a,"b"\nc', "NULL"]
    assert rows[3][1] == "数\x1b]0;pwned\x07"
    assert out.splitlines()[1] == "1,Ann,NULL"
    assert '"NULL"' in out
    assert out.endswith("\n")
    assert not out.endswith("\n\n")


def test_csv_on_a_terminal_is_harmless() -> None:
    out, _ = shown(result(), "csv", terminal=True)
    assert "\x1b" not in out


@pytest.mark.parametrize("terminal", [True, False])
def test_json(terminal: bool) -> None:
    out, _ = shown(result(truncated=True), "json", terminal=terminal)
    assert "\x1b" not in out
    made = json.loads(out)
    assert made["rows"] == [list(row.values()) for row in ROWS]
    assert made["columns"][0] == {"name": "id", "type": "t"}
    assert made["truncated"] is True


@pytest.mark.parametrize("terminal", [True, False])
def test_an_object_a_line(terminal: bool) -> None:
    out, _ = shown(result(), "ndjson", terminal=terminal)
    assert "\x1b" not in out
    assert [json.loads(line) for line in out.splitlines()] == ROWS


@pytest.mark.parametrize("form", ["table", "csv", "vertical", "ndjson"])
def test_only_a_count(form: ResultFormat) -> None:
    found = read(
        io.BytesIO(b'{"success": true, "rows_affected": 1, "duration_ms": 3, "result_data": {"rows_affected": 1}}')
    )
    assert shown(found, form) == ("1 row affected\n", "(3 ms)\n")


def test_changed_and_returned() -> None:
    _, err = shown(result(rows_affected=1234), "table")
    assert "(4 rows, 1,234 rows affected, 12 ms)" in err


def test_truncation_is_said() -> None:
    env = Env(io.StringIO(), io.StringIO(), io.StringIO(), {})
    out = Output(env, "human")
    render.note_truncation(out, result(truncated=True))
    assert out.warnings == ["the result was cut after 4 rows: a limit was reached; there may be more"]


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        ("x.csv", None, "csv"),
        ("x.JSON", None, "json"),
        ("x.jsonl", None, "ndjson"),
        ("x.ndjson", None, "ndjson"),
        ("x", None, "table"),
        ("x.csv", "vertical", "vertical"),
    ],
)
def test_which_format_a_file_gets(name: str, asked: ResultFormat | None, expected: str) -> None:
    assert render.format_for(Path(name), asked, "table") == expected


def test_saving(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")
    path.chmod(0o644)
    render.save(path, result(), "json")
    assert json.loads(path.read_text())["rows"][0] == [1, "Ann", None]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("csv", "rows_affected\n2\n"),
        ("ndjson", '{"rows_affected":2}\n'),
        ("table", "2 rows affected\n"),
        ("vertical", "2 rows affected\n"),
    ],
)
def test_saving_what_has_no_rows(tmp_path: Path, form: ResultFormat, expected: str) -> None:
    envelope = {"success": True, "rows_affected": 2, "result_data": {"rows_affected": 2}}
    render.save(tmp_path / "r", read(io.BytesIO(json.dumps(envelope).encode())), form)
    assert (tmp_path / "r").read_text() == expected


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_is_saved_is_whole_or_what_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "r.csv"
    path.write_text("old")

    def break_off(rows: int) -> None:
        if rows >= 2000:
            raise error

    with pytest.raises(error):
        render.save(path, result([{"id": n} for n in range(3000)], ("id",)), "csv", break_off)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.csv"]


def test_saving_to_a_device_leaves_it_one() -> None:
    null = Path("/dev/null")
    render.save(null, result(), "csv")
    assert null.is_char_device()


def test_what_cannot_be_written_is_found_before(tmp_path: Path) -> None:
    render.check_writable(tmp_path / "fine")
    for path in (tmp_path, tmp_path / "no" / "x"):
        with pytest.raises(Misconfigured):
            render.check_writable(path)
