"""Logging what nobody foresaw."""

from __future__ import annotations

import logging
import traceback

log = logging.getLogger("dbward.agent")


def log_surprise(what: str, e: Exception) -> None:
    """Where it came from, and its kind; its text may hold SQL or data, which do not belong in a log."""
    log.error("%s (%s), at:\n%s", what, type(e).__name__, "".join(traceback.format_tb(e.__traceback__)))
