"""Text on a terminal: made harmless, measured in columns, put into tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

CELL_MAX = 60

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""Control characters, which drive terminals, marks that reorder or hide text, and surrogates, which no stream takes."""


def clean(text: str, *, keep: str = "") -> str:
    """`text` with everything spelled out that a terminal would act on or not show; characters in `keep` stay."""

    def spell(match: re.Match[str]) -> str:
        char = match.group()
        if char in keep:
            return char
        code = ord(char)
        return _NAMED.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")

    return _UNSAFE.sub(spell, text)


def width(text: str) -> int:
    """Columns `text` takes on a terminal: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, most: int) -> str:
    """`text` in at most `most` columns; what was cut off shows as `...`."""
    if width(text) <= most:
        return text
    if text.isascii():
        return text[: most - 3] + "..."
    kept, used = [], 0
    for char in text:
        used += width(char)
        if used > most - 3:
            break
        kept.append(char)
    return "".join(kept) + "..."


def padded(text: str, columns: int, *, right: bool = False) -> str:
    space = " " * (columns - width(text))
    return space + text if right else text + space


def lines(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    widths: Sequence[int],
    *,
    right: Sequence[bool] | None = None,
) -> Iterable[str]:
    """A header, a rule and the rows, columns two spaces apart. Cells are clean, and no wider than `widths`."""
    right = right or [False] * len(widths)
    last = len(widths) - 1

    def line(cells: Sequence[str]) -> str:
        made = [
            cell if i == last and not right[i] else padded(cell, widths[i], right=right[i])
            for i, cell in enumerate(cells)
        ]
        return "  ".join(made)

    yield line(header)
    yield "  ".join("─" * w for w in widths)
    for row in rows:
        yield line(row)


def table(header: Sequence[str], rows: Sequence[Sequence[object]], limits: Sequence[int] | None = None) -> list[str]:
    """A whole small table; empty when there are no rows. None shows as nothing; a limit of 0 means none."""
    if not rows:
        return []
    limits = limits or [0] * len(header)
    cells = [
        [cut(text, limit) if limit else text for text, limit in zip(map(_shown, row), limits, strict=True)]
        for row in rows
    ]
    widths = [max(width(cell) for cell in column) for column in zip(header, *cells, strict=True)]
    return [line.rstrip() for line in lines(header, cells, widths)]


def pairs(entries: Iterable[tuple[str, object]]) -> list[str]:
    """`  key: value` lines. A value of several lines goes on, indented, below its key; None is left out."""
    made = []
    for key, value in entries:
        if value is not None:
            made.append(f"  {key}: " + clean(str(value), keep="\n").replace("\n", "\n    "))
    return made


def counted(count: int, what: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _shown(value: object) -> str:
    return "" if value is None else clean(str(value))
