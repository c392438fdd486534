"""Servers of one's own, so that whatever changes in them was changed by the test."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from tests.support import services


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with services.own_postgres() as url:
        yield url


@pytest.fixture(scope="module")
def mariadb() -> Iterator[str]:
    with services.own_mariadb() as url:
        yield url


@pytest.fixture
def restored_limits() -> Iterator[None]:
    """SQLite's limits on memory belong to the whole process."""
    yield
    connection = sqlite3.connect(":memory:")
    connection.execute("PRAGMA soft_heap_limit = 0").fetchall()
    connection.close()


@pytest.fixture(scope="module")
def sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An empty database."""
    path = tmp_path_factory.mktemp("sqlite") / "target.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    return f"sqlite:///{path}"
