"""A small lexer that reads SQL text exactly as each database's own lexer does.

It knows where strings, quoted names and comments end, so it decides where a statement ends. A general parser does not
get this right for every dialect, and a difference here is how one statement hides another. Whatever the database's
lexer would read differently, or not at all, is `Invalid` (code `sql.unparsable`): unfinished strings, characters
outside quotes that no dialect token starts with, white space that is not ASCII.

Assumed of the session: MySQL without NO_BACKSLASH_ESCAPES and with a character set whose bytes below 128 are ASCII;
PostgreSQL with standard_conforming_strings.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import NamedTuple

from dbward.domain.model import Dialect
from dbward.errors import Invalid

MAX_TOKENS = 100_000
MAX_OPERATOR = 64
"""Signs in a row; PostgreSQL's longest operator has 63."""
WHITESPACE = " \t\n\r\f"


def words(text: str) -> frozenset[str]:
    """A set of words written as one text: how the tables of this package are kept readable."""
    return frozenset(text.split())


class Kind(Enum):
    WORD = auto()
    QUOTED = auto()  # a quoted name; on MySQL and SQLite "…" may also be a string
    STRING = auto()
    NUMBER = auto()
    OP = auto()
    COMMENT = auto()
    HINT = auto()  # a comment that somebody executes: /*! … */ on MySQL, /*+ … */ anywhere
    PARAM = auto()
    ODD = auto()  # understood differently by different versions: no effect on where things end


class Token(NamedTuple):
    kind: Kind
    start: int
    end: int
    text: str
    """As written; words in ASCII are upper-cased."""


_LETTER = r"A-Za-z_\x80-\U0010ffff"
_WORD = rf"(?P<WORD>[{_LETTER}][{_LETTER}0-9$]*)"
# A quoted text has one reading, so a failed match costs no more than its length: a quote ends it if no second one
# follows. No possessive groups: Python before 3.11.5 goes on from the wrong place when their last round fails.
_SINGLE = r"'[^']*(?:''[^']*)*'(?!')"
_DOUBLE = r'"[^"]*(?:""[^"]*)*"(?!")'
_BACKTICK = r"`[^`]*(?:``[^`]*)*`(?!`)"
_SINGLE_ESCAPED = r"'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'(?!')"
_DOUBLE_ESCAPED = r'"[^"\\]*(?:(?:\\.|"")[^"\\]*)*"(?!")'
_NUMBER = r"(?P<NUMBER>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
_SPACE = r"(?P<SPACE>[ \t\n\r\f]+)"
_BLOCK = r"(?P<BLOCK>/\*)"

_PG_OPERATOR = r"+\-*/<>=~!@#%^&|`?"

_GRAMMAR = {
    Dialect.POSTGRESQL: re.compile(
        rf"""{_SPACE}|(?P<LINE>--[^\n\r]*)|{_BLOCK}
        |(?P<STRING>[eE]{_SINGLE_ESCAPED}|(?:[bBxXnN]|[uU]&)?{_SINGLE})
        |(?P<ODD>[uU]&{_DOUBLE})|(?P<QUOTED>{_DOUBLE})
        |(?P<DOLLAR>\$(?:[{_LETTER}][{_LETTER}0-9]*)?\$)|(?P<PARAM>\$[0-9]+)
        |{_WORD}|{_NUMBER}
        |(?P<OP>::|:=|\.\.|[()\[\],;.:]|(?:(?!--|/\*)[{_PG_OPERATOR}]){{1,{MAX_OPERATOR}}})""",
        re.VERBOSE | re.DOTALL,
    ),
    Dialect.MYSQL: re.compile(
        rf"""{_SPACE}|(?P<LINE>(?:\#|--(?=[ \t\n\r\f]|\Z))[^\n]*)|{_BLOCK}
        |(?P<STRING>{_SINGLE_ESCAPED})|(?P<QUOTED>{_DOUBLE_ESCAPED}|{_BACKTICK})
        |(?P<PARAM>\?)
        |(?P<HEX>0x[0-9a-fA-F]+|0b[01]+)|(?P<WORD>[{_LETTER}$][{_LETTER}0-9$]*)|{_NUMBER}
        |(?P<OP>:=|--|[()\[\],;.:+\-*/<>=~!@%^&|])""",
        re.VERBOSE | re.DOTALL,
    ),
    Dialect.SQLITE: re.compile(
        rf"""{_SPACE}|(?P<LINE>--[^\n]*)|{_BLOCK}
        |(?P<STRING>{_SINGLE})|(?P<QUOTED>{_DOUBLE}|{_BACKTICK}|\[[^\]]*\])
        |(?P<PARAM>\?[0-9]*|[$@:\#](?=[{_LETTER}0-9$]))
        |(?P<HEX>0[xX][0-9a-fA-F]+)|{_WORD}|{_NUMBER}
        |(?P<OP>[(),;.+\-*/<>=~!%&|])""",
        re.VERBOSE | re.DOTALL,
    ),
}

