"""One server per state directory, and what a second one is told."""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from dbward.db.lock import StateLock
from dbward.errors import Misconfigured


def test_a_second_one_is_refused_and_told_by_whom(tmp_path: Path):
    with StateLock(tmp_path):
        with pytest.raises(Misconfigured, match=f"process {os.getpid()} on {socket.gethostname()}") as raised:
            StateLock(tmp_path).acquire()
        assert raised.value.code == "state_locked"
        assert str(tmp_path) in str(raised.value)
    with StateLock(tmp_path):
        pass


def test_it_waits_for_a_predecessor(tmp_path: Path):
    first, taken = StateLock(tmp_path), threading.Event()
    first.acquire()

    def second() -> None:
        with StateLock(tmp_path, timedelta(seconds=60)):
            taken.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert not taken.is_set()
    first.release()
    thread.join()
    assert taken.is_set()


def test_the_directory_is_made_for_its_owner_only(tmp_path: Path):
    home = tmp_path / "a" / "b"
    with StateLock(home):
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "server.lock").stat().st_mode) == 0o600


def test_a_place_that_cannot_be_used_is_a_clear_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="state directory"):
        StateLock(tmp_path / "file").acquire()


def test_releasing_twice_is_harmless(tmp_path: Path):
    lock = StateLock(tmp_path)
    lock.acquire()
    lock.release()
    lock.release()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_worker_holds_it_after_its_master_let_go(tmp_path: Path):
    lock = StateLock(tmp_path)
    lock.acquire()
    worker = os.fork()
    if worker == 0:
        signal.pause()
        os._exit(0)
    lock.release()  # also what the death of the master does
    with pytest.raises(Misconfigured):
        StateLock(tmp_path).acquire()
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    with StateLock(tmp_path):
        pass
