"""State stores of the tests' own: migrated, open, and closed again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from dbward.db.engine import Store, Tx, open_store
from dbward.db.listen import WAKE_ALL
from dbward.db.migrations import migrate
from dbward.settings.server import StateSettings
from tests.conftest import State
from tests.store.support import settings_for


@pytest.fixture
def settings(state: State) -> StateSettings:
    return settings_for(state.url)


class Wakes(list[frozenset[str]]):
    """What `on_wake` was told, in order; the greeting of the PostgreSQL listener left out."""

    def __call__(self, channels: frozenset[str]) -> None:
        if channels != WAKE_ALL:
            self.append(channels)


@pytest.fixture
def wakes() -> Wakes:
    return Wakes()


@pytest.fixture
def open_one(settings: StateSettings, wakes: Wakes) -> Iterator[Callable[..., Store]]:
    """Opens the migrated store; takes the options of `open_store`."""
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


@pytest.fixture
def together(store: Store) -> Callable[..., list[Any]]:
    """Runs pieces of work as one batch; each one's result, or what it raised."""
    return lambda *works: run_as_batch(store, works)


def run_as_batch(store: Store, works: Sequence[Callable[[Tx], Any]]) -> list[Any]:
    outcomes: list[Any] = [None] * len(works)

    def caller(n: int) -> None:
        try:
            outcomes[n] = store.write(works[n])
        except BaseException as error:
            outcomes[n] = error

    callers = [threading.Thread(target=caller, args=(n,)) for n in range(len(works))]
    with busy_writer(store):
        for n, thread in enumerate(callers):
            thread.start()
            while len(store._queue) <= n and thread.is_alive():
                thread.join(0.001)
    for thread in callers:
        thread.join()
    return outcomes


@contextmanager
def busy_writer(store: Store) -> Iterator[None]:
    """The writer is held up, so that what is written meanwhile waits in the queue."""
    started, go = threading.Event(), threading.Event()

    def wait(tx: Tx) -> None:
        started.set()
        go.wait()

    holder = threading.Thread(target=store.write, args=(wait,))
    holder.start()
    started.wait()
    try:
        yield
    finally:
        go.set()
        holder.join()
