"""What DDL and maintenance statements of MySQL, MariaDB and SQLite do, read from their tokens.

An action of ALTER TABLE that is not known is an `ALTER_TABLE`, so nothing is ever passed over in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from dbward.domain.model import Dialect
from dbward.domain.sql.gather import Gathered
from dbward.domain.sql.lex import Token, tokenize, words
from dbward.domain.sql.statements import Act, Deed, Flag, Name

_CREATES: Final = {
    "TABLE": Deed.CREATE_TABLE,
    "VIEW": Deed.CREATE_VIEW,
    "INDEX": Deed.CREATE_INDEX,
    "SEQUENCE": Deed.CREATE_SEQUENCE,
}
_DROPS: Final = {
    "TABLE": Deed.DROP_TABLE,
    "TABLES": Deed.DROP_TABLE,
    "VIEW": Deed.DROP_VIEW,
    "INDEX": Deed.DROP_INDEX,
    "SEQUENCE": Deed.DROP_SEQUENCE,
}
_KINDS: Final = frozenset(_CREATES) | frozenset(_DROPS)
_KEYS: Final = {
    "FOREIGN": Deed.ADD_FOREIGN_KEY,
    "CHECK": Deed.ADD_CHECK,
    "UNIQUE": Deed.ADD_UNIQUE,
    "PRIMARY": Deed.ADD_UNIQUE,
}
_NO_COLUMNS: Final = frozenset(_KEYS) | words("CONSTRAINT INDEX KEY FULLTEXT SPATIAL PARTITION")
"""What may be added or dropped beside columns; a column of such a name stands in quotes."""

_MADE: Final = words("AUTO_INCREMENT AUTOINCREMENT GENERATED AS SERIAL")
"""What gives a new column values of its own."""

_NO_TABLE: Final = frozenset({Deed.DROP_INDEX, Deed.CREATE_SEQUENCE, Deed.DROP_SEQUENCE})
_ENDS: Final = words("CASCADE RESTRICT")


class Word(NamedTuple):
    """One token. `said`: as the lexer says it, words in upper case; `name`: as it is when it is a name."""

    said: str
    name: str
    at: int


Words = Sequence[Word]


def read_ddl(text: str, dialect: Dialect) -> Gathered:
    """`text` is one statement that begins with CREATE, ALTER, DROP, TRUNCATE, RENAME or a word for maintenance."""
    said = [Word(token.text, _unquoted(text, token), token.start) for token in tokenize(text, dialect)]
    found = Gathered(acts=list(_READERS.get(said[0].said, _maintenance)(said)))
    found.tables.update(act.table for act in found.acts if act.table is not None and act.deed not in _NO_TABLE)
    found.tables.update(_also_named(said))
    return found


def _also_named(said: Words) -> Iterator[Name]:
    """Tables beside the one that the statement is about."""
    for at, (word, following) in enumerate(pairwise(said)):
        pair = (word.said, following.said)
        if word.said == "REFERENCES" or (word.said == "ON" and said[0].said == "DROP"):  # DROP INDEX i ON t
            yield _name(said, at + 1)[0]
        elif pair == ("WITH", "TABLE"):  # EXCHANGE PARTITION p WITH TABLE t
            yield _name(said, at + 2)[0]


def _unquoted(text: str, token: Token) -> str:
    written = text[token.start : token.end]
    quote = written[:1]
    if quote not in {"`", '"', "'", "["} or len(written) < 2:
        return written
    return written[1:-1].replace(quote * 2, quote)


def _name(said: Words, at: int) -> tuple[Name, int]:
    """The name that begins at `at`, and where it ends. An empty one when there is none."""
    parts: list[str] = []
    while at < len(said):
        parts.append(said[at].name)
        at += 1
        if at >= len(said) or said[at].said != ".":
            break
        at += 1
    return Name(parts[-1] if parts else "", parts[-2] if len(parts) > 1 else None), at


def _skip(said: Words, at: int, *phrases: str) -> int:
    """Behind those of the phrases that stand at `at`, in their order."""
    for phrase in phrases:
        wanted = phrase.split()
        if [word.said for word in said[at : at + len(wanted)]] == wanted:
            at += len(wanted)
    return at


def _parts(said: Words) -> list[Words]:
    """The list between commas; those inside parentheses do not count."""
    found: list[list[Word]] = [[]]
    depth = 0
    for word in said:
        depth += (word.said == "(") - (word.said == ")")
        if word.said == "," and depth == 0:
            found.append([])
        else:
            found[-1].append(word)
    return [part for part in found if part]


def _kind(said: Words) -> int:
    """Where the word for what is created, altered or dropped stands; the end if there is none."""
    return next((at for at, word in enumerate(said) if at and word.said in _KINDS), len(said) - 1)


def _create(said: Words) -> Iterator[Act]:
    kind = _kind(said)
    deed = _CREATES.get(said[kind].said)
    if deed is None:
        return
    before = {word.said for word in said[:kind]}
    at = _skip(said, kind + 1, "IF NOT EXISTS")
    flags = {Flag.IF_NOT_EXISTS} if at > kind + 1 else set()
    flags |= {Flag.OR_REPLACE} if "REPLACE" in before else set()
    flags |= {Flag.TEMPORARY} if before & {"TEMP", "TEMPORARY"} else set()
    if deed is Deed.CREATE_INDEX:
        at = next((index + 1 for index, word in enumerate(said) if index > at and word.said == "ON"), at)
    elif any(word.said == "SELECT" for word in said):
        flags.add(Flag.AS_SELECT)
    if at < len(said):
        yield Act(deed, _name(said, at)[0], said[at].at, flags=frozenset(flags))


def _drop(said: Words) -> Iterator[Act]:
    kind = _kind(said)
    deed = _DROPS.get(said[kind].said)
    if deed is None:
        return
    flags = {Flag.TEMPORARY} if said[1].said == "TEMPORARY" else set()
    flags |= {Flag.CASCADE} if said[-1].said == "CASCADE" else set()
    for part in _parts(said[_skip(said, kind + 1, "IF EXISTS") :]):
        if part[0].said not in _ENDS:
            yield Act(deed, _name(part, 0)[0], part[0].at, flags=frozenset(flags))


def _truncate(said: Words) -> Iterator[Act]:
    at = _skip(said, 1, "TABLE")
    if at < len(said):
        yield Act(Deed.TRUNCATE, _name(said, at)[0], said[at].at)


def _rename(said: Words) -> Iterator[Act]:
    """RENAME TABLE a TO b, c TO d."""
    for part in _parts(said[_kind(said) + 1 :]):
        at = _skip(part, 0, "IF EXISTS")
        if at < len(part):
            yield Act(Deed.RENAME_TABLE, _name(part, at)[0], part[at].at)


def _alter(said: Words) -> Iterator[Act]:
    kind = _kind(said)
    at = _skip(said, kind + 1, "IF EXISTS")
    place = said[at].at if at < len(said) else 0
    name, at = _name(said, at)
    if said[kind].said == "VIEW":
        yield Act(Deed.CREATE_VIEW, name, place, flags=frozenset({Flag.OR_REPLACE, Flag.AS_SELECT}))
    elif said[kind].said != "TABLE":
        yield Act(Deed.ALTER_TABLE, None, place)
    else:
        actions = _parts(said[at:])
        if not actions:
            yield Act(Deed.ALTER_TABLE, name, place)
        for action in actions:
            yield from _ACTIONS.get(action[0].said, _other)(name, action)


def _other(table: Name, action: Words) -> Iterator[Act]:
    yield Act(Deed.ALTER_TABLE, table, action[0].at)


def _add(table: Name, action: Words) -> Iterator[Act]:
    at = _skip(action, 1, "COLUMN", "IF NOT EXISTS")
    if at == len(action):
        yield from _other(table, action)
        return
    first = action[at]
    if first.said == "CONSTRAINT":
        named = 0 if action[at + 1 : at + 2] and action[at + 1].said in _KEYS else 1
        key = action[at + 1 + named].said if at + 1 + named < len(action) else ""
        constraint = action[at + 1].name if named and at + 1 < len(action) else None
        yield Act(_KEYS.get(key, Deed.ALTER_TABLE), table, action[0].at, constraint=constraint)
    elif first.said in _NO_COLUMNS and action[at - 1].said != "COLUMN":
        yield Act(_KEYS.get(first.said, Deed.ALTER_TABLE), table, action[0].at)
    elif first.said == "(":
        for column in _parts(action[at + 1 : -1]):
            yield _added(table, column, column[0].at)
    else:
        yield _added(table, action[at:], action[0].at)


def _added(table: Name, column: Words, at: int) -> Act:
    outside = [word.said for word in _outside(column[1:])]
    pairs = set(pairwise(outside))
    flags = set()
    if ("NOT", "NULL") in pairs or ("PRIMARY", "KEY") in pairs:
        flags.add(Flag.NOT_NULL)
    if not _MADE.isdisjoint(outside) or ("DEFAULT" in outside and ("DEFAULT", "NULL") not in pairs):
        flags.add(Flag.DEFAULT)
    return Act(Deed.ADD_COLUMN, table, at, column[0].name, frozenset(flags))


def _outside(said: Words) -> Iterator[Word]:
    """The words outside parentheses."""
    depth = 0
    for word in said:
        depth += word.said == "("
        if depth == 0:
            yield word
        depth -= word.said == ")"


def _drop_action(table: Name, action: Words) -> Iterator[Act]:
    at = _skip(action, 1, "COLUMN", "IF EXISTS")
    if at < len(action) and (action[at].said not in _NO_COLUMNS or action[at - 1].said == "COLUMN"):
        yield Act(Deed.DROP_COLUMN, table, action[0].at, action[at].name)
    else:
        yield Act(Deed.ALTER_TABLE, table, action[0].at)


def _modify(table: Name, action: Words) -> Iterator[Act]:
    at = _skip(action, 1, "COLUMN", "IF EXISTS")
    yield Act(Deed.ALTER_COLUMN_TYPE, table, action[0].at, action[at].name if at < len(action) else None)


def _change(table: Name, action: Words) -> Iterator[Act]:
    """CHANGE old new type."""
    at = _skip(action, 1, "COLUMN", "IF EXISTS")
    yield from _modify(table, action)
    if at + 1 < len(action) and action[at].name.lower() != action[at + 1].name.lower():
        yield Act(Deed.RENAME_COLUMN, table, action[0].at, action[at].name)


def _alter_column(table: Name, action: Words) -> Iterator[Act]:
    """Defaults and visibility. ALTER … TYPE is neither MySQL's nor SQLite's, yet the parser takes it."""
    at = _skip(action, 1, "COLUMN")
    typed = any(word.said == "TYPE" for word in action[at + 1 : at + 4])
    deed = Deed.ALTER_COLUMN_TYPE if typed else Deed.ALTER_TABLE
    yield Act(deed, table, action[0].at, action[at].name if at < len(action) else None)


def _rename_action(table: Name, action: Words) -> Iterator[Act]:
    """RENAME [TO] table, RENAME COLUMN a TO b, in SQLite RENAME a TO b; of an index it breaks nothing."""
    at = _skip(action, 1, "COLUMN")
    is_to = at + 1 < len(action) and action[at + 1].said == "TO"
    if is_to and action[1].said not in {"INDEX", "KEY"}:
        yield Act(Deed.RENAME_COLUMN, table, action[0].at, action[at].name)
    elif len(action) > 1 and action[1].said in {"INDEX", "KEY"}:
        yield Act(Deed.ALTER_TABLE, table, action[0].at)
    else:
        yield Act(Deed.RENAME_TABLE, table, action[0].at)


_ACTIONS: Final[Mapping[str, Callable[[Name, Words], Iterator[Act]]]] = {
    "ADD": _add,
    "DROP": _drop_action,
    "MODIFY": _modify,
    "CHANGE": _change,
    "ALTER": _alter_column,
    "RENAME": _rename_action,
}


def _maintenance(said: Words) -> Iterator[Act]:
    """OPTIMIZE TABLE a, b; SQLite's VACUUM and ANALYZE are about a table or an index, nobody knows which."""
    tables = next((at + 1 for at, word in enumerate(said) if word.said in {"TABLE", "TABLES"}), None)
    if tables is None:
        yield Act(Deed.MAINTENANCE, None)
        return
    for part in _parts(said[tables:]):
        yield Act(Deed.MAINTENANCE, _name(part, 0)[0], part[0].at)


_READERS: Final[Mapping[str, Callable[[Words], Iterator[Act]]]] = {
    "CREATE": _create,
    "DROP": _drop,
    "TRUNCATE": _truncate,
    "RENAME": _rename,
    "ALTER": _alter,
}
