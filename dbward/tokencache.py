"""What was learned about tokens in the last seconds, so that a busy client costs one look-up and not one a request."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

from dbward.domain.model import Principal

CACHE_TTL = timedelta(seconds=5)
_CACHE_MAX = 4096
_FAILURES_PER_MINUTE = 5


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    expires_at: datetime | None
    until: datetime


class TokenCache:
    """Principals by token hash. Replicas learn of a revocation within `CACHE_TTL`, the process that revokes at once."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._failures: dict[str, tuple[datetime, int]] = {}
        self._guard = threading.Lock()

    def get(self, token_hash: str, now: datetime) -> Principal | None:
        known = self._known.get(token_hash)
        if known is None or now >= known.until or (known.expires_at is not None and now >= known.expires_at):
            return None
        return known.principal

    def put(self, token_hash: str, principal: Principal, expires_at: datetime | None, now: datetime) -> None:
        with self._guard:
            if len(self._known) >= _CACHE_MAX:
                self._known.clear()
            self._known[token_hash] = _Known(principal, expires_at, now + CACHE_TTL)

    def forget_all(self) -> None:
        """Called when a token or a user changes: the next request of everybody is looked up again."""
        with self._guard:
            self._known.clear()

    def worth_recording(self, peer_ip: str, now: datetime) -> bool:
        """Whether a failed sign-in goes on the record: a few a minute from one address; a flood cannot fill it."""
        with self._guard:
            since, count = self._failures.get(peer_ip, (now, 0))
            if now - since >= timedelta(minutes=1):
                since, count = now, 0
            if len(self._failures) >= _CACHE_MAX:
                self._failures.clear()
            self._failures[peer_ip] = (since, count + 1)
            return count < _FAILURES_PER_MINUTE
