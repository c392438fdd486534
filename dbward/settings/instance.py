"""What tells one process from its replicas, where the platform knows it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

METADATA_VARIABLE: Final = "ECS_CONTAINER_METADATA_URI_V4"
TIMEOUT_SECS: Final = 2.0
MOST_BYTES: Final = 1024 * 1024


def of_ecs(env: Mapping[str, str]) -> str | None:
    """The id of the ECS task that this process runs in, such as `ecs-0f9de17a6465404e8b1b2356dc13c2f8`.

    None outside ECS, and where its metadata cannot be had: a name is not worth failing for.
    """
    where = urlsplit(env.get(METADATA_VARIABLE, ""))
    if where.scheme != "http" or where.hostname is None:
        return None
    try:
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=TIMEOUT_SECS)
        try:
            connection.request("GET", f"{where.path}/task")
            answer = connection.getresponse()
            found = json.loads(answer.read(MOST_BYTES)) if answer.status == 200 else {}
        finally:
            connection.close()
        name = str(found["TaskARN"]).rpartition("/")[2]
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return None
    return f"ecs-{name}" if name else None
