"""Hostile SQL, made from a seed: token soup that a grammar holds together, and mutations of the corpus.

The soup is full of `w` and `bump`, which leave a mark where they run, and of what lexers and parsers read differently.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from dbward.domain.model import Dialect
from tests.truth import corpus

PG, MY, SL = Dialect.POSTGRESQL, Dialect.MYSQL, Dialect.SQLITE

DEPTH = 5
"""Levels of the grammar before it takes each rule's first form, which ends."""
LONGEST = 4000
"""Characters; enough for anything but the long lists of the corpus."""

Rules = Mapping[str, Sequence[str]]

_RULE = re.compile(r"\{(\w+)\}")
_PIECE = re.compile(r"\w+|\s+|.", re.DOTALL)
_GAPS = (*[" "] * 30, "", "", "\n", "\t", "\r\n", "\f", "/**/", " /* x */ ", "--x\n", "-- x\n", "#x\n", "  ")
_SPACES = (
    "\t",
    "\n",
    "\r",
    "\f",
    "\x0b",
    "\x1a",
    "\x85",
    "\u00a0",
    "\u2003",
    "\u2028",
    "\u3000",
    "\ufeff",
    "\u200b",
    "",
)
_CALLS = ("w", "bump", "w()", "bump(1)", "w ()", "@ bump(1)", "public.w()", "app.w()", '"w"()', "`w`()", "[w]()")
_JOINTS = (";", " ; ", "", " ", "\n", " END; ", " --", "/*", "*/", "'", '"', "\\", "$$", "#", "; --", "/*!", "{#", "}")
_WRAPS = (
    "SELECT * FROM ({}) q",
    "WITH q AS ({}) SELECT * FROM q",
    "WITH q(a) AS MATERIALIZED ({}) SELECT * FROM q",
    "SELECT ({})",
    "({})",
    "EXPLAIN {}",
    "EXPLAIN ANALYZE {}",
    "EXPLAIN (ANALYZE) {}",
    "{} UNION ALL {}",
    "SELECT 1 WHERE EXISTS ({})",
    "CREATE TABLE x AS {}",
    "SELECT w(({}))",
    "SET wait_timeout = 60; {}",
    "SELECT 1 IN ({}), w()",
    "SELECT '{}'",
    "/* {} */ SELECT 1",
    "/*! {} */ SELECT 1",
    "SELECT 1 -- {}\n",
    "{}; {}",
)


def text(seed: str, dialect: Dialect) -> str:
    """The same for the same seed, with Python's generator as it has been since 3.2."""
    dice = random.Random(f"{seed}:{dialect}")
    if dice.random() < 0.4:
        made = soup(dice, dialect)
        changes = dice.choice((0, 0, 1))
    else:
        made = dice.choice(_corpus(dialect))
        changes = dice.randint(1, 3)
    for _ in range(changes):
        made = dice.choice(_MUTATIONS)(dice, dialect, made)
    return made[:LONGEST]


@cache
def _corpus(dialect: Dialect) -> list[str]:
    return [sql for _, sql in corpus.texts(dialect) if len(sql) < LONGEST]


# --- soup ------------------------------------------------------------------------------------------------------------


def soup(dice: random.Random, dialect: Dialect, rule: str = "text", depth: int = 0) -> str:
    forms = _grammar(dialect)[rule]
    form = forms[0] if depth > DEPTH else dice.choice(forms)
    grown = (
        _RULE.sub(lambda found: soup(dice, dialect, found[1], depth + 1), part) for part in form.split(" ") if part
    )
    return "".join(part + dice.choice(_GAPS) for part in grown).rstrip(" ")


@cache
def _grammar(dialect: Dialect) -> Rules:
    rules: dict[str, list[str]] = {}
    for name in ("common", str(dialect)):
        forms: list[str] = []
        for line in (Path(__file__).parent / "grammars" / f"{name}.txt").read_text().splitlines():
            if line.startswith(" "):
                forms.append(line.strip().encode().decode("unicode_escape"))
            elif not line.startswith("#"):
                forms = rules.setdefault(line.rstrip(":"), [])
    return rules


# --- mutations -------------------------------------------------------------------------------------------------------


