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

TIMEOUT_SECS = 5.0
STALE_SECS = 60.0
"""The agent renews its file every ten seconds."""


def run(argv: Sequence[str], err: TextIO) -> int:
    """The exit status of `("server", "healthcheck", URL)` or `("agent", "healthcheck", FILE)`."""
    trouble = of_server(argv[2]) if argv[0] == "server" else of_agent(Path(argv[2]))
    if trouble is not None:
        err.write(f"unhealthy: {trouble}\n")
        return 1
    return 0


def of_server(url: str) -> str | None:
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


def of_agent(alive: Path) -> str | None:
    """By its `alive_file`: why the agent is not healthy; None when it is."""
    try:
        age = time.time() - alive.stat().st_mtime
    except OSError as e:
        return f"{alive}: {e.strerror}"
    return None if age < STALE_SECS else f"{alive} was last renewed {age:.0f} seconds ago"
