"""The word that a statement begins with, past its comments: what it is about to do, as far as that can be told."""

from __future__ import annotations

import re

_LEADING = re.compile(r"(?:\s|\(|/\*(?![!M]).*?\*/|--(?=[\s\x00-\x1f]|$)[^\n]*(?:\n|$)|#[^\n]*(?:\n|$))*", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]+")


def first_word(sql: str) -> str:
    """The first keyword in upper case; empty when there is none, or an executable comment stands before or in it."""
    if "/*!" in sql or "/*M!" in sql:
        return ""
    leading = _LEADING.match(sql)
    word = _WORD.match(sql, leading.end() if leading else 0)
    return word.group().upper() if word else ""