def _pieces(sql: str) -> list[str]:
    return _PIECE.findall(sql) or [""]


def _put(sql: str, at: int, what: str) -> str:
    return sql[:at] + what + sql[at:]


def _insert(dice: random.Random, dialect: Dialect, sql: str) -> str:
    nasty = soup(dice, dialect, "nasty", DEPTH - 1)
    return _put(sql, dice.randint(0, len(sql)), nasty)


def _comment(dice: random.Random, dialect: Dialect, sql: str) -> str:
    pieces = _pieces(sql)
    pieces.insert(dice.randint(0, len(pieces)), dice.choice(_GAPS[30:]))
    return "".join(pieces)


def _case(dice: random.Random, dialect: Dialect, sql: str) -> str:
    return "".join(dice.choice((char.upper(), char.lower())) for char in sql)


def _space(dice: random.Random, dialect: Dialect, sql: str) -> str:
    return re.sub(r"\s", lambda found: dice.choice(_SPACES) if dice.random() < 0.3 else found[0], sql)


def _quote(dice: random.Random, dialect: Dialect, sql: str) -> str:
    pieces = _pieces(sql)
    at = dice.randrange(len(pieces))
    pieces[at] = dice.choice(('"{}"', "`{}`", "[{}]", "'{}'", 'U&"{}"', "$${}$$", "E'{}'")).format(pieces[at])
    return "".join(pieces)


def _alike(dice: random.Random, dialect: Dialect, sql: str) -> str:
    """Characters that look like the ones they stand for: full-width forms, and others that case folding changes."""
    at = dice.randint(0, len(sql))
    char = sql[at : at + 1]
    strange = {"k": "\u212a", "s": "\u017f", "i": "\u0131", "I": "\u0130"}.get(char)
    wide = chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else "\u00a0"
    return sql[:at] + (strange or wide) + sql[at + 1 :]


def _cut(dice: random.Random, dialect: Dialect, sql: str) -> str:
    at = dice.randint(0, len(sql))
    return dice.choice((sql[:at], sql[at:]))


def _drop(dice: random.Random, dialect: Dialect, sql: str) -> str:
    pieces = _pieces(sql)
    del pieces[dice.randrange(len(pieces))]
    return "".join(pieces)


def _swap(dice: random.Random, dialect: Dialect, sql: str) -> str:
    pieces = _pieces(sql)
    one, other = dice.randrange(len(pieces)), dice.randrange(len(pieces))
    pieces[one], pieces[other] = pieces[other], pieces[one]
    return "".join(pieces)


def _splice(dice: random.Random, dialect: Dialect, sql: str) -> str:
    other = dice.choice(_corpus(dialect))
    if dice.random() < 0.5:
        return sql + dice.choice(_JOINTS) + other
    return sql[: dice.randint(0, len(sql))] + dice.choice(_JOINTS) + other[dice.randint(0, len(other)) :]


def _wrap(dice: random.Random, dialect: Dialect, sql: str) -> str:
    return dice.choice(_WRAPS).replace("{}", sql.rstrip("; \n"))


def _mark(dice: random.Random, dialect: Dialect, sql: str) -> str:
    """A word becomes a call that leaves a mark."""
    pieces = _pieces(sql)
    words = [at for at, piece in enumerate(pieces) if piece[0:1].isalpha()]
    if words:
        pieces[dice.choice(words)] = dice.choice(_CALLS)
    return "".join(pieces)


def _graft(dice: random.Random, dialect: Dialect, sql: str) -> str:
    """A word or a number becomes an expression of the soup."""
    pieces = _pieces(sql)
    words = [at for at, piece in enumerate(pieces) if piece[0:1].isalnum()]
    if words:
        pieces[dice.choice(words)] = soup(dice, dialect, dice.choice(("expr", "from", "word")), DEPTH - 2)
    return "".join(pieces)


_MUTATIONS: Sequence[Callable[[random.Random, Dialect, str], str]] = (
    _insert,
    _comment,
    _case,
    _space,
    _quote,
    _alike,
    _cut,
    _drop,
    _swap,
    _splice,
    _wrap,
    _mark,
    _mark,
    _graft,
    _graft,
)
