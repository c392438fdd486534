"""Cutting a text into its statements, and taking the comments out of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dbward.domain.model import Dialect
from dbward.domain.sql.lex import Kind, Token, tokenize
from dbward.domain.sql.routines import Body
from dbward.errors import Invalid

MAX_NESTING = 200
MAX_STATEMENTS = 100
MAX_STATEMENTS_IN_FILE = 1000


@dataclass(frozen=True, slots=True)
class Piece:
    """One statement. `tokens` are those of the submitted text, comments left out; `text` has none either.

    `start`: where its first token stands in the submitted text; `offsets`: where each token stands in `text`. All in
    characters from 0.
    """

    text: str
    start: int
    tokens: tuple[Token, ...]
    offsets: tuple[int, ...]

    @property
    def first(self) -> str:
        return self.tokens[0].text

    def word(self, index: int) -> str:
        """The token at `index`, or an empty text behind the end."""
        return self.tokens[index].text if index < len(self.tokens) else ""

    def after(self, index: int) -> Piece:
        """What begins at the token at `index`, in its place: blanks stand for what is before."""
        at = self.offsets[index]
        return replace(self, text=" " * at + self.text[at:], tokens=self.tokens[index:], offsets=self.offsets[index:])


def cut(text: str, dialect: Dialect, *, script: bool = False) -> list[Piece]:
    """Cut at every `;`. One inside parentheses is refused, like parentheses that do not match. Raises `Invalid`.

    In a `script`, the body of a trigger or a routine is not cut where MySQL and SQLite write it without quotes.
    """
    pieces: list[Piece] = []
    piece: list[Token] = []
    body = Body() if script and dialect is not Dialect.POSTGRESQL else None
    most = MAX_STATEMENTS_IN_FILE if script else MAX_STATEMENTS
    depth = 0
    for token in (*tokenize(text, dialect), Token(Kind.OP, len(text), len(text), ";")):
        sign = token.text if token.kind is Kind.OP else ""
        depth += (sign == "(") - (sign == ")")
        if depth < 0 or (sign == ";" and depth > 0):
            raise Invalid("the parentheses do not match", code="sql.unparsable")
        if depth > MAX_NESTING:
            raise Invalid(f"parentheses nested more than {MAX_NESTING} deep", code="sql.rejected")
        if body is not None and not _is_comment(token):
            body.feed(token)
        inside = body is not None and body.open
        if inside and token.start == len(text):
            raise Invalid("a body that begins with BEGIN has no END", code="sql.unparsable")
        if sign == ";" and not inside:
            if piece:
                pieces.append(_without_comments(text, piece, dialect))
            if len(pieces) > most:
                raise Invalid(f"more than {most} statements at once", code="sql.rejected")
            piece = []
        elif piece or not _is_comment(token):
            piece.append(token)
    return pieces


def _without_comments(text: str, tokens: Sequence[Token], dialect: Dialect) -> Piece:
    """The tokens as they are written, and the white space between them. The first token is no comment.

    Raises `Invalid` when the text reads differently then: in MySQL a blank, or the end, makes a comment of `--` before.
    """
    parts: list[str] = []
    offsets: list[int] = []
    length = 0
    gap = ""
    position = tokens[0].start
    for token in tokens:
        gap += text[position : token.start]
        position = token.end
        if _is_comment(token):
            # A gap stays a gap and no gap stays none: both can change what the tokens beside it mean.
            gap = gap or " "
            continue
        offsets.append(length + len(gap))
        parts += (gap, text[token.start : token.end])
        length += len(gap) + token.end - token.start
        gap = ""
    kept = tuple(token for token in tokens if not _is_comment(token))
    bare = "".join(parts)
    again = kept if bare == text else tokenize(bare, dialect)
    if [(token.kind, token.text) for token in again] != [(token.kind, token.text) for token in kept]:
        raise Invalid(
            "the SQL reads differently without its comments", code="sql.unparsable", hint="take the comments out"
        )
    return Piece(bare, tokens[0].start, kept, tuple(offsets))


def _is_comment(token: Token) -> bool:
    """`/*+ … */` goes the way of the comments: it may set variables on MySQL, and what is judged is what runs."""
    return token.kind is Kind.COMMENT or (token.kind is Kind.HINT and token.text.startswith("/*+"))
