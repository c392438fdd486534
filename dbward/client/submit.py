"""Making a request through outages: repeated under its idempotency key, which makes one request of all attempts."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any, Final

from dbward.client.http import NETWORK_ERROR, SERVER_ERROR, ApiClient
from dbward.errors import DbwardError, Unavailable

PATIENCE_SECS: Final = 20.0
"""How long a submission is repeated: a server that restarts, or a balancer that looks for another one, takes less."""

_OF_A_PROXY: Final = frozenset({502, 503, 504})
_FIRST_PAUSE_SECS: Final = 0.1
_LAST_PAUSE_SECS: Final = 2.0


def submit(client: ApiClient, body: Mapping[str, Any], *, patience_secs: float = PATIENCE_SECS) -> dict[str, Any]:
    """`POST /api/requests` with a `body` that holds an `idempotency_key`, until it is answered.

    Repeated when the answer was lost, and when a server or a proxy in front of it says that it cannot answer now.
    Raises what the server decided, and `Unavailable`: at once when nobody listens there, else after `patience_secs`.
    """
    if not body.get("idempotency_key"):
        raise ValueError("a request without an idempotency key must not be submitted twice")
    until = time.monotonic() + patience_secs
    pause = _FIRST_PAUSE_SECS
    while True:
        try:
            return client.post("/api/requests", body)
        except Unavailable as e:
            wait = pause * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing
            if not may_pass(e) or time.monotonic() + wait > until:
                raise
            time.sleep(wait)
            pause = min(pause * 2, _LAST_PAUSE_SECS)


def may_pass(error: Unavailable) -> bool:
    """Whether the same call may be answered in a moment: a server died over it, or said that it cannot for now."""
    facts = error.detail or {}
    if error.code == NETWORK_ERROR:
        return bool(facts.get("sent"))
    if error.code == SERVER_ERROR:
        return facts.get("status") in _OF_A_PROXY
    return error.code != DbwardError.code
