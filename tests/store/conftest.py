"""State stores of the tests' own: migrated, open, and closed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from dbward.db.engine import Store, open_store
from dbward.db.migrations import migrate
from tests.conftest import State


@dataclass(frozen=True, slots=True)
class Settings:
    url: str
    exclusive: bool = True
    lock_wait: timedelta = timedelta(0)


@pytest.fixture
def settings(state: State) -> Settings:
    return Settings(state.url)


class Wakes(list[frozenset[str]]):
    """What `on_wake` was told, in order; the greeting of the PostgreSQL listener left out."""

    def __call__(self, channels: frozenset[str]) -> None:
        if channels != {"*"}:
            self.append(channels)


@pytest.fixture
def wakes() -> Wakes:
    return Wakes()


@pytest.fixture
def open_one(settings: Settings, wakes: Wakes) -> Iterator[Callable[..., Store]]:
    """Opens the migrated store; any options of `open_store`."""
    migrate(settings)
    stores: list[Store] = []

    def opener(**options: Any) -> Store:
        stores.append(open_store(settings, **{"on_wake": wakes, **options}))
        return stores[-1]

    yield opener
    for store in stores:
        store.close()


@pytest.fixture
def store(open_one: Callable[..., Store]) -> Store:
    return open_one()
