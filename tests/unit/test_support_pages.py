"""How examples are read from the documentation and compared with what is seen: the comparison can fail."""

from __future__ import annotations

import pytest

from tests.support.pages import Block, Reader, Step, blocks, transcript

PAGE = """# Title

```sh
first
```

- In a list:

  ```sql
  SELECT
    1
  ```

```
```
"""


def test_blocks_are_found_where_they_stand() -> None:
    assert blocks("p.md", PAGE) == [
        Block("p.md", "sh", "first", 4),
        Block("p.md", "sql", "SELECT\n  1", 10),
        Block("p.md", "", "", 15),
    ]


def test_a_transcript_has_people_commands_and_what_they_see() -> None:
    text = "$ one\nalice$ two \\\n  more\nseen\n\nagain\n> again\nbob$ three <<END\n> x\n>\n> END"
    assert list(transcript(text)) == [
        Step("", "one", ()),
        Step("alice", "two \\\n  more", ("seen", "", "again", "> again")),
        Step("bob", "three <<END\nx\n\nEND", ()),
    ]
    with pytest.raises(ValueError, match="shown before"):
        list(transcript("seen\n$ one"))


@pytest.mark.parametrize(
    ("shown", "written", "same"),
    [
        ("a  b", "a b\n", True),
        ("a\n───", "a\n\n─────\n", True),
        ("a", "a\nb\n", False),
        ("a\nb", "a\n", False),
        ("a\n…", "a\nb\nc\n", True),
        ("…\nc", "a\nb\n", False),
        ("a … c", "a b b c\n", True),
        ("a … c", "a b\nc\n", False),
        ("(5 rows, 3 ms)", "(5 rows, 12.5 ms)\n", True),
        ("(5 rows, 3 ms)", "(6 rows, 3 ms)\n", False),
        ("at 2026-01-02 03:04", "at 2027-11-12 13:14\n", True),
        ("at 2026-01-02 03:04", "at 2027-11-12\n", False),
        ("a.c", "abc\n", False),
        ("1a2b3c4d and 1a2b3c4d", "00000001 and 00000001\n", True),
        ("1a2b3c4d and 1a2b3c4d", "0000000a and 0000000b\n", False),
    ],
)
def test_what_counts_as_the_same(shown: str, written: str, *, same: bool) -> None:
    assert Reader().sees(tuple(shown.splitlines()), written) is same


def test_what_was_learned_is_typed_and_expected_from_then_on() -> None:
    reader = Reader()
    assert reader.types("show 1a2b3c4d") == "show 1a2b3c4d"
    assert reader.sees(("made 1a2b3c4d", "file 20260102030405_x.sql"), "made 9f8e7d6c\nfile 20270102030405_x.sql\n")
    assert reader.types("show 1a2b3c4d 20260102030405") == "show 9f8e7d6c 20270102030405"
    assert not reader.sees(("made 1a2b3c4d",), "made 1a2b3c4d\n")
    assert reader.sees(("made 1a2b3c4d",), "made 9f8e7d6c\n")
