"""Sizes and times of the broker that are not settings."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

DELIVERY_CAP: Final = 5
MAX_FETCH: Final = 50
MAX_FETCH_BYTES: Final = 1024 * 1024
MAX_MESSAGE_BYTES: Final = 256 * 1024
MAX_COMMAND_BYTES: Final = 16 * 1024

MAX_WAITING: Final = 1000
"""Messages in one control, reply or event queue; what comes beyond is not kept, for nobody reads it."""
MAX_OWN_QUEUES: Final = 100
"""Reply and event queues of one token at a time; they expire by themselves."""

QUEUE_EXPIRES: Final = (timedelta(seconds=1), timedelta(minutes=5))
"""How long a queue that a client declared outlives its last reader: at least, and at most."""
DEAD_LETTERS_KEPT: Final = timedelta(days=7)
RECHECK: Final = timedelta(seconds=10)
"""How often a waiting poll looks whether its client is still on the line."""
