"""Taking a queue message, whatever it asks for: not while stopping, claimed with patience, checked against the key."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from threading import Event
from typing import Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dbward.client.agent_api import patiently
from dbward.client.wire import ClaimRequest
from dbward.errors import Conflict, DbwardError, Missing, RateLimited, Unauthorized, Unavailable
from dbward.logs import bound
from worker.job import Rejected
from worker.jobs import Job, Jobs
from worker.keys import ServerKey
from worker.surprise import log_surprise

log = logging.getLogger("dbward.agent")

T = TypeVar("T")

QUIET_SECS: Final = 5.0

FORGOTTEN: Final = "agent.unknown"
"""The server's word for a session of which it has no report (any more)."""


class PutBack(Exception):
    """Nothing was claimed: the message goes back to its queue."""


def noticing(call: Callable[[], T], on_forgotten: Callable[[], None]) -> T:
    """What `call` returns; `on_forgotten` is called when the server wants a report first. Raises what `call` does."""
    try:
        return call()
    except Unavailable as e:
        if e.code == FORGOTTEN:
            on_forgotten()
        raise


class Intake:
    """What every kind of message goes through, and what all of them share; safe to use from many threads.

    `closing` says that no new job is taken, `quiet` that none is fetched any more either. `on_unauthorized` is called
    when the server does not accept the token any more, `on_forgotten` when it wants a report before the next claim.
    """

    def __init__(
        self,
        key: ServerKey,
        *,
        jobs: Jobs,
        session: str,
        closing: Event,
        quiet: Event,
        on_unauthorized: Callable[[], None],
        on_forgotten: Callable[[], None],
    ) -> None:
        self._key = key
        self._jobs = jobs
        self._session = session
        self._closing = closing
        self._quiet = quiet
        self.on_unauthorized = on_unauthorized
        self._on_forgotten = on_forgotten

    def take(self, job: Job, work: Callable[[], None], *, failure: str, **ids: str) -> None:
        """Do `work` for `job`, with `ids` in the log. Raises `PutBack` when the message is to be delivered again.

        `failure` is what is logged when `work` raises anything else.
        """
        if self._closing.is_set():
            # Given back while this agent still fetches, it would come straight back and use up its deliveries.
            self._quiet.wait(QUIET_SECS)
            raise PutBack("this agent is stopping")
        self._jobs.add(job)
        try:
            with bound(**ids):
                work()
        except PutBack:
            raise
        except Exception as e:  # noqa: BLE001 - Celery would log its text, and acknowledge the message
            # If the token was spent, the server refuses the next claim; if not, its delivery cap ends this.
            log_surprise(failure, e)
            raise PutBack("the agent failed") from None
        finally:
            self._jobs.remove(job)

    def claim(self, job: Job, tag: str, call: Callable[[str, ClaimRequest], T], *, what: str) -> T | None:
        """What the server hands out for `job`, or None when it does not want it done any more. Raises `PutBack`."""
        ask = partial(call, job.execution_id, ClaimRequest(session=self._session, tag=tag))
        try:
            return patiently(lambda: noticing(ask, self._on_forgotten), stop=job.halt, what="claim")
        except (Conflict, Missing) as e:
            # Cancelled, finished, or delivered to somebody else meanwhile: the message is out of date.
            log.info("%s dropped: %s", what, e.message)
            return None
        except (Unavailable, RateLimited) as e:
            raise PutBack("the server was away while the agent stopped") from e
        except Unauthorized as e:
            self.on_unauthorized()
            raise PutBack("the token is not accepted any more") from e
        except DbwardError as e:
            # Not for this agent (403), or not understood: the server's delivery cap ends it if nobody can.
            log.warning("the claim is refused: %s", e.message)
            raise PutBack(e.message) from e

    def checked(self, check: Callable[[Ed25519PublicKey, datetime], T | Rejected]) -> T | Rejected:
        """What `check` makes of the key and the time; asked again when the server's key is a new one."""
        found = check(self._key.current, datetime.now(UTC))
        if isinstance(found, Rejected) and found.key_may_be_old and self._key.refetch():
            found = check(self._key.current, datetime.now(UTC))
        return found
