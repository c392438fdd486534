"""Triggers, routines and events of MySQL and SQLite, whose bodies hold statements of their own.

Only a file of a migration may have them. Nobody looks into a body: whoever approves it reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dbward.domain.sql.lex import Kind, Token, words

ROUTINES: Final = words("TRIGGER PROCEDURE FUNCTION EVENT")
_BEFORE_ROUTINE: Final = words("OR REPLACE DEFINER = @ . TEMP TEMPORARY AGGREGATE CURRENT_USER CURRENT_ROLE ( )")
_NAMES: Final = frozenset({Kind.QUOTED, Kind.STRING, Kind.WORD})
_BLOCKS: Final = words("IF LOOP WHILE REPEAT CASE")
_STARTS: Final = words("; : BEGIN THEN ELSE DO LOOP REPEAT ROW")
"""What a statement of a body stands behind."""


def routine(tokens: Iterable[Token]) -> str | None:
    """Which of `ROUTINES` a statement that begins with CREATE, ALTER or DROP is about."""
    before = ""
    for token in list(tokens)[1:]:
        of_definer = before in {"=", "@", "."}
        if token.text in ROUTINES and token.kind is Kind.WORD and not of_definer:
            return token.text
        if token.text not in _BEFORE_ROUTINE and not (of_definer and token.kind in _NAMES):
            return None
        before = token.text
    return None


class Body:
    """Fed with the tokens of a text, it knows whether a `;` is inside of a body. Comments are not fed."""

    def __init__(self) -> None:
        self._head: list[Token] = []
        self._is_routine: bool | None = None
        self._before = ";"
        self._blocks: list[bool] = []
        """Those that are open, innermost last; True for a CASE that is an expression, which holds no statements."""

    @property
    def open(self) -> bool:
        return bool(self._blocks)

    def feed(self, token: Token) -> None:
        """A `;` that is not inside ends the statement; the next token begins another."""
        word = token.text if token.kind in {Kind.WORD, Kind.OP} else ""
        if word == ";" and not self.open:
            self._head, self._is_routine, self._before = [], None, ";"
            return
        if self._is_routine is None:
            self._look(token)
        if self._is_routine:
            self._count(word)
        self._before = word

    def _look(self, token: Token) -> None:
        self._head.append(token)
        if self._head[0].text != "CREATE":
            self._is_routine = False
        elif token.text in ROUTINES and token.kind is Kind.WORD:
            self._is_routine = routine(self._head) is not None

    def _count(self, word: str) -> None:
        if self._before == ".":
            return  # NEW.end: a name
        starts = self._before in _STARTS and not (self._blocks and self._blocks[-1])
        if word == "END":
            if self._blocks:
                self._blocks.pop()
        elif self._before == "END" and word in _BLOCKS:
            return  # END IF, and the like: END has closed it
        elif word == "CASE":
            self._blocks.append(not starts)
        elif word in {"BEGIN", "LOOP", "WHILE"} or (word in {"IF", "REPEAT"} and starts):
            self._blocks.append(False)
