"""Ground truth: what dbward calls a read is run on real engines, and everything about the database is as it was.

Twice, since either must hold when the other is wrong. Through the agent's read path, as it will be run; and bare, on a
connection with every right that commits, where nothing but the classification stands between a statement and the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from dbward.domain.model import Dialect
from tests.truth import worlds
from tests.truth.corpus import Read, reads
from tests.truth.photographs import differences
from tests.truth.worlds import World

GROUP = 24
"""Reads between two photographs."""

Maker = Callable[[], AbstractContextManager[World]]

OUT_OF_SIGHT = {
    "pg-blind-view-nextval": "a view that calls nextval",
    "pg-blind-view-writer": "a view that calls a function",
    "pg-blind-attr-notation": "a column that is a function",
    "my-blind-view": "a view that calls a function",
}
"""Writes that no text shows: only the read path stops them."""


@pytest.mark.parametrize("bare", [False, True], ids=["read path", "bare"])
def test_on_postgresql(postgres: str, bare: bool) -> None:
    judge(lambda: worlds.postgresql(postgres, bare=bare), candidates(Dialect.POSTGRESQL, bare=bare), at_least=115)


@pytest.mark.parametrize("bare", [False, True], ids=["read path", "bare"])
def test_on_mariadb(mariadb: str, bare: bool) -> None:
    judge(lambda: worlds.mysql(mariadb, bare=bare), candidates(Dialect.MYSQL, bare=bare), at_least=62)


@pytest.mark.parametrize("bare", [False, True], ids=["read path", "bare"])
def test_on_sqlite(tmp_path: Path, bare: bool) -> None:
    directories = iter(tmp_path / str(number) for number in range(1000))

    def make() -> AbstractContextManager[World]:
        directory = next(directories)
        directory.mkdir()
        return worlds.sqlite(directory, bare=bare)

    judge(make, candidates(Dialect.SQLITE, bare=bare), at_least=54)


def candidates(dialect: Dialect, *, bare: bool) -> list[Read]:
    """Bare, a SET would stay on the connection, as it says; the read path ends its effect."""
    return [read for read in reads(dialect) if not (bare and (read.sets or read.id in OUT_OF_SIGHT))]


def judge(make: Maker, found: Sequence[Read], *, at_least: int) -> None:
    """Fails with the reads that changed something and what they changed, or if too few of them ran at all."""
    ran, changed = survey(make, found)
    if changed:
        group, together = changed
        pytest.fail("\n".join(culprits(make, group)) or f"together only: {together}")
    assert ran >= at_least, f"only {ran} of {len(found)} ran"


def survey(make: Maker, found: Sequence[Read]) -> tuple[int, tuple[list[Read], list[str]] | None]:
    """How many ran, and the first group that changed something."""
    ran = 0
    with make() as world:
        before = world.photograph()
        for start in range(0, len(found), GROUP):
            group = list(found[start : start + GROUP])
            ran += sum(world.run(read.texts) for read in group)
            if changed := differences(before, world.photograph()):
                return ran, (group, changed)
    return ran, None


def culprits(make: Maker, group: Iterable[Read]) -> Iterator[str]:
    for read in group:
        with make() as world:
            before = world.photograph()
            world.run(read.texts)
            if changed := differences(before, world.photograph()):
                yield f"{read.id} {read.texts!r} changed {changed}"
