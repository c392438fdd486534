"""Processes that own a store: killed while they write, and started beside one another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from dbward.db.engine import open_store
from dbward.db.migrations import migrate
from dbward.errors import Misconfigured
from dbward.settings.server import StateSettings
from tests.store.support import keys, put, settings_for

REPOSITORY = Path(__file__).parents[2]
WRITE_FOR_EVER = """
import sys, threading, itertools
from dbward.db.engine import open_store
from tests.store.support import put, settings_for

store = open_store(settings_for(sys.argv[1]), on_wake=lambda channels: None)
say = threading.Lock()

def work(name):
    for n in itertools.count():
        def pair(tx):
            put(f"{name}-{n}-a")(tx)
            put(f"{name}-{n}-b")(tx)
            if n % 7 == 3:
                raise ValueError("undone")
        try:
            store.write(pair)
        except ValueError:
            continue
        with say:
            print(f"{name}-{n}", flush=True)

for name in range(16):
    threading.Thread(target=work, args=(name,)).start()
"""


@contextmanager
def running(program: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, *args],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.mark.parametrize("acknowledged_first", [1, 150, 400])
def test_whatever_was_acknowledged_survives_a_kill(settings: StateSettings, acknowledged_first: int):
    migrate(settings)
    with running(WRITE_FOR_EVER, settings.url) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(acknowledged_first)]
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
        assert process.wait() == -signal.SIGKILL
    store = open_store(settings, on_wake=lambda channels: None)
    found = set(keys(store))
    assert {f"{name}-{half}" for name in acknowledged for half in "ab"} <= found
    assert {key[:-2] + "-b" for key in found} == {key for key in found if key.endswith("b")}  # never half of a pair
    assert not [key for key in found if int(key.split("-")[1]) % 7 == 3]  # nothing of what was undone
    if store.dialect == "sqlite":
        with store.read() as conn:
            assert conn.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
    assert store.write(put("later")) == "later"
    store.close()


HOLD = """
import sys
from dbward.db.engine import open_store
from tests.store.support import settings_for

store = open_store(settings_for(sys.argv[1], exclusive=sys.argv[2] == "exclusive"), on_wake=lambda channels: None)
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def file_settings(tmp_path: Path) -> StateSettings:
    settings = settings_for(f"sqlite:///{tmp_path / 'state.db'}")
    migrate(settings)
    return settings


def test_a_second_process_is_refused_with_a_clear_error(file_settings: StateSettings, tmp_path: Path):
    with running(HOLD, file_settings.url, "exclusive") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        for attempt in (migrate, partial(open_store, on_wake=lambda channels: None)):
            with pytest.raises(Misconfigured, match="another process is using") as raised:
                attempt(file_settings)
            assert raised.value.code == "state_locked"
            assert str(tmp_path / "state.db") in str(raised.value)
    open_store(file_settings, on_wake=lambda channels: None).close()


def test_the_owner_does_not_start_beside_one_that_shares(file_settings: StateSettings):
    with running(HOLD, file_settings.url, "shared") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(Misconfigured, match="another process is using"):
            open_store(file_settings, on_wake=lambda channels: None)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_worker_may_open_what_its_master_migrated(file_settings: StateSettings):
    """As gunicorn does: prepared in the master, opened after the fork."""
    migrate(file_settings)
    worker = os.fork()
    if worker == 0:
        status = 1
        try:
            store = open_store(file_settings, on_wake=lambda channels: None)
            store.write(put("a"))
            store.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(worker, 0)[1] == 0
    store = open_store(file_settings, on_wake=lambda channels: None)
    assert keys(store) == ["a"]
    store.close()
