"""Text made harmless and put into columns."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbward.cli.tables import clean, cut, lines, pairs, table, width


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\x9bm", "a\\x9bm"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x00\x07\x7f", "\\x00\\x07\\x7f"),
        ("a\u202eb\u2066", "a\\u202eb\\u2066"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("\ud800", "\\ud800"),
        ("Größe 数 🎉", "Größe 数 🎉"),
    ],
)
def test_clean(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_what_is_kept() -> None:
    assert clean("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@given(st.text(alphabet=st.characters()))
def test_nothing_a_terminal_acts_on_is_left(text: str) -> None:
    made = clean(text)
    assert not any(unicodedata.category(char) in {"Cc", "Cs"} for char in made)
    assert not any(
        unicodedata.bidirectional(char) in {"LRE", "RLE", "LRO", "RLO", "LRI", "RLI", "PDI"} for char in made
    )
    made.encode()


@given(st.text(), st.integers(4, 40))
def test_cut_never_takes_more(text: str, most: int) -> None:
    made = cut(clean(text), most)
    assert width(made) <= most
    assert made == clean(text) or made.endswith("...")


def test_wide_characters_line_up() -> None:
    made = table(("A", "B"), [("数据", "x"), ("ab", "y"), ("e\u0301", "z")])
    assert made == ["A     B", "────  ─", "数据  x", "ab    y", "e\u0301     z"]


def test_an_empty_table_is_nothing() -> None:
    assert table(("A",), []) == []


def test_none_is_empty_and_limits_cut() -> None:
    assert table(("A", "B"), [(None, "123456789")], limits=(0, 6)) == ["A  B", "─  ──────", "   123..."]


def test_numbers_stand_right() -> None:
    assert list(lines(["n"], [["1"], ["22"]], [2], right=[True])) == [" n", "──", " 1", "22"]


def test_pairs_indent_what_goes_on() -> None:
    assert pairs([("Key", "a\nFake: b"), ("None", None), ("N", 5)]) == ["  Key: a\n    Fake: b", "  N: 5"]
