"""The `dbmate` program, from npm, whose files and record of migrations dbward's agree with."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.npm import install

HERE = Path(__file__).parent


def dbmate(url: str, folder: Path, *command: str) -> str:
    """Run a command of it on the database of `url`, one of dbward's; what it prints. An exit status but 0 raises."""
    # Only what is built for this kind of machine is installed, and by its own name: its own launcher wants npm's links.
    (program,) = (install(HERE) / "@dbmate").glob("*/bin/dbmate")
    done = subprocess.run(
        [program, "--no-dump-schema", "--migrations-dir", folder, *command],
        env={"PATH": os.environ["PATH"], "DATABASE_URL": _as_dbmate_has_it(url)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _as_dbmate_has_it(url: str) -> str:
    parts = urlsplit(url)
    match parts.scheme:
        case "sqlite":
            return f"sqlite:{parts.path}"
        case "postgresql":
            return parts._replace(query="sslmode=disable").geturl()
        case _:
            return url
