"""`dbward server healthcheck URL` and `dbward agent healthcheck FILE`, for orchestrators: they run every few seconds.

So nothing of the application is imported, and `http.client` rather than anything that would obey a proxy.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

SERVER_USAGE = """\
Usage: dbward server healthcheck URL

  Exit with 0 when the server at URL, such as http://127.0.0.1:3000/health, answers 200 within five seconds, and
  with 1 otherwise.
"""
AGENT_USAGE = """\
Usage: dbward agent healthcheck FILE

  Exit with 0 when the agent has renewed FILE, its alive_file, within the last minute, and with 1 otherwise.
"""
TIMEOUT_SECS = 5.0
STALE_SECS = 60.0
"""The agent renews its file every ten seconds."""


def run(argv: Sequence[str], out: TextIO, err: TextIO) -> int:
    """The exit status of `("server" | "agent", "healthcheck", …)`; 2 for a wrong call, as everywhere."""
    usage = SERVER_USAGE if argv[0] == "server" else AGENT_USAGE
    if list(argv[2:]) == ["--help"]:
        out.write(usage)
        return 0
    if len(argv) != 3 or argv[2].startswith("-"):
        err.write(usage)
        return 2
    trouble = _server(argv[2]) if argv[0] == "server" else _agent(Path(argv[2]))
    if trouble is not None:
        err.write(f"unhealthy: {trouble}\n")
        return 1
    return 0


def _server(url: str) -> str | None:
    """Why the server is not healthy; None when it is."""
    try:
        parts = urlsplit(url)
        kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}.get(parts.scheme)
        if kind is None or parts.hostname is None:
            return f"{url!a} is not an http or https URL"
        connection = kind(parts.hostname, parts.port, timeout=TIMEOUT_SECS)
        try:
            connection.request("GET", parts.path or "/health")
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as e:
        return str(e) or type(e).__name__
    return None if status == 200 else f"HTTP {status}"


def _agent(alive: Path) -> str | None:
    """Why the agent is not healthy; None when it is."""
    try:
        age = time.time() - alive.stat().st_mtime
    except OSError as e:
        return f"{alive}: {e.strerror}"
    return None if age < STALE_SECS else f"{alive} was last renewed {age:.0f} seconds ago"
