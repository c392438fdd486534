"""Migration files: read strictly, with the line of each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbward.errors import Invalid
from dbward.migrate.files import BadFiles, parse, read_directory

GOOD = b"""-- what it is for
-- migrate:up
CREATE TABLE a (id int);
INSERT INTO a VALUES (1);

-- migrate:down transaction:false
DROP TABLE a;
"""


def mistakes(content: bytes, file: str = "1_a.sql") -> list[str]:
    with pytest.raises(BadFiles) as raised:
        parse(file, content)
    return [str(mistake) for mistake in raised.value.mistakes]


def test_a_file_says_both_directions():
    found = parse("20260501093000_add_a.sql", GOOD)
    assert (found.version, found.name) == ("20260501093000", "add_a")
    assert found.up.sql == "CREATE TABLE a (id int);\nINSERT INTO a VALUES (1);"
    assert (found.up.transactional, found.up.line) == (True, 3)
    assert found.down is not None
    assert (found.down.sql, found.down.transactional, found.down.line) == ("DROP TABLE a;", False, 7)
    assert len(found.checksum) == 64


def test_the_end_of_a_line_does_not_matter_but_to_the_checksum():
    unix, windows = parse("1_a.sql", GOOD), parse("1_a.sql", GOOD.replace(b"\n", b"\r\n"))
    assert windows.up.sql == unix.up.sql.replace("\n", "\r\n")
    assert (windows.up.line, windows.down) == (unix.up.line, unix.down)
    assert unix.checksum != windows.checksum


def test_what_is_in_the_file_is_what_runs():
    text = "SELECT 'a\x0cb\u2028c\rd';"
    assert parse("1_a.sql", f"-- migrate:up\n{text}\n".encode()).up.sql == text


def test_no_down_means_that_it_cannot_be_undone():
    assert parse("1_a.sql", b"-- migrate:up\nSELECT 1;\n").down is None
    assert parse("1_a.sql", b"-- migrate:up\nSELECT 1;\n-- migrate:down\n-- nothing to do\n").down is None


def test_a_marker_inside_a_line_is_text():
    found = parse("1_a.sql", b"-- migrate:up\nINSERT INTO t VALUES ('-- migrate:down');\n")
    assert found.down is None
    assert "'-- migrate:down'" in found.up.sql


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "1_a.sql:1: has no line `-- migrate:up`"),
        (b"CREATE TABLE a (id int);\n", "1_a.sql:1: has no line `-- migrate:up`"),
        (b"-- migrate:up\n\n-- migrate:down\nDROP TABLE a;\n", "1_a.sql:1: nothing follows `-- migrate:up`"),
        (b"-- migrate:up\n-- to do\n", "1_a.sql:1: nothing follows `-- migrate:up`"),
        (b"-- migrate:down\nx;\n-- migrate:up\ny;\n", "1_a.sql:1: `-- migrate:down` comes before `-- migrate:up`"),
        (b"-- migrate:up\nx;\n-- migrate:up\ny;\n", "1_a.sql:3: a second `-- migrate:up`"),
        (b"SELECT 1;\n-- migrate:up\nx;\n", "1_a.sql:1: stands before `-- migrate:up` and would never run"),
        (
            b"-- migrate:up transaction:no\nx;\n",
            "1_a.sql:1: unknown option 'transaction:no'; there is `transaction:false`",
        ),
        (b"-- migrate:upp\nx;\n", "1_a.sql:1: `-- migrate:upp` is neither `migrate:up` nor `migrate:down`"),
        (b"-- migrate:up\nx\n\xff\n", "1_a.sql:3: is not UTF-8"),
        (b"-- migrate:up\nx\0\n", "1_a.sql:2: holds a NUL character"),
    ],
)
def test_a_mistake_names_its_line(content, expected):
    assert expected in mistakes(content)


@pytest.mark.parametrize("file", ["a.sql", "V2_x.sql", "_x.sql", "1.sql", "1_x.SQL", "\u0661_x.sql"])
def test_a_name_that_is_not_understood_is_not_skipped(file):
    assert mistakes(GOOD, file) == [f"{file}: is not named <digits>_<name>.sql"]


def test_a_directory_is_in_the_order_of_the_numbers(tmp_path: Path):
    for name in ("10_b.sql", "9_a.sql", "README.md"):
        (tmp_path / name).write_bytes(GOOD)
    assert [one.file for one in read_directory(tmp_path)] == ["9_a.sql", "10_b.sql"]


def test_every_mistake_of_a_directory_is_told_at_once(tmp_path: Path):
    (tmp_path / "1_a.sql").write_bytes(GOOD)
    (tmp_path / "01_b.sql").write_bytes(GOOD)
    (tmp_path / "oops.sql").write_bytes(GOOD)
    (tmp_path / "3_c.sql").write_bytes(b"")
    (tmp_path / "4_d.sql").mkdir()
    with pytest.raises(BadFiles) as raised:
        read_directory(tmp_path)
    assert [(mistake.file, mistake.line) for mistake in raised.value.mistakes] == [
        ("3_c.sql", 1),
        ("4_d.sql", None),
        ("oops.sql", None),
        ("1_a.sql", None),
    ]


def test_a_directory_that_is_not_there(tmp_path: Path):
    with pytest.raises(Invalid) as raised:
        read_directory(tmp_path / "none")
    assert raised.value.code == "migration.directory"


@given(st.binary(max_size=200) | st.text(alphabet="-migrate:up down\n;x", max_size=200).map(str.encode))
def test_any_bytes_are_a_migration_or_a_mistake(content):
    try:
        found = parse("1_a.sql", content)
    except BadFiles:
        return
    assert found.up.sql
