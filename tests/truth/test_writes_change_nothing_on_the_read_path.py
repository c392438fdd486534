"""The read path with the account that an agent should have, given the whole corpus as if all of it were reads.

Nothing may change, whatever the classification says: this is what stands behind it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from dbward.domain.model import Dialect
from tests.truth import worlds
from tests.truth.corpus import Read, texts
from tests.truth.judging import survey
from tests.truth.worlds import World

GROUP = 100

ROLLED_BACK = frozenset({"next transaction", "sizes", "writes"})
"""Sections that show that something began to write although it was undone: a large object, say."""


def as_reads(dialect: Dialect) -> list[Read]:
    return [Read(name, (sql,), sets=False) for name, sql in texts(dialect)]


def test_on_postgresql(postgres: str) -> None:
    def make() -> AbstractContextManager[World]:
        return worlds.postgresql(postgres, bare=False, hostile=True)

    ran, changed = survey(make, as_reads(Dialect.POSTGRESQL), group_size=GROUP, ignored=ROLLED_BACK)
    assert changed == []
    assert ran > 150


def test_on_mariadb(mariadb: str) -> None:
    def make() -> AbstractContextManager[World]:
        return worlds.mysql(mariadb, bare=False, hostile=True)

    ran, changed = survey(make, as_reads(Dialect.MYSQL), group_size=GROUP, ignored=ROLLED_BACK)
    assert changed == []
    assert ran > 100


def test_on_sqlite(tmp_path: Path) -> None:
    def make() -> AbstractContextManager[World]:
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        directory.mkdir()
        return worlds.sqlite(directory, bare=False, hostile=True)

    ran, changed = survey(make, as_reads(Dialect.SQLITE), group_size=GROUP)
    assert changed == []
    assert ran > 80
