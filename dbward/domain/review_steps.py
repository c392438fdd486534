"""What the statements of a text mean for those that follow: which tables are new, which columns cannot hold NULL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dbward.domain.model import Dialect
from dbward.domain.schema import Schema, SchemaStatus
from dbward.domain.sql.statements import Act, Deed, Facts, Flag, Name


class Step(NamedTuple):
    """An act, and what was done before it in the same text.

    `on_new_table`: its table was created there, so it is empty and nobody waits for it. `is_proven`: a validated
    constraint says that its column holds no NULL.
    """

    act: Act
    on_new_table: bool
    is_proven: bool


@dataclass(slots=True)
class _Checks:
    """The CHECK constraints of one table, as far as the text has come. `added`: which column each says is not null."""

    added: dict[str | None, str | None] = field(default_factory=dict)
    proven: set[str | None] = field(default_factory=set)
    validates_others: bool = False

    def add(self, act: Act) -> None:
        self.added[act.constraint] = act.column
        if Flag.NOT_VALID not in act.flags:
            self.proven.add(act.column)

    def validate(self, constraint: str | None) -> None:
        """One that is not added here comes from an earlier migration, and is taken for the right one."""
        if constraint in self.added:
            self.proven.add(self.added[constraint])
        else:
            self.validates_others = True


def steps(facts: Sequence[Facts], dialect: Dialect, schema: Schema) -> tuple[tuple[Step, ...], ...]:
    """The acts of each statement, in order, with what went before."""
    new: set[Name] = set()
    checks: dict[Name, _Checks] = {}

    def step(act: Act) -> Step:
        if act.table is None:
            return Step(act, on_new_table=False, is_proven=False)
        table = _meant(act.table, dialect, new)
        of_table = checks.setdefault(table, _Checks())
        found = Step(act, table in new, of_table.validates_others or act.column in of_table.proven)
        match act.deed:
            case Deed.CREATE_TABLE if _creates(act, schema):
                new.add(_temporary(act.table) if Flag.TEMPORARY in act.flags else table)
            case Deed.DROP_TABLE | Deed.RENAME_TABLE:
                new.discard(table)
            case Deed.ADD_CHECK:
                of_table.add(act)
            case Deed.VALIDATE_CONSTRAINT:
                of_table.validate(act.constraint)
        return found

    return tuple(tuple(step(act) for act in known.acts) for known in facts)


def _meant(name: Name, dialect: Dialect, new: Collection[Name]) -> Name:
    """The same for all names of one table. A temporary table hides others from names without a schema.

    PostgreSQL's tables are in `public` where the text does not say.
    """
    if name.schema is None and _temporary(name) in new:
        return _temporary(name)
    if dialect is Dialect.POSTGRESQL:
        return Name(name.name, name.schema or "public")
    return Name(name.name.lower(), name.schema and name.schema.lower())


def _temporary(name: Name) -> Name:
    return Name(name.name.lower(), "pg_temp")


def _creates(act: Act, schema: Schema) -> bool:
    """Whether there was no such table before. IF NOT EXISTS leaves that open, unless the schema knows."""
    if Flag.IF_NOT_EXISTS not in act.flags or act.table is None:
        return True
    return schema.status is SchemaStatus.READY and not schema.candidates(act.table)
