"""Ends what a test session started, however the session ends.

The pytest process that owns a run directory holds a lock on `alive` in it. This program waits for that lock, which the
kernel gives up when the owner exits or is killed, then kills every process group registered under `groups/`, and, where
there is a /proc, whatever else carries the session's mark in its environment; then it removes the directory. Standard
library only: it runs as `python guard.py RUN_DIR`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
from pathlib import Path

MARK = "GUARDED_BY"
"""Environment variable of all that is started: children that left their parent's group still inherit it."""


def register(run_dir: Path, pid: int) -> None:
    """Have the process group led by `pid` killed at the end of the session."""
    (run_dir / "groups" / str(pid)).write_text(start_time(pid))


def forget(run_dir: Path, pid: int) -> None:
    """The group led by `pid` is over."""
    (run_dir / "groups" / str(pid)).unlink(missing_ok=True)


def start_time(pid: int) -> str:
    """The kernel's start tick of a process, so that a reused pid is told apart; empty where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def kill_registered(run_dir: Path) -> None:
    for entry in (run_dir / "groups").iterdir():
        pid = int(entry.name)
        if start_time(pid) in ("", entry.read_text()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        entry.unlink(missing_ok=True)


def kill_marked(mark: str) -> None:
    """Kill every process whose mark begins with `mark`, until none is left that could start another."""
    wanted = f"\0{MARK}={mark}".encode()
    for _ in range(5):
        found = False
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int(entry.name) != os.getpid() and wanted in b"\0" + (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
                    found = True
        if not found:
            return


def main() -> None:
    run_dir = Path(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (run_dir / "alive").open("a") as alive:
        print("watching", flush=True)
        fcntl.flock(alive, fcntl.LOCK_EX)
    kill_registered(run_dir)
    kill_marked(str(run_dir))
    for _ in range(50):  # a killed server may still be closing files in its directory
        shutil.rmtree(run_dir, ignore_errors=True)
        if not run_dir.exists():
            break


if __name__ == "__main__":
    main()
