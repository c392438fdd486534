"""What is left when the database itself fails: its connection, its disk, its file."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest
from sqlalchemy import text

from dbward.db import connect
from dbward.db.engine import Tx, open_store
from dbward.db.filesystem import Filesystem
from dbward.db.migrations import migrate
from dbward.errors import Misconfigured, Unavailable
from dbward.settings.server import StateSettings
from tests.store.conftest import run_as_batch
from tests.store.support import keys, put, settings_for

# --- PostgreSQL: the connection is lost ------------------------------------------------------------------------------


@pytest.fixture
def pg_settings(postgres_url: str) -> StateSettings:
    settings = settings_for(postgres_url)
    migrate(settings)
    return settings


@pytest.fixture
def pg_store(pg_settings: StateSettings, wakes):
    store = open_store(pg_settings, on_wake=wakes)
    yield store
    store.close()


def backend(tx: Tx) -> int:
    return int(tx.conn.execute(text("SELECT pg_backend_pid()")).scalar_one())


def end_backend(url: str, pid: int) -> None:
    """End a session from outside, and wait until it is gone."""
    with psycopg2.connect(url) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
    conn.close()


def test_a_connection_lost_while_idle_is_not_noticed(pg_store, postgres_url):
    end_backend(postgres_url, pg_store.write(backend))
    assert pg_store.write(put("a")) == "a"


def test_a_connection_lost_in_the_middle_is_replaced(pg_store, postgres_url):
    runs: list[int] = []

    def work(tx: Tx) -> str:
        runs.append(backend(tx))
        if len(runs) == 1:
            end_backend(postgres_url, runs[0])
        return put("a")(tx)

    assert pg_store.write(work) == "a"
    assert len(set(runs)) == len(runs) == 2
    assert keys(pg_store) == ["a"]


def test_a_connection_lost_again_and_again_is_unavailable(pg_store, postgres_url):
    def work(tx: Tx) -> str:
        end_backend(postgres_url, backend(tx))
        return put("a")(tx)

    with pytest.raises(Unavailable):
        pg_store.write(work)
    assert pg_store.write(put("b")) == "b"
    assert keys(pg_store) == ["b"]


def test_only_the_item_that_loses_the_connection_fails(pg_store, postgres_url):
    def lose(tx: Tx) -> None:
        end_backend(postgres_url, backend(tx))
        put("x")(tx)

    outcomes = run_as_batch(pg_store, [put("a"), lose, put("b")])
    assert [outcomes[0], outcomes[2]] == ["a", "b"]
    assert isinstance(outcomes[1], Unavailable)
    assert keys(pg_store) == ["a", "b"]


def test_a_connection_lost_at_the_commit_is_never_replayed(pg_store, postgres_url):
    runs: list[str] = []

    def work(tx: Tx) -> None:
        runs.append(put("a")(tx))
        tx.after_commit(lambda: pytest.fail("nobody knows whether it was committed"))
        end_backend(postgres_url, backend(tx))

    with pytest.raises(Unavailable, match="may have been made"):
        pg_store.write(work)
    assert runs == ["a"]
    assert pg_store.write(put("b")) == "b"


def test_a_reader_that_lost_its_connection_is_unavailable_once(pg_store, postgres_url):
    with pg_store.read() as conn:
        pid = conn.execute(text("SELECT pg_backend_pid()")).scalar_one()
    end_backend(postgres_url, pid)
    with pytest.raises(Unavailable):
        keys(pg_store)
    assert keys(pg_store) == []


def test_a_database_that_is_gone_and_comes_back(pg_settings, wakes):
    store = open_store(pg_settings, on_wake=wakes)
    parts = urlsplit(pg_settings.url)
    name, admin = parts.path[1:], psycopg2.connect(urlunsplit(parts._replace(path="/postgres")))
    admin.autocommit = True
    try:
        store.write(put("a"))
        with admin.cursor() as cursor:

            def lose(tx: Tx) -> None:
                cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                put("x")(tx)

            outcomes = run_as_batch(store, [put("b"), lose, put("c")])
            assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
            with pytest.raises(Unavailable):
                store.ping()
            cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        migrate(pg_settings)
        assert store.write(put("e")) == "e"
        assert keys(store) == ["e"]
    finally:
        store.close()
        admin.close()


def test_a_server_that_cannot_be_reached_is_unavailable(free_port: int):
    settings = settings_for(f"postgresql://nobody:s3cret@127.0.0.1:{free_port}/nothing")
    for attempt in (lambda: migrate(settings), lambda: open_store(settings, on_wake=lambda _: None)):
        with pytest.raises(Unavailable) as raised:
            attempt()
        assert "s3cret" not in str(raised.value)


# --- SQLite: the disk and the file -----------------------------------------------------------------------------------


@pytest.fixture
def file_settings(tmp_path: Path) -> StateSettings:
    settings = settings_for(f"sqlite:///{tmp_path / 'state.db'}")
    migrate(settings)
    return settings


def test_a_full_disk_fails_only_what_does_not_fit(file_settings, wakes):
    store = open_store(file_settings, on_wake=wakes)

    def limit(tx: Tx) -> None:
        pages = tx.conn.exec_driver_sql("PRAGMA page_count").scalar_one()
        tx.conn.exec_driver_sql(f"PRAGMA max_page_count = {pages + 8}")

    store.write(limit)
    outcomes = run_as_batch(store, [put("a"), put("x", "x" * 1_000_000), put("b")])
    assert [outcomes[0], outcomes[2]] == ["a", "b"]
    assert isinstance(outcomes[1], Unavailable)
    assert "full" in str(outcomes[1])
    assert keys(store) == ["a", "b"]
    store.close()


@pytest.fixture
def corrupt(file_settings, tmp_path, wakes) -> StateSettings:
    """A database that opens, with garbage where its rows were."""
    store = open_store(file_settings, on_wake=wakes)
    for n in range(50):
        store.write(put(f"{n}", "v" * 3000))
    store.close()
    file = tmp_path / "state.db"
    pages = bytearray(file.read_bytes())
    for at in range(0, len(pages), 4096):
        if b"v" * 2000 in pages[at : at + 4096]:
            pages[at : at + 4096] = b"\xa5" * 4096
    file.write_bytes(pages)
    return file_settings


def test_a_corrupt_file_ends_the_store(corrupt, wakes):
    told: list[BaseException] = []
    fatal = threading.Event()

    def on_fatal(error: BaseException) -> None:
        told.append(error)
        fatal.set()

    store = open_store(corrupt, on_wake=wakes, on_fatal=on_fatal)
    with pytest.raises(Unavailable):
        store.write(lambda tx: tx.conn.exec_driver_sql("UPDATE server_meta SET value = value || 'w'"))
    assert fatal.is_set()
    assert len(told) == 1
    with pytest.raises(Unavailable):
        store.write(put("later"))
    with pytest.raises(Unavailable):
        store.ping()
    store.close()


def test_a_corrupt_file_ends_the_process_when_nobody_says_otherwise(corrupt):
    program = (
        "import sys; from dbward.db.engine import open_store; from tests.store.support import settings_for\n"
        "store = open_store(settings_for(sys.argv[1]), on_wake=print)\n"
        "store.write(lambda tx: tx.conn.exec_driver_sql('DELETE FROM server_meta'))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, corrupt.url], cwd=root, check=False, capture_output=True, text=True
    )
    assert done.returncode == os.EX_IOERR
    assert "cannot be trusted any more" in done.stderr


@pytest.mark.parametrize("by", ["writer", "reader"])
def test_a_file_that_cannot_be_read_or_written_ends_the_process(file_settings, by):
    store = open_store(file_settings, on_wake=print)
    store.write(put("a", "v" * 500_000))
    store.close()
    program = (
        "import os, resource, sys; from dbward.db.engine import open_store\n"
        "from tests.store.support import keys, put, settings_for\n"
        "store = open_store(settings_for(sys.argv[1]), on_wake=print)\n"
        "store.write(put('b'))\n"
        "print('b', flush=True)\n"
        "if sys.argv[2] == 'writer':\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, 64 * 1024))\n"
        "    store.write(put('c', 'v' * 500_000))\n"
        "else:\n"
        "    os.truncate(sys.argv[1].removeprefix('sqlite:///') + '-wal', 0)\n"
        "    keys(store)\n"
        "print('went on', flush=True)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, file_settings.url, by], cwd=root, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (os.EX_IOERR, "b\n"), done.stderr
    assert "disk I/O error" in done.stderr
    if by == "writer":
        store = open_store(file_settings, on_wake=print)
        assert keys(store) == ["a", "b"]
        store.close()


def test_what_is_no_database_is_refused(tmp_path, wakes):
    file = tmp_path / "state.db"
    file.write_text("hello " * 1000)
    settings = settings_for(f"sqlite:///{file}")
    for attempt in (lambda: migrate(settings), lambda: open_store(settings, on_wake=wakes)):
        with pytest.raises(Misconfigured, match="not a database"):
            attempt()


# --- where it may lie ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_shared_log_on_a_network_file_system_is_refused(tmp_path, kind, wakes):
    asked: list[Path] = []

    def look(path: Path) -> Filesystem:
        asked.append(path)
        return Filesystem(kind)

    shared = settings_for(f"sqlite:///{tmp_path / 'state.db'}", exclusive=False)
    for attempt in (
        lambda: migrate(shared, look=look),
        lambda: open_store(shared, on_wake=wakes, look=look),
    ):
        with pytest.raises(Misconfigured, match=f"network file system \\({kind}\\)") as raised:
            attempt()
        assert raised.value.code == "state_on_network"
        assert "[state] exclusive = true" in str(raised.value.hint)
    assert asked == [tmp_path, tmp_path]
    assert not (tmp_path / "state.db").exists()


def test_a_network_file_system_is_fine_for_one_owner(file_settings, wakes):
    store = open_store(file_settings, on_wake=wakes, look=lambda path: Filesystem("nfs4", frozenset({"hard"})))
    assert store.write(put("a")) == "a"
    store.close()


@pytest.mark.parametrize("option", ["nolock", "local_lock=all", "local_lock=posix"])
def test_where_other_machines_do_not_see_our_locks_nothing_is_opened(file_settings, wakes, option):
    def look(_: Path) -> Filesystem:
        return Filesystem("nfs", frozenset({"rw", option}))

    for attempt in (
        lambda: migrate(file_settings, look=look),
        lambda: open_store(file_settings, on_wake=wakes, look=look),
    ):
        with pytest.raises(Misconfigured, match=option) as raised:
            attempt()
        assert raised.value.code == "state_unlocked"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Filesystem("ext4", frozenset({"rw", "nolock", "soft"})), None),
        (Filesystem("nfs4", frozenset({"rw", "hard", "local_lock=none"})), None),
        (Filesystem("nfs4", frozenset({"rw", "softerr", "local_lock=none"})), "mounted (nfs4) with softerr"),
        (Filesystem("fuse.sshfs"), "on fuse.sshfs"),
        (Filesystem("9p"), "on 9p"),
    ],
)
def test_what_is_doubtful_about_a_place_is_said(file_settings, found, said):
    doubts = connect.check_filesystem(file_settings, lambda _: found)
    assert [said in doubt for doubt in doubts] == ([True] if said else [])


def test_a_local_disk_may_be_shared(tmp_path, wakes):
    settings = settings_for(f"sqlite:///{tmp_path / 'state.db'}", exclusive=False)
    migrate(settings)
    store = open_store(settings, on_wake=wakes)
    assert store.write(put("a")) == "a"
    assert (tmp_path / "state.db-shm").exists()
    store.close()


def test_the_owner_uses_no_shared_memory_file(file_settings, tmp_path, wakes):
    store = open_store(file_settings, on_wake=wakes)
    store.write(put("a"))
    assert not (tmp_path / "state.db-shm").exists()
    store.close()


@pytest.mark.parametrize("name", ["with space.db", "100%.db", "a?b#c.db", "ünï.db"])
def test_any_file_name_will_do(tmp_path, wakes, name):
    file = tmp_path / name
    settings = settings_for(f"sqlite:///{file}")
    migrate(settings)
    store = open_store(settings, on_wake=wakes)
    assert store.write(put("a")) == "a"
    store.close()
    assert file.exists()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://a:b@c/d",
        "sqlite://",
        "sqlite:///relative.db",
        "nonsense",
        "sqlite:///:memory:",
        "postgresql://h:port/d",
    ],
)
def test_other_places_are_refused(url, wakes):
    for attempt in (lambda: migrate(settings_for(url)), lambda: open_store(settings_for(url), on_wake=wakes)):
        with pytest.raises(Misconfigured):
            attempt()