_AFTER_NUMBER = re.compile(rf"[{_LETTER}0-9$.]")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_KINDS = {kind.name: kind for kind in Kind} | {"HEX": Kind.NUMBER}


def tokenize(text: str, dialect: Dialect) -> list[Token]:
    """All tokens and comments of `text`, white space left out. Raises `Invalid`."""
    match = _GRAMMAR[dialect].match
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        found = match(text, position)
        group = None if found is None else found.lastgroup
        if found is None or group is None:
            raise _unreadable(text, position)
        start, position = position, found.end()
        if group == "SPACE":
            continue
        if len(tokens) >= MAX_TOKENS:
            raise Invalid(f"the SQL has more than {MAX_TOKENS:,} words and signs", code="sql.rejected")
        if group == "LINE":
            kind = Kind.COMMENT
        elif group == "BLOCK":
            kind = Kind.HINT if _is_executed(text, start, dialect) else Kind.COMMENT
            position = _end_of_comment(text, start, nested=dialect is Dialect.POSTGRESQL)
        elif group == "DOLLAR":
            kind = Kind.STRING
            position = _end_of_dollar_quote(text, found)
        else:
            kind = _KINDS[group]
            position = _adjusted(found, kind, dialect)
            kind = Kind.ODD if kind is Kind.NUMBER and _AFTER_NUMBER.match(text, position) else kind
        tokens.append(Token(kind, start, position, _spelled(text, start, position, kind)))
    return tokens


def _adjusted(found: re.Match[str], kind: Kind, dialect: Dialect) -> int:
    """Where the token ends: PostgreSQL takes `+` and `-` off the end of an operator unless it has other signs."""
    run = found.group()
    if kind is not Kind.OP or dialect is not Dialect.POSTGRESQL or len(run) == 1 or run[0] in ":.":
        return found.end()
    if len(run) == MAX_OPERATOR:
        raise _unreadable(found.string, found.start())
    if not set(run) & set("~!@#%^&|`?"):
        run = run[0] + run[1:].rstrip("+-")
    return found.start() + len(run)


def _spelled(text: str, start: int, end: int, kind: Kind) -> str:
    written = text[start:end]
    if kind is not Kind.WORD:
        return written
    if written.isascii():
        return written.upper()
    if not written.replace("$", "_").isidentifier():  # letters of any script, but no invisible or spacing characters
        raise _unreadable(text, start)
    return written


def _is_executed(text: str, start: int, dialect: Dialect) -> bool:
    opening = text[start + 2 : start + 4].upper()
    return opening.startswith("+") or (dialect is Dialect.MYSQL and (opening.startswith("!") or opening == "M!"))


def _end_of_comment(text: str, start: int, *, nested: bool) -> int:
    if not nested:
        end = text.find("*/", start + 2)
        if end < 0:
            raise _unreadable(text, start)
        return end + 2
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    raise _unreadable(text, start)


def _end_of_dollar_quote(text: str, opening: re.Match[str]) -> int:
    end = text.find(opening.group(), opening.end())
    if end < 0:
        raise _unreadable(text, opening.start())
    return end + len(opening.group())


def _unreadable(text: str, position: int) -> Invalid:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    shown = ascii(text[position])
    return Invalid(
        f"the SQL cannot be read from line {line}, column {column} ({shown}) on",
        code="sql.unparsable",
        hint="look for an unfinished string or comment, or a character that does not belong there",
    )
