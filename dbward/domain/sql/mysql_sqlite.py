"""MySQL, MariaDB and SQLite: what each statement is, judged on our lexer's tokens and on sqlglot's tree.

Neither alone is trusted: a plain read is what both hold for one. What runs is the text that both have read, without its
comments. `postgresql` does the same with the server's own grammar, which these two do not offer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

from dbward.domain.model import Dialect
from dbward.domain.sql import sqlite_names
from dbward.domain.sql.cut import Piece, cut
from dbward.domain.sql.lex import Kind as Lexed
from dbward.domain.sql.lex import Token, words
from dbward.domain.sql.parse import parse_statement
from dbward.domain.sql.reads import reason_in_tokens, reason_in_tree
from dbward.domain.sql.routines import routine
from dbward.domain.sql.statements import Kind, Statement
from dbward.errors import Invalid

_TRANSACTION = words("BEGIN START COMMIT END ROLLBACK ABORT SAVEPOINT RELEASE XA")
_SESSION = words("RESET DISCARD USE LOCK UNLOCK ATTACH DETACH PREPARE EXECUTE DEALLOCATE")
_DDL = words("CREATE ALTER DROP TRUNCATE RENAME COMMENT")
_OBJECTS = words("TABLE TABLES VIEW INDEX SEQUENCE")
_MODIFIERS = words(
    """
    OR REPLACE TEMP TEMPORARY UNIQUE RECURSIVE FULLTEXT SPATIAL ONLINE IGNORE ALGORITHM UNDEFINED MERGE TEMPTABLE =
    """
)
_QUERIES = words("( SELECT WITH VALUES TABLE")
_WRITES = words("INSERT UPDATE DELETE MERGE REPLACE CALL")
_MANNERS = words(
    """
    LOW_PRIORITY DELAYED HIGH_PRIORITY IGNORE QUICK STRAIGHT_JOIN SQL_NO_CACHE SQL_CACHE SQL_SMALL_RESULT SQL_BIG_RESULT
    SQL_BUFFER_RESULT
    """
)
_DUPLICATES = words("DISTINCT ALL")
_CONFLICTS = words("ABORT FAIL IGNORE REPLACE ROLLBACK")
_VERBS = words("SELECT INSERT UPDATE DELETE REPLACE")
_NO_VERB_BEHIND = words(". KEY FOR ON")
_MAINTENANCE = words("ANALYZE VACUUM REINDEX OPTIMIZE CHECK CHECKSUM REPAIR")
_EXPLAINS = words("EXPLAIN DESCRIBE DESC")
_KNOWN = _QUERIES | _WRITES | _MAINTENANCE | _EXPLAINS | _DDL | words("SHOW SET PRAGMA")
"""First words of what may be asked for. Anything else is refused, known to a database or not."""

_NAMES = frozenset({Lexed.WORD, Lexed.QUOTED})
_PLAIN = _NAMES | {Lexed.STRING, Lexed.NUMBER}

_SHOW_SCOPES = words("FULL GLOBAL SESSION LOCAL EXTENDED")
_SHOWN = words(
    """
    TABLES COLUMNS FIELDS INDEX INDEXES KEYS DATABASES SCHEMAS VARIABLES STATUS PROCESSLIST GRANTS WARNINGS ERRORS
    ENGINE ENGINES TABLE CREATE COLLATION CHARACTER CHARSET TRIGGERS EVENTS FUNCTION PROCEDURE PLUGINS PRIVILEGES
    """
)
_SHOW_SIGNS = frozenset({".", ",", "=", "<", ">", "!"})
_CONNECTIVES = words("AND OR NOT LIKE REGEXP RLIKE IS NULL")
_SET_SCOPES = words("SESSION LOCAL")
_SET_NUMBERS = words("WAIT_TIMEOUT NET_READ_TIMEOUT NET_WRITE_TIMEOUT")
_SET_CHECKS = words("FOREIGN_KEY_CHECKS UNIQUE_CHECKS")
_UTF8 = frozenset({"'utf8mb4'", "UTF8MB4"})

_EXPLAIN_WORDS = words("EXTENDED PARTITIONS FORMAT = JSON TRADITIONAL TREE")

_PRAGMAS = frozenset(name.upper() for name in sqlite_names.PRAGMAS)
_PRAGMAS_ABOUT = frozenset(name.upper() for name in sqlite_names.PRAGMAS_ABOUT)


@dataclass(frozen=True, slots=True)
class _Judged:
    kind: Kind
    verb: str
    reasons: tuple[str, ...] = ()
    tree: Any = None


def _classify(
    text: str, *, dialect: Dialect, vouched: Collection[str] = (), script: bool = False
) -> tuple[Statement, ...]:
    """Every statement of `text`. Raises `Invalid`: `sql.unparsable`, or `sql.rejected` for what nobody may ask for.

    `script`: it is a file of a migration, which may also hold triggers, routines and events.
    """
    return tuple(_statement(piece, dialect, vouched, script) for piece in cut(text, dialect, script=script))


classify_mysql = partial(_classify, dialect=Dialect.MYSQL)
classify_sqlite = partial(_classify, dialect=Dialect.SQLITE)


def _statement(piece: Piece, dialect: Dialect, vouched: Collection[str], script: bool) -> Statement:  # noqa: FBT001
    judged = (_of_script(piece, dialect) if script else None) or _judge(piece, dialect, vouched)
    return Statement(
        text=piece.text,
        start=piece.start,
        verb=judged.verb,
        kind=judged.kind,
        reasons=judged.reasons,
        tree=judged.tree,
    )


def _of_script(piece: Piece, dialect: Dialect) -> _Judged | None:
    """What only a file of a migration may hold. Nothing is known of what it does, which is what its reasons say."""
    first = piece.first
    if first == "DELIMITER":
        raise Invalid(
            "DELIMITER is no SQL but a word of the mysql client",
            code="sql.rejected",
            hint="leave it out: a body from BEGIN to END is taken as a whole",
        )
    if first in {"CREATE", "ALTER", "DROP"}:
        what = routine(piece.tokens)
        if first == "CREATE" and dialect is Dialect.SQLITE and piece.word(1) == "VIRTUAL":
            what = "VIRTUAL_TABLE"
        if what is not None:
            _refuse_tokens(piece)
            if any(token.text == "SONAME" for token in piece.tokens):
                raise Invalid("a function out of a library of the server is refused", code="sql.rejected")
            kind = Kind.DESTRUCTIVE_DDL if first == "DROP" else Kind.DDL
            return _Judged(kind, first, (f"statement:{first.lower()}", f"code:{what.lower()}"))
    if first == "SET" and dialect is Dialect.MYSQL:
        said = [token.text for token in piece.tokens[1:] if token.text not in _SET_SCOPES]
        if len(said) == 3 and said[0] in _SET_CHECKS and said[1] == "=" and said[2] in {"0", "1"}:
            return _Judged(Kind.DML, "SET", (f"setting:{said[0].lower()}",))
    return None


def _judge(piece: Piece, dialect: Dialect, vouched: Collection[str]) -> _Judged:
    first = piece.first
    _refuse_tokens(piece)
    if first not in _KNOWN:
        raise _refusal(first)
    if first == "SHOW" and dialect is Dialect.MYSQL:
        return _show(piece)
    if first in _EXPLAINS:
        return _explain(piece, dialect, vouched)
    if first == "SET":
        return _set(piece, dialect)
    if first == "PRAGMA":
        return _pragma(piece, dialect)
    if first in _DDL:
        return _ddl(piece, dialect)
    if first == "VACUUM" and any(token.text == "INTO" for token in piece.tokens):
        raise Invalid("VACUUM INTO is refused: it writes a file", code="sql.rejected")
    if first in _MAINTENANCE | {"SHOW"}:
        parse_statement(piece.text, dialect)
        return _Judged(Kind.DML, first, (f"statement:{first.lower()}",))
    return _query(piece, dialect, vouched)


def _query(piece: Piece, dialect: Dialect, vouched: Collection[str]) -> _Judged:
    """SELECT and the like, and the statements that write rows."""
    tree = _tree(piece, dialect)
    if piece.first in _WRITES:
        return _Judged(Kind.DML, piece.first, (f"statement:{piece.first.lower()}",), tree)
    verb = type(tree).__name__.upper()
    if verb in _WRITES:  # WITH … DELETE
        return _Judged(Kind.DML, verb, (f"statement:{verb.lower()}",), tree)
    reason = reason_in_tokens(piece.tokens, dialect, vouched) or reason_in_tree(tree, dialect)
    return _Judged(Kind.SELECT if reason is None else Kind.DML, "SELECT", (reason,) if reason else (), tree)


def _tree(piece: Piece, dialect: Dialect) -> Any:
    try:
        return parse_statement(_readable(piece, dialect), dialect)
    except Invalid:
        if piece.first != "REPLACE":
            raise
        return parse_statement(piece.text, dialect)  # as mere text, into which nobody can see: the review blocks it


def _readable(piece: Piece, dialect: Dialect) -> str:
    """The text as the parser knows it, with everything in its place.

    REPLACE is an INSERT that deletes what is in its way. Words behind a verb that say how it is done, not what, are
    left out: the parser knows only some, and takes others for a table's name.
    """
    instead = {0: "INSERT"} if piece.first == "REPLACE" else {}
    before = ""
    for at, token in enumerate(piece.tokens):
        is_verb = token.kind is Lexed.WORD and token.text in _VERBS and before not in _NO_VERB_BEHIND
        before = token.text
        if is_verb:
            instead |= dict.fromkeys(_manner(piece, at, dialect), "")
    parts: list[str] = []
    end = 0
    for at, word in sorted(instead.items()):
        start, size = piece.offsets[at], len(piece.tokens[at].text)
        parts += (piece.text[end:start], word.ljust(size))
        end = start + size
    return "".join((*parts, piece.text[end:]))


def _manner(piece: Piece, verb: int, dialect: Dialect) -> Iterator[int]:
    """The tokens behind the one at `verb` that say how it is done."""
    at = verb + 1
    if dialect is Dialect.SQLITE:
        if piece.word(at) == "OR" and piece.word(at + 1) in _CONFLICTS:
            yield from (at, at + 1)
        return
    while piece.word(at) in _MANNERS | _DUPLICATES:
        if piece.word(at) in _MANNERS:
            yield at
        at += 1


def _refuse_tokens(piece: Piece) -> None:
    if any(token.kind is Lexed.HINT for token in piece.tokens):
        raise Invalid(
            "comments that MySQL executes (/*! … */) are refused",
            code="sql.rejected",
            hint="write the SQL without them",
        )
    if any(token.kind is Lexed.PARAM for token in piece.tokens):
        raise Invalid("the SQL has a parameter, and there is nothing to bind to it", code="sql.rejected")


def _refusal(first: str) -> Invalid:
    if first in _TRANSACTION:
        return Invalid(f"{first}: every request runs in a transaction of its own", code="sql.rejected")
    if first in _SESSION:
        return Invalid(f"{first} is refused: it would change the session for others", code="sql.rejected")
    return Invalid(
        "the SQL starts with something that is not known here",
        code="sql.rejected",
        hint="it may start with " + ", ".join(sorted(_KNOWN - {"("})),
    )


def _ddl(piece: Piece, dialect: Dialect) -> _Judged:
    """Tables, views, indexes and sequences may be asked for; accounts, rights, code and whole databases may not."""
    first = piece.first
    what = next((it.text for it in piece.tokens[1:] if it.text not in _MODIFIERS), "")
    if first in ("CREATE", "ALTER", "DROP") and what not in _OBJECTS:
        raise Invalid(f"{first} is possible for tables, views, indexes and sequences only", code="sql.rejected")
    destructive = first in ("DROP", "TRUNCATE") or (first == "CREATE" and what == "SEQUENCE")
    tree = parse_statement(piece.text, dialect)
    return _Judged(Kind.DESTRUCTIVE_DDL if destructive else Kind.DDL, first, (f"statement:{first.lower()}",), tree)


def _show(piece: Piece) -> _Judged:
    """SHOW of what is known, with names, texts and comparisons only: a call in its WHERE would run."""
    rest = [token for token in piece.tokens[1:] if token.text not in _SHOW_SCOPES]
    calls = [token.text for token in rest if token.kind is Lexed.OP and token.text not in _SHOW_SIGNS]
    itself = piece.text.upper().endswith("FOR CURRENT_USER()") and calls == ["(", ")"]
    plain = all(token.kind in _PLAIN | {Lexed.OP} for token in rest)
    if rest and rest[0].text in _SHOWN and plain and (not calls or itself) and _only_compares(rest):
        return _Judged(Kind.SELECT, "SHOW")
    return _Judged(Kind.DML, "SHOW", ("statement:show",))


def _only_compares(tokens: Sequence[Token]) -> bool:
    """Whether a WHERE holds nothing but comparisons: two operands side by side may be `NEXT VALUE FOR a_sequence`."""
    said = [token.text for token in tokens]
    condition = tokens[said.index("WHERE") + 1 :] if "WHERE" in said else ()
    operands = [token.kind is not Lexed.OP and token.text not in _CONNECTIVES for token in condition]
    return not any(one and other for one, other in pairwise(operands))


def _explain(piece: Piece, dialect: Dialect, vouched: Collection[str]) -> _Judged:
    """A plan of a plain read is one, too. Of anything else it is not: planning may run what the statement calls."""
    at = 1
    while piece.word(at) in (_EXPLAIN_WORDS if dialect is Dialect.MYSQL else {"QUERY", "PLAN"}):
        at += 1
    analyzed = dialect is Dialect.MYSQL and piece.word(at) == "ANALYZE"
    at += analyzed
    inner = piece.tokens[at:]
    if not inner:
        raise Invalid("EXPLAIN of nothing", code="sql.unparsable")
    if inner[0].text not in _QUERIES | _WRITES:
        if (
            dialect is Dialect.MYSQL
            and not analyzed
            and at == 1
            and all(it.kind in _PLAIN or it.text == "." for it in inner)
        ):
            return _Judged(Kind.SELECT, "DESCRIBE")  # of a table, with a column or a pattern
        raise Invalid("EXPLAIN of this statement is refused", code="sql.rejected")
    judged = _query(piece.after(at), dialect, vouched)
    if judged.kind is Kind.SELECT or analyzed:
        return replace(judged, verb="EXPLAIN")
    return _Judged(Kind.DML, "EXPLAIN", ("statement:explain", *judged.reasons), judged.tree)


def _set(piece: Piece, dialect: Dialect) -> _Judged:
    """MySQL: a variable that only bounds this session, by a plain number; or the character set it has anyway."""
    tokens = [token for token in piece.tokens[1:] if token.text not in _SET_SCOPES]
    said = [token.text for token in tokens]
    number = len(tokens) == 3 and said[0] in _SET_NUMBERS and said[1] == "=" and tokens[2].kind is Lexed.NUMBER
    names = len(tokens) == 2 and said[0] == "NAMES" and said[1] in _UTF8
    if dialect is Dialect.MYSQL and (number or names):
        return _Judged(Kind.SELECT, "SET")
    raise Invalid(
        "SET is refused: it would lift a limit, or change how SQL is read or who is asking",
        code="sql.rejected",
        hint="allowed are " + ", ".join(sorted(_SET_NUMBERS)).lower() + " with a number"
        if dialect is Dialect.MYSQL
        else None,
    )


def _pragma(piece: Piece, dialect: Dialect) -> _Judged:
    """SQLite: a pragma that reads. Its name, or its name and one name or text in parentheses, and nothing else."""
    tokens = piece.tokens
    if piece.word(2) == "." and tokens[1].kind in _NAMES:
        tokens = (tokens[0], *tokens[3:])
    alone = len(tokens) == 2 and tokens[1].text in _PRAGMAS
    signs = [token.text for token in tokens[2:] if token.kind is Lexed.OP]
    about = len(tokens) == 5 and tokens[1].text in _PRAGMAS_ABOUT and signs == ["(", ")"] and tokens[3].kind in _PLAIN
    if dialect is Dialect.SQLITE and (alone or about):
        return _Judged(Kind.SELECT, "PRAGMA")
    raise Invalid("this PRAGMA is refused: only those that read are known here", code="sql.rejected")
