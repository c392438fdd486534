"""Short ids: the first characters of an id, which is how people type it."""

from __future__ import annotations

import re
from typing import Final

from sqlalchemy import Column, ColumnElement, and_, false

_BEGINNING: Final = re.compile(r"[0-9a-f][0-9a-f-]{0,35}")


def begins(column: Column[str], text: str) -> ColumnElement[bool]:
    """Whether an id begins with `text`, as a range that an index serves. What cannot begin an id fits none."""
    if _BEGINNING.fullmatch(text) is None:
        return false()
    after = text + "g"  # the first text past every id that starts so: ids are lower-case hex and hyphens
    return and_(column >= text, column < after)
