"""Whether one statement of MySQL or SQLite is a plain read. Two readings must agree: of the tokens, and of the tree.

The tokens decide about calls: what stands before an opening parenthesis must be a known built-in function, or a word
that takes a parenthesis there and cannot be a function's name. That finds the calls which a parser takes for something
else. The tree decides about the shape: only kinds of nodes that are known to read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlglot import exp

from dbward.domain.model import Dialect
from dbward.domain.sql.functions import FUNCTIONS
from dbward.domain.sql.lex import Kind, Token, words

_MY, _SL = Dialect.MYSQL, Dialect.SQLITE
_NOTHING = Token(Kind.OP, 0, 0, "")

_STARTS = frozenset({"SELECT", "WITH", "VALUES", "("})
_QUERIES = frozenset({"SELECT", "WITH", "VALUES"})

_NEVER = words(
    """
    INTO INSERT UPDATE DELETE MERGE OUTFILE DUMPFILE PROCEDURE LOCK RETURNING SET CREATE ALTER DROP GRANT REVOKE
    """
)
"""Words that no plain read holds, except as a label or behind a dot."""

_AFTER_FOR = frozenset({"SYSTEM_TIME", "JOIN", "ORDER", "GROUP"})
"""`FOR` before anything else but a number may lock rows or advance a sequence."""

_OPENS = words(
    """
    SELECT DISTINCT ALL FROM WHERE ON USING AND OR NOT IN HAVING WHEN THEN ELSE UNION LIMIT VALUES EXISTS BETWEEN AS
    GROUP CASE
    """
)
"""Take a parenthesis, and are reserved everywhere, so that no function has such a name."""

_OPENS_IN = {
    _MY: words("XOR INDEX KEY PARTITION INTERVAL DIV BINARY CHAR DECIMAL JOIN LIKE RLIKE REGEXP ROW"),
    _SL: words("EXCEPT INTERSECT OFFSET NUMERIC DECIMAL VARCHAR CHAR JOIN LIKE REGEXP GLOB"),
}
"""SQLite has no functions but those that are compiled in, so no word of its grammar can be somebody's function."""

_SIGNS = {
    _MY: words("( ) , . + - * / % < > = ! @ & | ^ ~"),
    _SL: words("( ) , . + - * / % < > = ! & | ~"),
}


def reason_in_tokens(tokens: Sequence[Token], dialect: Dialect, vouched: Collection[str] = ()) -> str | None:
    """What in a statement's tokens, comments left out, keeps it from being a plain read, or None.

    `vouched`: lower-case names of functions that are trusted to only compute.
    """
    if not tokens or tokens[0].text not in _STARTS:
        return "not_a_query"
    reader = _Reader(tokens, dialect, vouched)
    return next((reason for index in range(len(tokens)) if (reason := reader.step(index)) is not None), None)


