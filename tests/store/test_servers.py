"""Several servers on one PostgreSQL state: who is there, and which of them does the housekeeping."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic, sleep

import psycopg
import pytest

from dbward.db import servers
from dbward.db.connect import open_listener
from dbward.db.engine import open_store
from dbward.db.migrations import migrate
from dbward.db.servers import Housekeeping
from dbward.settings.server import StateSettings
from tests.store.support import settings_for

REPOSITORY = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from functools import partial
from dbward.db.connect import open_listener
from dbward.db.servers import Housekeeping
from tests.store.support import settings_for
right = Housekeeping(partial(open_listener, settings_for(sys.argv[1])))
print(right.held(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def settings(postgres_url: str) -> StateSettings:
    settings = settings_for(postgres_url)
    migrate(settings)
    return settings


def right(settings: StateSettings) -> Housekeeping:
    return Housekeeping(partial(open_listener, settings))


def eventually(check: Callable[[], bool]) -> None:
    until = monotonic() + 60
    while not check():
        assert monotonic() < until
        sleep(0.02)


@contextmanager
def housekeeper(url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the right."""
    argv = [sys.executable, "-c", PROGRAM, url]
    with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        try:
            yield process
        finally:
            process.kill()


def test_one_does_the_housekeeping_at_a_time(settings: StateSettings):
    one, two = right(settings), right(settings)
    assert (one.held(), two.held(), one.held(), two.held()) == (True, False, True, False)
    one.close()
    eventually(two.held)
    assert not one.held(), "who comes back does not take it away"
    two.close()
    one.close()


def test_on_sqlite_the_only_server_always_has_it():
    alone = Housekeeping(None)
    assert alone.held()
    alone.close()
    assert alone.held()


def test_it_is_taken_over_from_one_that_was_killed(settings: StateSettings, postgres_url: str):
    other = right(settings)
    with housekeeper(postgres_url) as process:
        assert not other.held()
        process.kill()
        eventually(other.held)
    other.close()


def test_it_is_taken_over_from_one_that_hangs(settings: StateSettings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(servers, "_FROZEN_MS", 500)
    hangs, other = right(settings), right(settings)
    assert hangs.held()
    eventually(other.held)
    assert not hangs.held(), "it knows when it wakes up"
    for each in (hangs, other):
        each.close()


def test_whoever_loses_the_database_has_lost_it(settings: StateSettings, postgres_url: str):
    one = right(settings)
    assert one.held()
    with psycopg.connect(postgres_url, autocommit=True) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database()"
        )
    assert not one.held()
    assert not one.answered
    assert one.held(), "and asks for it again"
    assert one.answered
    one.close()


def test_each_sees_the_others(settings: StateSettings):
    stores = [open_store(settings, on_wake=lambda _: None) for _ in range(3)]
    for store in stores:
        with store.read() as conn:
            assert servers.others(conn, store.id) == 2
    stores.pop().close()
    with stores[0].read() as conn:
        eventually(lambda: servers.others(conn, stores[0].id) == 1)
        assert not servers.keep_out(conn)
    for store in stores:
        store.close()
