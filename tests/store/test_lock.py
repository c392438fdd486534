"""One server per state directory, and what a second one is told."""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from dbward.db import lock
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


def asleep_on(path: Path) -> bool:
    """Whether somebody sleeps on an flock of the file, as the kernel sees it."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any("-> FLOCK" in line and f":{path.stat().st_ino} " in line for line in lines)


@pytest.mark.parametrize("again_secs", [60, 0.01], ids=["it is woken", "it asks again"])
def test_it_waits_for_a_predecessor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again_secs: float):
    monkeypatch.setattr(lock, "_AGAIN_SECS", again_secs)
    first, second, said = StateLock(tmp_path), StateLock(tmp_path), []
    first.acquire()

    def let_go() -> None:
        while not asleep_on(tmp_path / "server.lock"):
            time.sleep(0.001)
        first.release()

    thread = threading.Thread(target=let_go)

    def waiting(whose: str) -> None:
        said.append(whose)
        thread.start()

    alarm = signal.getsignal(signal.SIGALRM)
    second.acquire(timedelta(seconds=60), waiting)
    thread.join()
    assert len(said) == 1
    assert f"process {os.getpid()} on" in said[0]
    assert signal.getsignal(signal.SIGALRM) is alarm
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with pytest.raises(Misconfigured):
        StateLock(tmp_path).acquire()
    second.release()


def test_it_does_not_wait_for_ever(tmp_path: Path):
    said: list[str] = []
    with StateLock(tmp_path), pytest.raises(Misconfigured, match="another dbward server") as raised:
        StateLock(tmp_path).acquire(timedelta(seconds=0.05), said.append)
    assert raised.value.code == "state_locked"
    assert len(said) == 1


def test_what_a_signal_raises_ends_the_wait(tmp_path: Path):
    def stop(_number: int, _frame: object) -> None:
        raise SystemExit(7)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with StateLock(tmp_path), pytest.raises(SystemExit):
            StateLock(tmp_path).acquire(timedelta(seconds=60), lambda _: os.kill(os.getpid(), signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
    StateLock(tmp_path).acquire()


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
