"""What the readers of trees gather, and the logic that is the same whichever parser made the tree.

Which condition really leaves rows out, and which tables of a FROM clause nothing connects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from dbward.domain.sql.lex import words
from dbward.domain.sql.statements import Act, Comparison, Facts, Name

AGGREGATES: Final = words(
    """
    count sum min max avg bool_and bool_or every array_agg string_agg json_agg jsonb_agg json_object_agg
    jsonb_object_agg group_concat json_arrayagg json_objectagg json_group_array json_group_object total bit_and bit_or
    bit_xor std stddev stddev_pop stddev_samp variance var_pop var_samp
    """
)
"""Functions that make one row of many, when nothing is grouped."""


@dataclass(slots=True)
class Gathered:
    """Facts while they are being collected."""

    acts: list[Act] = field(default_factory=list)
    tables: set[Name] = field(default_factory=set)
    in_lists: list[tuple[int, int]] = field(default_factory=list)
    cartesian: list[int] = field(default_factory=list)
    and_in_set: list[int] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    known: bool = True

    def frozen(self) -> Facts:
        """Each kind of fact in the order of the text."""
        return Facts(
            acts=tuple(sorted(self.acts, key=lambda act: act.at)),
            tables=frozenset(self.tables),
            in_lists=tuple(sorted(self.in_lists, key=lambda found: found[1])),
            cartesian=tuple(sorted(self.cartesian)),
            and_in_set=tuple(sorted(self.and_in_set)),
            comparisons=tuple(sorted(self.comparisons, key=lambda found: found.at)),
            known=self.known,
        )


@dataclass(frozen=True, slots=True)
class Scope:
    """Which common table expressions can be named in a part of a query: the first `visible` ones of a WITH, and those
    of the queries around it. `ctes`: of each its place in the WITH, and whether it is small (a row, or rows that are
    written out).
    """

    ctes: Mapping[str, tuple[int, bool]] = field(default_factory=dict)
    visible: int = 0
    is_recursive: bool = False
    outer: Scope | None = None

    def find(self, name: str) -> bool | None:
        """Whether the CTE of this name is small; None when there is none."""
        scope: Scope | None = self
        while scope is not None:
            place, small = scope.ctes.get(name, (scope.visible, False))
            if place < scope.visible:
                return small
            if scope.is_recursive and name in scope.ctes:
                return False
            scope = scope.outer
        return None

    def extended(self, ctes: Sequence[tuple[str, bool]], *, recursive: bool) -> tuple[list[Scope], Scope]:
        """The scope in each of `ctes`, given by name and size, and the one in the query behind them.

        Each sees those before it, and with RECURSIVE all of them.
        """
        places = {name: (place, small) for place, (name, small) in enumerate(ctes)}
        within = [Scope(places, place, recursive, self) for place in range(len(ctes))]
        return within, Scope(places, len(ctes), recursive, self)


class Truth(Enum):
    """What is known of a condition without knowing the rows."""

    TRUE = auto()
    FALSE = auto()
    CONSTANT = auto()  # the same for every row, though nobody knows what: CURRENT_DATE > '2020-01-01'
    ROW = auto()  # depends on the row, as far as anybody can see


def restricts(condition: Truth) -> bool:
    """Whether a WHERE leaves rows out. `true`, `1 = 1` and `x = 1 OR true` do not, and no constant is trusted to."""
    return condition in {Truth.ROW, Truth.FALSE}


def all_of(parts: Iterable[Truth]) -> Truth:
    """The parts joined by AND."""
    found = set(parts)
    return next((truth for truth in (Truth.FALSE, Truth.ROW, Truth.CONSTANT) if truth in found), Truth.TRUE)


def any_of(parts: Iterable[Truth]) -> Truth:
    """The parts joined by OR. A constant may hold for all rows, and then no other part matters."""
    found = set(parts)
    return next((truth for truth in (Truth.TRUE, Truth.CONSTANT, Truth.ROW) if truth in found), Truth.FALSE)


def not_(part: Truth) -> Truth:
    return {Truth.TRUE: Truth.FALSE, Truth.FALSE: Truth.TRUE}.get(part, part)


@dataclass(frozen=True, slots=True)
class Side:
    """One entry of a FROM clause. `names`: what its columns can be qualified with, as the database folds them.

    `multiplies` is False for what is joined on purpose without a condition: a function, a list of values, a query
    that gives one row. `table` is None unless it is a table or view.
    """

    names: frozenset[str]
    at: int
    multiplies: bool = True
    table: Name | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A condition, as far as it connects sides: the qualifiers in it, and how many columns have none.

    A constant that a column equals is a name as well: two tables that are both tied to it are tied to each other.
    """

    names: frozenset[str]
    unqualified: int = 0


def unjoined(sides: Sequence[Side], links: Sequence[Link]) -> tuple[int, ...]:
    """Where the sides begin that no condition connects to those before them; empty if a condition may do so.

    A column without a qualifier may be of any table, so a condition that holds one may connect any two.
    """
    if sum(side.multiplies for side in sides) < 2:
        return ()
    group_of: dict[str, str] = {}

    def group(name: str) -> str:
        while (above := group_of.setdefault(name, name)) != name:
            group_of[name] = name = group_of[above]
        return name

    for names in (*(side.names for side in sides), *(link.names for link in links)):
        one = min(names, default="")
        for name in names:
            group_of[group(name)] = group(one)
    first: dict[str, int] = {}
    for side in sides:
        if side.multiplies:
            first.setdefault(group(min(side.names, default="")), side.at)
    apart = tuple(first.values())[1:]
    own = frozenset[str]().union(*(side.names for side in sides))
    vague = sum(1 for link in links if link.unqualified and len(link.names & own) + link.unqualified > 1)
    return apart if len(apart) > vague else ()
