"""What kind of request a SQL text is, and where its statements begin and end.

Deny by default: `execute_select` needs one statement that the lexer, the word rules and the parser all hold for a plain
read. What is merely readable is `execute_dml`; what is not, or should never run here, is `Invalid`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dbward.domain.model import Dialect, Operation
from dbward.domain.sql.lex import WHITESPACE, Kind, Token, tokenize, words
from dbward.domain.sql.parse import parse_statement
from dbward.domain.sql.reads import reason_in_tokens, reason_in_tree
from dbward.errors import Invalid

MAX_BYTES = 1_048_576
MAX_STATEMENTS = 100
MAX_NESTING = 200

_TRANSACTION = words("BEGIN START COMMIT END ROLLBACK ABORT SAVEPOINT RELEASE XA")
_SESSION = words("SET RESET DISCARD USE LOCK UNLOCK PRAGMA ATTACH DETACH PREPARE EXECUTE DEALLOCATE")
_DDL = words("CREATE ALTER DROP TRUNCATE RENAME COMMENT REFRESH")
_OBJECTS = words("TABLE TABLES VIEW INDEX SEQUENCE")
_MODIFIERS = words(
    """
    OR REPLACE TEMP TEMPORARY GLOBAL LOCAL UNLOGGED UNIQUE MATERIALIZED RECURSIVE FULLTEXT SPATIAL ONLINE IGNORE
    ALGORITHM UNDEFINED MERGE TEMPTABLE =
    """
)
_KNOWN = (
    words(
        """
        ( SELECT WITH VALUES TABLE INSERT UPDATE DELETE MERGE REPLACE COPY CALL EXPLAIN DESCRIBE DESC SHOW ANALYZE
        VACUUM REINDEX CLUSTER OPTIMIZE CHECK CHECKSUM REPAIR
        """
    )
    | _DDL
)
"""First words of what may be asked for. Anything else is refused, known to a database or not."""


@dataclass(frozen=True, slots=True)
class Classification:
    """`statements` hold the text as it was sent, comments included, without the `;` between them.

    `is_ddl`: every statement is DDL; `contains_ddl`: at least one is. `reason` says why it is no plain read, or `read`.
    """

    operation: Operation
    statements: tuple[str, ...]
    is_ddl: bool
    contains_ddl: bool
    reason: str


@dataclass(frozen=True, slots=True)
class _Statement:
    text: str
    tokens: tuple[Token, ...]
    """Without comments, but with hints."""

    @property
    def first(self) -> str:
        return self.tokens[0].text

    def word(self, index: int) -> str:
        return self.tokens[index].text if index < len(self.tokens) else ""


def classify(text: str, dialect: Dialect) -> Classification:
    """Raises `Invalid` with code `sql.empty`, `sql.unparsable` or `sql.rejected`."""
    _refuse_raw(text)
    statements = _split(text, tokenize(text, dialect))
    if not statements:
        raise Invalid("there is no SQL statement", code="sql.empty")
    if len(statements) > MAX_STATEMENTS:
        raise Invalid(f"more than {MAX_STATEMENTS} statements at once", code="sql.rejected")
    for statement in statements:
        _refuse_kind(statement, dialect)
    reasons = [_why_not_a_read(statement, text, dialect) for statement in statements]
    if len(statements) > 1 and not any(reasons):
        raise Invalid(
            "several reads at once: only one result can be shown", code="sql.rejected", hint="send them one by one"
        )
    ddl = [statement.first in _DDL for statement in statements]
    reason = next((reason for reason in reasons if reason is not None), "read")
    return Classification(
        operation=Operation.EXECUTE_SELECT if reason == "read" and len(statements) == 1 else Operation.EXECUTE_DML,
        statements=tuple(statement.text for statement in statements),
        is_ddl=all(ddl),
        contains_ddl=any(ddl),
        reason=reason,
    )


def _refuse_raw(text: str) -> None:
    if len(text) > MAX_BYTES:
        raise Invalid(f"the SQL is larger than {MAX_BYTES:,} bytes", code="sql.rejected")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise Invalid("the SQL is not valid Unicode text", code="sql.rejected") from None
    if size > MAX_BYTES:
        raise Invalid(f"the SQL is larger than {MAX_BYTES:,} bytes", code="sql.rejected")
    if "\0" in text:
        raise Invalid("the SQL holds a NUL character", code="sql.rejected")


def _split(text: str, tokens: Sequence[Token]) -> list[_Statement]:
    """Cut at every `;`. One inside parentheses is refused, like parentheses that do not match."""
    statements: list[_Statement] = []
    piece: list[Token] = []
    start = depth = 0
    end_of_text = Token(Kind.OP, len(text), len(text), ";")
    for token in (*tokens, end_of_text):
        sign = token.text if token.kind is Kind.OP else ""
        depth += (sign == "(") - (sign == ")")
        if depth < 0 or (sign == ";" and depth > 0):
            raise Invalid("the parentheses do not match", code="sql.unparsable")
        if depth > MAX_NESTING:
            raise Invalid(f"parentheses nested more than {MAX_NESTING} deep", code="sql.rejected")
        if sign == ";":
            if piece:
                statements.append(_Statement(text[start : token.start].strip(WHITESPACE), tuple(piece)))
            piece = []
            start = token.end
        elif token.kind is not Kind.COMMENT:
            piece.append(token)
    return statements


def _refuse_kind(statement: _Statement, dialect: Dialect) -> None:
    """Statements that end the transaction, change the session for the next request, or are not known."""
    first = statement.first
    executable = any(it.kind is Kind.HINT and not it.text.startswith("/*+") for it in statement.tokens)
    if executable:
        raise Invalid(
            "comments that MySQL executes (/*! … */) are refused",
            code="sql.rejected",
            hint="write the SQL without them",
        )
    if any(token.kind is Kind.PARAM for token in statement.tokens):
        raise Invalid("the SQL has a parameter, and there is nothing to bind to it", code="sql.rejected")
    if first in _TRANSACTION:
        raise Invalid(f"{first}: every request runs in a transaction of its own", code="sql.rejected")
    if first in _SESSION:
        raise Invalid(f"{first} is refused: it would change the session for others", code="sql.rejected")
    if first not in _KNOWN:
        raise Invalid(
            "the SQL starts with something that is not known here", code="sql.rejected", hint="; ".join(sorted(_KNOWN))
        )
    if first in ("CREATE", "ALTER", "DROP"):
        _refuse_object(statement)
    if first == "VACUUM" and any(token.text == "INTO" for token in statement.tokens):
        raise Invalid("VACUUM INTO is refused: it writes a file", code="sql.rejected")
    if first == "EXPLAIN" and dialect is Dialect.SQLITE:
        inner = statement.word(3 if statement.word(1) == "QUERY" else 1)
        if inner not in _KNOWN:  # some pragmas act while they are compiled
            raise Invalid("EXPLAIN of this statement is refused", code="sql.rejected")


def _refuse_object(statement: _Statement) -> None:
    """Tables, views, indexes and sequences may be asked for; accounts, rights, code and whole databases may not."""
    what = next((it.text for it in statement.tokens[1:] if it.text not in _MODIFIERS), "")
    if what not in _OBJECTS:
        raise Invalid(
            f"{statement.first} is possible for tables, views, indexes and sequences only", code="sql.rejected"
        )


def _why_not_a_read(statement: _Statement, text: str, dialect: Dialect) -> str | None:
    """None for a plain read. Parses every statement, so that what cannot be understood is refused, read or not."""
    tokens = [token for token in statement.tokens if token.kind is not Kind.HINT]
    tree = parse_statement(_without_comments(text, tokens), dialect)
    return reason_in_tokens(statement.tokens, dialect) or reason_in_tree(tree, dialect)


def _without_comments(text: str, tokens: Sequence[Token]) -> str:
    parts: list[str] = []
    position = tokens[0].start
    for token in tokens:
        # A gap stays a gap and no gap stays none: both can change what the tokens beside it mean.
        gap = text[position : token.start]
        parts.append("\n" if "\n" in gap else " " if gap else "")
        parts.append(text[token.start : token.end])
        position = token.end
    return "".join(parts)
