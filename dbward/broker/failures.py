"""The broker's errors as kombu and Celery want to be told them.

BrokerUnavailable  an outage: a connection error, so it may be tried again
BrokerRefused      the server understood and said no: a channel error
TokenRefused       neither of the two, for Celery would try those again without end
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from kombu.exceptions import ChannelError

from dbward.errors import DbwardError, Missing, RateLimited, Unauthorized, Unavailable


class BrokerUnavailable(ConnectionError):
    """An OSError, because Celery's loop lets only those pass while it stops."""


class BrokerRefused(ChannelError):
    def __str__(self) -> str:
        return str(self.reply_text)


class TokenRefused(Exception):
    """The token is unknown, expired or revoked."""


def give_up(e: DbwardError) -> NoReturn:
    if isinstance(e, Unavailable | RateLimited):
        raise BrokerUnavailable(e.message) from e
    if isinstance(e, Unauthorized):
        raise TokenRefused(e.message) from e
    text = f"{e.message} ({e.hint})" if e.hint else e.message
    raise BrokerRefused(text, (50, 10), "", 404 if isinstance(e, Missing) else 403) from e


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except DbwardError as e:
        give_up(e)
