"""What was learned about tokens in the last seconds, so that a busy client costs one look-up and not one a request."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

from dbward.allowance import PerMinute
from dbward.domain.model import Principal

CACHE_TTL = timedelta(seconds=5)
_CACHE_MAX = 4096
_RECORDED_PER_MINUTE = 5
_ALL_RECORDED_PER_MINUTE = 100


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    under: object
    expires_at: datetime | None
    until: datetime


class TokenCache:
    """Principals by token hash.

    A revocation empties the cache of the process that commits it before the call returns, and those of other replicas
    as soon as PostgreSQL tells them. `CACHE_TTL` is how long one that cannot be told goes on.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._recorded = PerMinute(in_all=_ALL_RECORDED_PER_MINUTE)
        self._generation = 0
        self._guard = threading.Lock()

    @property
    def generation(self) -> int:
        """Changes with `forget_all`: what was looked up under an earlier one is not remembered."""
        return self._generation

    def get(self, token_hash: str, now: datetime, *, under: object) -> Principal | None:
        """What was remembered under these very settings: roles are resolved by them."""
        known = self._known.get(token_hash)
        if known is None or known.under is not under or now >= known.until:
            return None
        if known.expires_at is not None and now >= known.expires_at:
            return None
        return known.principal

    def put(
        self,
        token_hash: str,
        principal: Principal,
        expires_at: datetime | None,
        now: datetime,
        *,
        generation: int,
        under: object,
    ) -> None:
        """Remember what a look-up found that began under `generation` and the settings `under`."""
        with self._guard:
            if generation != self._generation:
                return
            if len(self._known) >= _CACHE_MAX:
                self._known.clear()
            self._known[token_hash] = _Known(principal, under, expires_at, now + CACHE_TTL)

    def forget_all(self) -> None:
        """Called when a token or a user changes: the next request of everybody is looked up again."""
        with self._guard:
            self._generation += 1
            self._known.clear()

    def worth_recording(self, source: str, now: datetime) -> bool:
        """Whether a failure goes on the record: a few a minute from one source, and not too many in all.

        So a flood cannot fill the log, whatever addresses it comes from.
        """
        return self._recorded.allow(source, _RECORDED_PER_MINUTE, now)
