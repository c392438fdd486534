"""The rules of the SQL review, as a table: what each looks for, where it holds, and what it leads to by default.

A rule looks at the facts of all statements of a text, because one statement often decides what another means: a table
that was just created is empty and nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from dbward.domain.model import Action, Dialect
from dbward.domain.review_steps import Step
from dbward.domain.schema import Schema, Table, TableKind
from dbward.domain.sql.statements import Classification, Deed, Facts, Flag, RuleActions

MAX_IN_LIST: Final = 100

EVERYWHERE: Final = frozenset(Dialect)
_POSTGRESQL: Final = frozenset({Dialect.POSTGRESQL})

_WRITES: Final = frozenset({Deed.INSERT, Deed.UPDATE, Deed.DELETE, Deed.MERGE})
_NO_DDL: Final = _WRITES | {Deed.COPY, Deed.CALL, Deed.MAINTENANCE}
_TEXTS: Final = ("char", "varchar", "nchar", "nvarchar", "tinytext", "text", "mediumtext", "longtext", "enum", "citext")


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A text under review. `facts` and `steps`: one for each of its statements."""

    classification: Classification
    facts: tuple[Facts, ...]
    steps: tuple[tuple[Step, ...], ...]
    dialect: Dialect
    schema: Schema
    in_transaction: bool | None


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a rule found something: an offset in characters, from 0, and the words for its message."""

    at: int
    words: Mapping[str, object] = field(default_factory=dict)


Look = Callable[[Reviewed, int], Iterator[Spot]]
"""Finds the spots in one statement of a text, given by its index."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`message` is completed with the words of a spot. `each`: every spot is a finding, not just the first.

    `bypassable`: whether an emergency that allows DDL may go past it.
    """

    name: str
    action: Action
    look: Look
    message: str
    hint: str
    dialects: frozenset[Dialect] = EVERYWHERE
    bypassable: bool = False
    each: bool = False


def _acts(
    *deeds: Deed,
    having: frozenset[Flag] = frozenset(),
    without: frozenset[Flag] = frozenset(),
    unless: Callable[[Reviewed, int, Step], bool] = lambda _text, _index, _step: False,
) -> Look:
    """Deeds that have all flags of `having` and none of `without`."""

    def look(text: Reviewed, index: int) -> Iterator[Spot]:
        for step in text.steps[index]:
            act = step.act
            if act.deed in deeds and having <= act.flags and not without & act.flags and not unless(text, index, step):
                yield Spot(act.at, {"table": act.table or "it", "column": act.column or "a column"})

    return look


def _on_new_table(_text: Reviewed, _index: int, step: Step) -> bool:
    return step.on_new_table


def _needs_its_lock(text: Reviewed, _index: int, step: Step) -> bool:
    """CONCURRENTLY is not needed on a new table, and not possible on a partitioned one."""
    tables = text.schema.candidates(step.act.table) if step.act.table is not None else ()
    return step.on_new_table or any(table.kind is TableKind.PARTITIONED for table in tables)


def _spared_the_scan(_text: Reviewed, _index: int, step: Step) -> bool:
    return step.on_new_table or step.is_proven


def _is_alone(text: Reviewed, index: int, _step: Step) -> bool:
    """Whether CONCURRENTLY can work: outside a transaction. A materialized view may be refreshed so anywhere."""
    if text.classification.statements[index].verb == "REFRESH":
        return True
    if text.in_transaction is None:
        return len(text.classification.statements) == 1
    return not text.in_transaction


def _mixed(text: Reviewed, index: int) -> Iterator[Spot]:
    """About the text as a whole, so found at its first statement. Temporary tables are part of how rows are changed."""
    if index:
        return
    acts = [act for known in text.facts for act in known.acts if Flag.TEMPORARY not in act.flags]
    if any(act.deed in _WRITES for act in acts) and any(act.deed not in _NO_DDL for act in acts):
        yield Spot(0)


def _long_lists(text: Reviewed, index: int) -> Iterator[Spot]:
    return (Spot(at, {"count": count}) for count, at in text.facts[index].in_lists if count > MAX_IN_LIST)


def _cartesian(text: Reviewed, index: int) -> Iterator[Spot]:
    return (Spot(at) for at in text.facts[index].cartesian)


def _and_in_set(text: Reviewed, index: int) -> Iterator[Spot]:
    return (Spot(at) for at in text.facts[index].and_in_set)


def _casts(text: Reviewed, index: int) -> Iterator[Spot]:
    """A text column beside a number: its index is of no use. A number beside a text is no matter: the text is cast."""
    facts = text.facts[index]
    for compared in facts.comparisons:
        names = facts.tables if compared.table is None else {compared.table}
        tables = [table for name in names for table in text.schema.candidates(name) if _column(table, compared.column)]
        if compared.literal == "number" and tables and all(_is_indexed_text(it, compared.column) for it in tables):
            yield Spot(compared.at, {"table": tables[0].name, "column": compared.column})


def _column(table: Table, name: str) -> str | None:
    """The type of a column, in lower case; None if there is none of that name."""
    return next((column.data_type.lower() for column in table.columns if column.name.lower() == name.lower()), None)


def _is_indexed_text(table: Table, name: str) -> bool:
    indexed = {column.lower() for index in table.indexes for column in index.columns}
    indexed |= {column.lower() for constraint in table.constraints for column in constraint.columns}
    indexed |= {column.name.lower() for column in table.columns if column.is_primary_key}
    return name.lower() in indexed and (_column(table, name) or "").startswith(_TEXTS)


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "no_where_delete",
        Action.BLOCK,
        _acts(Deed.DELETE, without=frozenset({Flag.WHERE})),
        "DELETE from {table} has no WHERE that leaves rows out",
        "add a WHERE to limit the rows that are deleted",
    ),
    Rule(
        "no_where_update",
        Action.BLOCK,
        _acts(Deed.UPDATE, without=frozenset({Flag.WHERE})),
        "UPDATE of {table} has no WHERE that leaves rows out",
        "add a WHERE on an indexed column",
    ),
    Rule(
        "drop_table",
        Action.BLOCK,
        _acts(Deed.DROP_TABLE),
        "DROP TABLE deletes {table} with all its rows",
        "make sure that nothing needs it, or rename it first and drop it later",
        bypassable=True,
    ),
    Rule(
        "drop_column",
        Action.WARN,
        _acts(Deed.DROP_COLUMN),
        "DROP COLUMN deletes {column} of {table} with all its values",
        "make sure that no application names the column any more",
        bypassable=True,
    ),
    Rule(
        "drop_index",
        Action.WARN,
        _acts(Deed.DROP_INDEX),
        "DROP INDEX {table}: queries that used it may become slow",
        "check which queries use the index",
        bypassable=True,
    ),
    Rule(
        "drop_view",
        Action.WARN,
        _acts(Deed.DROP_VIEW),
        "DROP VIEW {table}: what reads it will fail",
        "check what depends on the view",
        bypassable=True,
    ),
    Rule(
        "drop_sequence",
        Action.WARN,
        _acts(Deed.DROP_SEQUENCE),
        "DROP SEQUENCE {table}: columns that take their values from it will fail",
        "check which columns have it as their default",
        bypassable=True,
    ),
    Rule(
        "create_sequence",
        Action.OFF,
        _acts(Deed.CREATE_SEQUENCE),
        "CREATE SEQUENCE {table}",
        "check its name, and that nothing else uses it",
        bypassable=True,
    ),
    Rule(
        "not_null_without_default",
        Action.WARN,
        _acts(
            Deed.ADD_COLUMN, having=frozenset({Flag.NOT_NULL}), without=frozenset({Flag.DEFAULT}), unless=_on_new_table
        ),
        "{column} is added to {table} as NOT NULL and without a default: that fails, or makes up values, if there are"
        " rows",
        "give it a default, or allow NULL until it is filled",
        bypassable=True,
    ),
    Rule(
        "create_index_not_concurrently",
        Action.WARN,
        _acts(Deed.CREATE_INDEX, without=frozenset({Flag.CONCURRENTLY}), unless=_needs_its_lock),
        "CREATE INDEX blocks every write to {table} until it is done",
        "use CREATE INDEX CONCURRENTLY, as the only statement",
        dialects=_POSTGRESQL,
        bypassable=True,
    ),
    Rule(
        "alter_column_type",
        Action.WARN,
        _acts(Deed.ALTER_COLUMN_TYPE, unless=_on_new_table),
        "the type of {column} changes: {table} may be locked while it is written anew",
        "add a new column, copy the values in batches, then switch over",
        bypassable=True,
    ),
    Rule(
        "truncate",
        Action.BLOCK,
        _acts(Deed.TRUNCATE),
        "TRUNCATE deletes all rows of {table}",
        "use DELETE with a WHERE",
        bypassable=True,
    ),
    Rule(
        "mixed_ddl_dml",
        Action.WARN,
        _mixed,
        "changes of tables and changes of rows are mixed: rows wait for the locks of the DDL",
        "split it into one request with the DDL and one with the rest",
    ),
    Rule(
        "large_in_list",
        Action.WARN,
        _long_lists,
        "an IN list has {count} elements",
        "join a temporary table, or use a subquery",
        each=True,
    ),
    Rule(
        "add_foreign_key_not_valid",
        Action.WARN,
        _acts(Deed.ADD_FOREIGN_KEY, without=frozenset({Flag.NOT_VALID}), unless=_on_new_table),
        "a foreign key of {table} is checked for all rows while both tables are locked for writes",
        "add it NOT VALID, then VALIDATE CONSTRAINT in a request of its own",
        dialects=_POSTGRESQL,
        bypassable=True,
    ),
    Rule(
        "add_check_not_valid",
        Action.WARN,
        _acts(Deed.ADD_CHECK, without=frozenset({Flag.NOT_VALID}), unless=_on_new_table),
        "a CHECK of {table} is tested for all rows while the table is locked",
        "add it NOT VALID, then VALIDATE CONSTRAINT in a request of its own",
        dialects=_POSTGRESQL,
        bypassable=True,
    ),
    Rule(
        "set_not_null",
        Action.WARN,
        _acts(Deed.SET_NOT_NULL, without=frozenset({Flag.NOT_VALID}), unless=_spared_the_scan),
        "SET NOT NULL reads all rows of {table} while the table is locked",
        "add CHECK ({column} IS NOT NULL) NOT VALID and validate it first: then no row is read again",
        dialects=_POSTGRESQL,
        bypassable=True,
    ),
    Rule(
        "create_index_in_transaction",
        Action.WARN,
        _acts(
            Deed.CREATE_INDEX,
            Deed.DROP_INDEX,
            Deed.MAINTENANCE,
            having=frozenset({Flag.CONCURRENTLY}),
            unless=_is_alone,
        ),
        "CONCURRENTLY is not possible in a transaction, and several statements run in one",
        "send it as the only statement; in a migration, without a transaction",
        dialects=_POSTGRESQL,
        bypassable=True,
    ),
    Rule(
        "add_unique_without_index",
        Action.WARN,
        _acts(Deed.ADD_UNIQUE, without=frozenset({Flag.USING_INDEX}), unless=_on_new_table),
        "the index behind the constraint is built while {table} is locked",
        "CREATE UNIQUE INDEX CONCURRENTLY first, then add the constraint USING INDEX",
        dialects=_POSTGRESQL,
        bypassable=True,
    ),
    Rule(
        "rename_column",
        Action.WARN,
        _acts(Deed.RENAME_COLUMN, unless=_on_new_table),
        "{column} of {table} is renamed: whatever uses the old name fails at once",
        "add a new column and keep both until no application uses the old one",
        bypassable=True,
    ),
    Rule(
        "rename_table",
        Action.WARN,
        _acts(Deed.RENAME_TABLE, unless=_on_new_table),
        "{table} is renamed: whatever uses the old name fails at once",
        "leave a view with the old name until no application uses it",
        bypassable=True,
    ),
    Rule(
        "vacuum_full",
        Action.WARN,
        _acts(Deed.MAINTENANCE, having=frozenset({Flag.FULL})),
        "{table} is written anew, locked even for reads until that is done",
        "use plain VACUUM, or a tool that works without the lock",
        dialects=_POSTGRESQL,
    ),
    Rule(
        "cartesian_join",
        Action.WARN,
        _cartesian,
        "no condition joins this table to the others: each row meets every row",
        "add the condition that joins them",
    ),
    Rule(
        "and_in_set",
        Action.WARN,
        _and_in_set,
        "AND in SET makes one value, true or false, of what looks like two assignments",
        "put a comma between assignments",
        each=True,
    ),
    Rule(
        "limit_without_order",
        Action.WARN,
        _acts(*_WRITES, having=frozenset({Flag.LIMIT}), without=frozenset({Flag.ORDER_BY})),
        "LIMIT without ORDER BY: which rows are written is left to chance",
        "add ORDER BY on a unique column",
    ),
    Rule(
        "implicit_cast_on_index",
        Action.WARN,
        _casts,
        "{column} of {table} holds text and is compared with a number: its index is of no use",
        "write the value in quotes",
        dialects=frozenset({Dialect.MYSQL, Dialect.POSTGRESQL}),
        each=True,
    ),
)
"""In this order where several hold for one place. The first fourteen are those of dbward since its first version."""

SQUAWK: Final = "squawk"
"""The key for what squawk says, which never blocks; each of its rules is named `squawk:<rule>`."""

DEFAULT_ACTIONS: Final[RuleActions] = MappingProxyType(
    {rule.name: rule.action for rule in RULES} | {SQUAWK: Action.WARN}
)
