"""`make demo`, which README.md begins with, shows the main job and leaves nothing behind, however it ends."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.processes import Farm, Process

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "deploy" / "demo" / "demo.py"

SHOWN = (
    "[BLOCK] no_where_update",
    "waits for approval by role:approver",
    "Approved ",
    "1 row affected",
    "transaction control",
    "request.approved",
    "The chain is whole",
    "1 node online.",
    "job.shop.production",
    "What to try next",
)


@pytest.fixture
def temp(tmp_path: Path) -> Path:
    path = tmp_path / "temp"
    path.mkdir()
    return path


def _start(farm: Farm, temp: Path) -> Process:
    return farm.spawn("demo", [sys.executable, str(DEMO)], env={"TMPDIR": str(temp)})


def _running_below(directory: Path) -> list[str]:
    """Processes that work in `directory` or below."""
    found = []
    for process in psutil.process_iter():
        try:
            cwd = process.cwd()
        except psutil.Error:
            continue
        if cwd.startswith(str(directory)):
            found.append(f"{process.pid} {cwd}")
    return found


def test_the_demo_does_the_main_job(farm: Farm, temp: Path) -> None:
    demo = _start(farm, temp)
    assert demo.wait(120) == 0, demo.log()
    for text in SHOWN:
        assert text in demo.log()
    assert list(temp.iterdir()) == []
    assert _running_below(temp) == []


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("server on", signal.SIGINT),
        ("agent, which", signal.SIGTERM),
        ("alice$", signal.SIGINT),
        ("bob$", signal.SIGHUP),
        ("inspect ping", signal.SIGINT),
    ],
)
def test_it_can_be_interrupted_at_any_moment(farm: Farm, temp: Path, moment: str, number: signal.Signals) -> None:
    demo = _start(farm, temp)
    farm.until(lambda: moment in demo.log(), f"the demo says {moment!r}", demo)
    demo.signal(number)
    assert demo.wait(60) == 130
    assert list(temp.iterdir()) == []
    assert _running_below(temp) == []


def test_it_says_what_went_wrong(farm: Farm, temp: Path) -> None:
    """The server dies in the middle: the demo fails with the end of its log, and cleans up."""
    demo = _start(farm, temp)
    farm.until(lambda: "alice$" in demo.log(), "the demo is on its way", demo)
    for process in psutil.Process(demo.pid).children():
        if "server" in process.cmdline():
            process.kill()
    assert demo.wait(120) == 1
    assert "The demo failed" in demo.log()
    assert "End of the server's log" in demo.log()
    assert list(temp.iterdir()) == []
    assert _running_below(temp) == []
