"""Probe files and the timer that drives the beat."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from dbward.errors import Misconfigured
from worker.probes import Probes
from worker.timer import Timer


def test_the_ready_file_follows_and_both_go_at_the_end(tmp_path: Path) -> None:
    alive, ready = tmp_path / "alive", tmp_path / "ready"
    probes = Probes(alive, ready)
    probes.open()
    assert alive.exists()
    assert not ready.exists()
    probes.set_ready(True)
    probes.set_ready(True)
    assert ready.exists()
    probes.set_ready(False)
    assert not ready.exists()
    probes.set_ready(True)
    probes.close()
    assert not alive.exists()
    assert not ready.exists()


def test_a_ready_file_left_by_a_killed_agent_is_removed(tmp_path: Path) -> None:
    (tmp_path / "ready").touch()
    Probes(tmp_path / "alive", tmp_path / "ready").open()
    assert not (tmp_path / "ready").exists()


def test_a_beat_renews_the_alive_file(tmp_path: Path) -> None:
    probes = Probes(tmp_path / "alive", tmp_path / "ready")
    probes.open()
    os.utime(tmp_path / "alive", (0, 0))
    probes.beat()
    assert (tmp_path / "alive").stat().st_mtime > 0


def test_a_path_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as raised:
        Probes(tmp_path / "none" / "alive", tmp_path / "ready").open()
    assert "none/alive" in raised.value.message


def test_calls_come_in_order_of_their_time_and_a_failure_stops_nothing() -> None:
    timer, seen, done = Timer("test"), list[str](), threading.Event()

    def fail() -> None:
        seen.append("fails")
        raise ValueError("on purpose")

    timer.after(0.10, done.set)
    timer.after(0.05, lambda: seen.append("second"))
    timer.after(0.0, fail)
    assert done.wait(10)
    assert seen == ["fails", "second"]
    timer.close()


def test_every_repeats_until_closed() -> None:
    timer, thrice, count = Timer("test"), threading.Event(), iter(range(1000))
    timer.every(0.01, lambda: thrice.set() if next(count) == 2 else None)
    assert thrice.wait(10)
    timer.close()
