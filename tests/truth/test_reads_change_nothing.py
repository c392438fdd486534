"""Ground truth: what dbward calls a read is run on real engines, and everything about the database is as it was.

Twice, since either must hold when the other is wrong. Through the agent's read path, as it will be run; and bare, on a
connection with every right that commits, where nothing but the classification stands between a statement and the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from dbward.domain.model import Dialect
from tests.truth import worlds
from tests.truth.corpus import Read, reads
from tests.truth.judging import Maker, survey
from tests.truth.worlds import World

GROUP = 24
"""Reads between two photographs."""


@pytest.mark.parametrize("bare", [False, True], ids=["read path", "bare"])
def test_on_postgresql(postgres: str, bare: bool) -> None:
    judge(lambda: worlds.postgresql(postgres, bare=bare), candidates(Dialect.POSTGRESQL, bare=bare), at_least=165)


@pytest.mark.parametrize("bare", [False, True], ids=["read path", "bare"])
def test_on_mariadb(mariadb: str, bare: bool) -> None:
    judge(lambda: worlds.mysql(mariadb, bare=bare), candidates(Dialect.MYSQL, bare=bare), at_least=92)


@pytest.mark.parametrize("bare", [False, True], ids=["read path", "bare"])
def test_on_sqlite(tmp_path: Path, bare: bool) -> None:
    directories = iter(tmp_path / str(number) for number in range(1000))

    def make() -> AbstractContextManager[World]:
        directory = next(directories)
        directory.mkdir()
        return worlds.sqlite(directory, bare=bare)

    judge(make, candidates(Dialect.SQLITE, bare=bare), at_least=80)


def candidates(dialect: Dialect, *, bare: bool) -> list[Read]:
    """Bare, a SET would stay on the connection, as it says; the read path ends its effect."""
    return [read for read in reads(dialect) if not (bare and read.sets)]


def judge(make: Maker, found: Sequence[Read], *, at_least: int) -> None:
    ran, changed = survey(make, found, group_size=GROUP)
    assert changed == []
    assert ran >= at_least, f"only {ran} of {len(found)} ran"