class _Reader:
    """Walks the tokens once."""

    def __init__(self, tokens: Sequence[Token], dialect: Dialect, vouched: Collection[str]) -> None:
        self._tokens = tokens
        self._dialect = dialect
        self._vouched = vouched

    def step(self, index: int) -> str | None:
        token = self._tokens[index]
        match token.kind:
            case Kind.WORD:
                return self._word(index)
            case Kind.QUOTED | Kind.STRING:
                return self._quoted(index)
            case Kind.NUMBER:
                return None
            case Kind.OP:
                return self._sign(index)
            case _:
                return f"unusual_{token.kind.name.lower()}"

    def _at(self, index: int) -> Token:
        return self._tokens[index] if 0 <= index < len(self._tokens) else _NOTHING

    def _word_at(self, index: int) -> str:
        token = self._at(index)
        return token.text if token.kind is Kind.WORD else ""

    def _sign_at(self, index: int) -> str:
        token = self._at(index)
        return token.text if token.kind is Kind.OP else ""

    def _word(self, index: int) -> str | None:
        word = self._at(index).text
        if self._dialect is _SL and word.startswith("PRAGMA_"):
            return "pragma_table"
        if self._word_at(index - 1) == "AS" or self._sign_at(index - 1) == ".":
            return None
        if word in _NEVER or (word in ("REPLACE", "TRUNCATE") and self._sign_at(index + 1) != "("):
            return f"keyword:{word.lower()}"
        after = self._at(index + 1)
        if word == "FOR" and after.kind is not Kind.NUMBER and self._word_at(index + 1) not in _AFTER_FOR:
            return "keyword:for"
        return None

    def _quoted(self, index: int) -> str | None:
        # SQLite takes a string for a table's name where it expects one.
        if self._dialect is _SL and self._at(index).text[1:].lower().startswith("pragma_"):
            return "pragma_table"
        return None

    def _sign(self, index: int) -> str | None:
        sign = self._at(index).text
        if sign not in _SIGNS[self._dialect]:
            return f"operator:{sign}"
        if sign == "(" and index > 0 and not self._is_alias_list(index) and not self._may_open(index):
            return f"unvouched_function:{self._at(index - 1).text.lower()[:63]}"
        return None

    def _may_open(self, index: int) -> bool:
        before = self._at(index - 1)
        if before.kind is Kind.OP:
            return before.text not in (".", "]")
        if before.kind is not Kind.WORD:
            return False
        word = before.text
        if self._sign_at(index - 2) == ".":
            schema = self._at(index - 3)
            return schema.kind is Kind.WORD and f"{schema.text}.{word}".lower() in self._vouched
        if word.lower() in self._vouched:
            return True
        if word.lower() in FUNCTIONS[self._dialect]:
            # MySQL looks for a stored function when some of its own functions' names stand apart from the parenthesis.
            return self._dialect is not _MY or before.end == self._at(index).start
        if word in _OPENS or word in _OPENS_IN[self._dialect]:
            return True
        return self._opens_in_context(index, word)

    def _opens_in_context(self, index: int, word: str) -> bool:
        """Words that are not reserved: a function may have such a name, but not in this place."""
        before = self._word_at(index - 2)
        match word:
            case "OVER" | "FILTER" | "AGAINST":
                return self._sign_at(index - 2) == ")"
            case "BY":
                return before in ("GROUP", "ORDER", "PARTITION")
            case "MATERIALIZED":
                before = self._word_at(index - 3) if before == "NOT" else before
                return before == "AS" and self._word_at(index + 1) in ("SELECT", "WITH")
            case _:
                return False

    def _is_alias_list(self, index: int) -> bool:
        """`AS name (…)`, or the name and columns before a common table expression's `AS (SELECT`."""
        if self._at(index - 1).kind not in (Kind.WORD, Kind.QUOTED):
            return False
        if self._word_at(index - 2) == "AS":
            return self._at(index - 1).text != "MATERIALIZED" or self._word_at(index + 1) not in ("SELECT", "WITH")
        if self._word_at(index - 2) not in ("WITH", "RECURSIVE") and self._sign_at(index - 2) != ",":
            return False
        at = index + 1
        while self._at(at).kind in (Kind.WORD, Kind.QUOTED) and self._sign_at(at + 1) == ",":
            at += 2
        if self._at(at).kind not in (Kind.WORD, Kind.QUOTED) or self._sign_at(at + 1) != ")":
            return False
        at += 2
        if self._word_at(at) != "AS":
            return False
        at += 1 + (self._word_at(at + 1) == "NOT")
        at += self._word_at(at) == "MATERIALIZED"
        return self._sign_at(at) == "(" and self._word_at(at + 1) in _QUERIES


_SHAPES: tuple[type[exp.Expr], ...] = (
    exp.Func,  # which functions is what the tokens decide
    exp.Binary,
    exp.Unary,
    exp.Predicate,
    exp.Select,
    exp.SetOperation,
    exp.Subquery,
    exp.Values,
    exp.Alias,
    exp.Aliases,
    exp.All,
    exp.Any,
    exp.AtTimeZone,
    exp.BitString,
    exp.Boolean,
    exp.Bracket,
    exp.ByteString,
    exp.CTE,
    exp.Column,
    exp.ColumnDef,
    exp.Cube,
    exp.DataType,
    exp.DataTypeParam,
    exp.Distinct,
    exp.Fetch,
    exp.Filter,
    exp.From,
    exp.Group,
    exp.GroupingSets,
    exp.Having,
    exp.HexString,
    exp.Identifier,
    exp.IndexTableHint,
    exp.Interval,
    exp.IntervalSpan,
    exp.Introducer,
    exp.JSONPath,
    exp.JSONPathFilter,
    exp.JSONPathKey,
    exp.JSONPathRecursive,
    exp.JSONPathRoot,
    exp.JSONPathScript,
    exp.JSONPathSelector,
    exp.JSONPathSlice,
    exp.JSONPathSubscript,
    exp.JSONPathUnion,
    exp.JSONPathWildcard,
    exp.Join,
    exp.Lateral,
    exp.Limit,
    exp.LimitOptions,
    exp.Literal,
    exp.National,
    exp.Null,
    exp.ObjectIdentifier,
    exp.Offset,
    exp.Order,
    exp.Ordered,
    exp.Partition,
    exp.RawString,
    exp.Rollup,
    exp.SessionParameter,
    exp.Star,
    exp.Table,
    exp.TableAlias,
    exp.TableSample,
    exp.Tuple,
    exp.UnicodeString,
    exp.Var,
    exp.Where,
    exp.Window,
    exp.WindowSpec,
    exp.With,
    exp.WithinGroup,
)
_ROOTS = (exp.Select, exp.SetOperation, exp.Subquery, exp.Values)


def reason_in_tree(tree: exp.Expr, dialect: Dialect) -> str | None:
    """What in the parser's tree keeps a statement from being a plain read, or None."""
    if not isinstance(tree, _ROOTS):
        return "not_a_query"
    for node in tree.walk():
        if isinstance(node, exp.Parameter) and dialect is _MY:
            continue  # reading a user variable
        if not isinstance(node, _SHAPES):
            return f"construct:{type(node).__name__.lower()}"
        if isinstance(node, exp.DataType) and node.this is exp.DType.USERDEFINED:
            return "unvouched_type"
    return None
