"""What a SQL text was found to be: the values that classification, review, risk and policy hand on to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from dbward.domain.model import Action as Action  # noqa: PLC0414 - belongs to these values
from dbward.domain.model import Operation


class Kind(StrEnum):
    """What one statement is, weakest first. `select` is the only one that runs on the read path."""

    SELECT = "select"
    DML = "dml"
    DDL = "ddl"
    DESTRUCTIVE_DDL = "destructive_ddl"


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """A table, view, index or sequence as the database folds it; `schema` None when the text does not say."""

    name: str
    schema: str | None = None

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, in the text that is judged, shown, signed and run.

    `start` is where it began in the submitted text (characters, from 0); `verb` the upper-case word that says what it
    does (for `WITH … DELETE`, DELETE). `reasons` say why it is no plain read, as codes such as
    `unvouched_function:pg_read_file`, and are empty for a read. `tree` is what the parser made of `text`:
    a `pgtree.PgNode` on PostgreSQL, a `sqlglot.exp.Expr` elsewhere, None for what has none (MySQL SHOW, SQLite PRAGMA).
    """

    text: str
    start: int
    verb: str
    kind: Kind
    reasons: tuple[str, ...] = ()
    tree: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Classification:
    """`operation` is execute_select only when every statement is a read and only one of them returns rows."""

    operation: Operation
    statements: tuple[Statement, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(statement.text for statement in self.statements)

    @property
    def is_ddl(self) -> bool:
        """Nothing but DDL, and reads beside it."""
        kinds = {statement.kind for statement in self.statements} - {Kind.SELECT}
        return bool(kinds) and kinds <= {Kind.DDL, Kind.DESTRUCTIVE_DDL}

    @property
    def contains_ddl(self) -> bool:
        return any(statement.kind in {Kind.DDL, Kind.DESTRUCTIVE_DDL} for statement in self.statements)

    @property
    def reasons(self) -> tuple[str, ...]:
        """All reasons for being no read, each once, in the order of the statements."""
        return tuple(dict.fromkeys(reason for statement in self.statements for reason in statement.reasons))


class Deed(StrEnum):
    """One thing that a statement does, the same on every dialect: what the rules of review and risk look at."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    MERGE = "merge"
    COPY = "copy"
    CALL = "call"
    CREATE_TABLE = "create_table"
    CREATE_VIEW = "create_view"
    CREATE_INDEX = "create_index"
    CREATE_SEQUENCE = "create_sequence"
    ALTER_TABLE = "alter_table"
    ADD_COLUMN = "add_column"
    DROP_COLUMN = "drop_column"
    RENAME_COLUMN = "rename_column"
    RENAME_TABLE = "rename_table"
    ALTER_COLUMN_TYPE = "alter_column_type"
    SET_NOT_NULL = "set_not_null"
    ADD_FOREIGN_KEY = "add_foreign_key"
    ADD_CHECK = "add_check"
    ADD_UNIQUE = "add_unique"
    VALIDATE_CONSTRAINT = "validate_constraint"
    DROP_TABLE = "drop_table"
    DROP_VIEW = "drop_view"
    DROP_INDEX = "drop_index"
    DROP_SEQUENCE = "drop_sequence"
    TRUNCATE = "truncate"
    MAINTENANCE = "maintenance"


class Flag(StrEnum):
    """A circumstance of a deed."""

    WHERE = "where"
    LIMIT = "limit"
    ORDER_BY = "order_by"
    CONCURRENTLY = "concurrently"
    OR_REPLACE = "or_replace"
    IF_NOT_EXISTS = "if_not_exists"
    AS_SELECT = "as_select"
    MATERIALIZED = "materialized"
    TEMPORARY = "temporary"
    NOT_NULL = "not_null"
    DEFAULT = "default"  # a default, or a value the database makes: identity, generated, serial, auto_increment
    NOT_VALID = "not_valid"
    USING_INDEX = "using_index"
    FULL = "full"
    CASCADE = "cascade"


@dataclass(frozen=True, slots=True)
class Act:
    """`table` is what it is done to. `at`: offset in characters in the statement's text, from 0.

    `column` of an `ADD_CHECK` is given when all that the check says is that this column is not null. `constraint` is
    the name of the constraint that is added or validated.
    """

    deed: Deed
    table: Name | None
    at: int = 0
    column: str | None = None
    flags: frozenset[Flag] = frozenset()
    constraint: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A column beside a literal: `WHERE phone = 42`. `table` None when the text does not say whose column it is."""

    column: str
    literal: Literal["number", "string"]
    at: int
    table: Name | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a statement's tree shows, nested statements included.

    `tables`: base tables and views it names (no CTEs, no table functions). `in_lists`: (number of elements, offset) of
    each list after IN. `cartesian`: offsets of joins without any condition between their sides. `and_in_set`: offsets
    of `SET a = 1 AND b = 2`. `known` is False when nobody could see what the statement does.
    """

    acts: tuple[Act, ...] = ()
    tables: frozenset[Name] = frozenset()
    in_lists: tuple[tuple[int, int], ...] = ()
    cartesian: tuple[int, ...] = ()
    and_in_set: tuple[int, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    known: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule of the review found. `position`: characters in the statement's text, from 1."""

    rule: str
    action: Action
    message: str
    hint: str
    statement_index: int = 0
    position: int = 1


RuleActions = Mapping[str, Action]
"""What each rule leads to, for one database and environment."""
