"""The kombu transport: `dbward://:token@host:port` and `dbwards://` (TLS) over HTTP, `dbward-local://` in the server.

It differs from kombu's virtual base class where that would lose or repeat work. Leases belong to the process and
survive channels and connections; acknowledgements go to the server; one long-poll asks for the queues of all channels
and stays in flight between calls of `drain_events`. A worker never sees an outage: the transport retries, for Celery's
reconnect forgets reserved tasks. A token that is not accepted ends it with status 77, for retrying would never end.

`transport_options["session"]` makes a process a worker: an id that names it, and is new for each.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

from celery.exceptions import WorkerShutdown
from kombu.exceptions import ChannelError
from kombu.transport import TRANSPORT_ALIASES, virtual

from dbward.broker.channel import Channel
from dbward.broker.failures import BrokerUnavailable, TokenRefused, give_up, translated
from dbward.broker.names import EVENTS
from dbward.broker.session import Session
from dbward.broker.source import Poll, Source
from dbward.broker.source_http import HttpSource
from dbward.broker.wire import Bind, Declare, Declared, Delivery, Fetched, Group, OneQueue, Publish
from dbward.errors import DbwardError, Missing, RateLimited, Unauthorized, Unavailable

log = logging.getLogger("dbward.broker")

LOCAL_URL: Final = "dbward-local://"
EXIT_TOKEN_REFUSED: Final = 77

_SLICE_SECS: Final = 0.25
"""How often a waiting worker looks whether it has something else to do."""
_BACK_OFF_SECS: Final = (0.2, 3.0)
_EVENTS_PAUSE_SECS: Final = 5.0
_EMPTY_TOO_SOON_SECS: Final = 1.0

_Base: Any = virtual.Transport


class Transport(_Base):  # type: ignore[misc]  # kombu has no types that hold
    """One connection of kombu's. Those of a worker share its session; others have one each, which holds nothing."""

    Channel = Channel
    driver_type = "dbward"
    driver_name = "dbward"
    default_port = 3000
    can_parse_url = False
    scheme: str | None = "http"

    connection_errors = (BrokerUnavailable,)
    recoverable_connection_errors = (BrokerUnavailable,)
    channel_errors = (ChannelError,)
    recoverable_channel_errors = ()

    implements = virtual.Transport.implements.extend(
        asynchronous=False, exchange_type=frozenset(["direct", "topic", "fanout"]), heartbeats=False
    )

    stopping: Callable[[], bool] = staticmethod(lambda: False)
    """Whether nothing new is to be taken on; set by whoever runs the main loop, like the next."""
    interrupted: Callable[[], bool] = staticmethod(lambda: False)
    """Whether a wait should end before its time."""

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.source = self._open_source(client)
        name = client.transport_options.get("session")
        self._is_worker = name is not None
        self.session = (
            _worker_session(name, self.source) if name is not None else Session(self.source, uuid.uuid4().hex)
        )
        self._wait_secs = 25.0
        self._backlog: deque[Delivery] = deque()
        self._declared: dict[str, Declare] = {}
        self._bound: dict[str, list[Bind]] = {}
        self._poll: Poll | None = None
        self._poll_groups: list[Group] = []
        self._poll_began = 0.0
        self._failures = 0
        self._not_before = 0.0
        self._no_events_before = 0.0

    def _open_source(self, client: Any) -> Source:
        path = (client.virtual_host or "").strip("/")
        host = f"[{client.hostname}]" if ":" in (client.hostname or "") else client.hostname
        url = f"{self.scheme}://{host}:{client.port or self.default_port}" + (f"/{path}" if path else "")
        return _http_source(url, client.password or "")

    def establish_connection(self) -> Any:
        with self._ends_on_refused_token(), translated():
            welcome = self.source.hello()
        self._wait_secs = welcome.max_wait_ms / 1000
        self.session.lease_is(welcome.lease_ms / 1000)
        return super().establish_connection()

    def close_connection(self, connection: Any) -> None:
        self.hang_up()
        super().close_connection(connection)
        if not self._is_worker and self.session.held:
            self.session.close()

    # --- topology: remembered, because a server that lost it must be told again

    def declare(self, ask: Declare) -> Declared:
        with translated():
            declared = self.source.declare(ask)
        self._declared[ask.queue] = ask
        return declared

    def bind(self, ask: Bind) -> None:
        with translated():
            self.source.bind(ask)
        bound = self._bound.setdefault(ask.queue, [])
        if ask not in bound:
            bound.append(ask)

    def delete(self, queue: str) -> None:
        self._declared.pop(queue, None)
        self._bound.pop(queue, None)
        with translated():
            self.source.delete(OneQueue(queue=queue))

    def _declare_again(self) -> None:
        for queue in list(self._declared):
            self.source.declare(self._declared[queue])
            for ask in self._bound.get(queue, []):
                self.source.bind(ask)

    # --- publishing

    def publish(self, ask: Publish) -> None:
        """Raises as the base class does, except in a worker: its replies and events are not worth a stop or a wait."""
        if ask.exchange == EVENTS and time.monotonic() < self._no_events_before:
            return
        try:
            self.source.publish(ask)
        except DbwardError as e:
            if self._is_worker or ask.exchange == EVENTS:
                self._no_events_before = time.monotonic() + _EVENTS_PAUSE_SECS
                log.debug("a message to %s was dropped: %s", ask.exchange, e.message)
                return
            give_up(e)

    # --- consuming

    def drain_events(self, _: Any, timeout: float | None = None) -> None:
        """Hand one message to its consumer. Raises `TimeoutError` when none came in time; the poll stays in flight."""
        deadline = time.monotonic() + timeout if timeout is not None else None
        with self._ends_on_refused_token():
            while True:
                while self._backlog:
                    if self._hand_over(self._backlog.popleft()):
                        return
                self._backlog.extend(self._fetch(deadline).messages)

    def hang_up(self) -> None:
        """Drop the poll in flight, without a word to the server: it may be stopping as well."""
        if self._poll is not None:
            self._poll.close()
            self._poll = None

    def _fetch(self, deadline: float | None) -> Fetched:
        """The next answer, waiting in slices. Raises `TimeoutError`."""
        while True:
            left = deadline - time.monotonic() if deadline is not None else _SLICE_SECS
            if left <= 0 or self.interrupted():
                raise TimeoutError
            pause = max(0.0, self._not_before - time.monotonic())
            groups = [group for channel in self.channels for group in channel.groups()]
            if pause > 0 or not groups:
                time.sleep(min(left, pause or _SLICE_SECS, _SLICE_SECS))
                continue
            try:
                fetched = self._await(groups, min(left, _SLICE_SECS))
            except (Unavailable, RateLimited) as e:
                self._back_off(e)
            except Missing as e:
                self._restore(e)
            except DbwardError as e:
                self.hang_up()
                give_up(e)
            else:
                if fetched is not None:
                    return fetched

    def _await(self, groups: list[Group], secs: float) -> Fetched | None:
        if self._poll is not None and groups != self._poll_groups:
            self.hang_up()
        if self._poll is None:
            self._poll_began = time.monotonic()
            self._poll_groups = groups
            self._poll = self.session.poll(groups, self._wait_secs)
        fetched = self._poll.result(secs)
        if fetched is None:
            return None
        self._poll = None
        if self._failures:
            log.info("the server answers again")
            self._failures = 0
        if self.stopping() and any(delivery.tag is not None for delivery in fetched.messages):
            self.session.put_back()
            return Fetched()
        self.session.received(fetched)
        if not fetched.messages and not fetched.stale and time.monotonic() - self._poll_began < _EMPTY_TOO_SOON_SECS:
            # The server is about to stop, or another process polls as this session: either way there is no hurry.
            self._not_before = time.monotonic() + random.uniform(0.2, 0.5)  # noqa: S311 - spreads load, guards nothing
        return fetched

    def _back_off(self, e: DbwardError) -> None:
        """An outage: a worker waits it out and keeps its leases; others raise."""
        self.hang_up()
        if not self._is_worker:
            give_up(e)
        if not self._failures:
            log.warning("the server cannot be reached, trying until it can: %s", e.message)
        first, last = _BACK_OFF_SECS
        pause = min(first * 2 ** min(self._failures, 10), last)
        asked = (e.detail or {}).get("retry_after_secs")
        self._failures += 1
        pause = max(pause, float(asked)) if isinstance(asked, int | float) else pause
        self._not_before = time.monotonic() + pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load

    def _restore(self, e: Missing) -> None:
        """The server does not know a queue, for it expired while this process was away: declare everything again."""
        self.hang_up()
        if not self._failures:
            log.info("%s: declaring the queues again", e.message)
        try:
            self._declare_again()
        except DbwardError as again:
            e = again if isinstance(again, Missing) else e
            if isinstance(again, Unauthorized):
                give_up(again)
        if not self._is_worker and self._failures:
            give_up(e)
        self._failures += 1
        self._not_before = time.monotonic() + _BACK_OFF_SECS[0] * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load

    def _hand_over(self, delivery: Delivery) -> bool:
        callback = self._callbacks.get(delivery.queue)
        if callback is None:  # cancelled while the answer was on its way
            if delivery.tag is not None:
                self.session.reject(delivery.tag, requeue=True)
            return False
        message = dict(delivery.message)
        properties = dict(message.get("properties") or {})
        # Celery reads `redelivered` here and nowhere else.
        info = {**(properties.get("delivery_info") or {}), "redelivered": delivery.deliveries > 1}
        properties |= {"delivery_info": info, "delivery_tag": delivery.tag or uuid.uuid4().hex}
        message["properties"] = properties
        callback(message)
        return True

    @contextmanager
    def _ends_on_refused_token(self) -> Iterator[None]:
        try:
            yield
        except TokenRefused as e:
            if not self._is_worker:
                raise
            log.error("the server does not accept this agent's token any more: %s", e)  # noqa: TRY400 - one line
            raise WorkerShutdown(EXIT_TOKEN_REFUSED) from e


class TlsTransport(Transport):
    scheme = "https"
    default_port = 443


class LocalTransport(Transport):
    """Inside the server's process; `transport_options["source"]` is the source itself."""

    scheme = None
    default_port = 0

    def _open_source(self, client: Any) -> Source:
        source: Source = client.transport_options["source"]
        return source


TRANSPORT_ALIASES.update(
    {
        "dbward": f"{__name__}:Transport",
        "dbwards": f"{__name__}:TlsTransport",
        "dbward-local": f"{__name__}:LocalTransport",
    }
)


def broker_url(server_url: str, token: str) -> str:
    """What Celery takes as `broker_url` for a server at `http(s)://…`. kombu masks the token wherever it prints it."""
    scheme, _, rest = server_url.partition("://")
    host, slash, path = rest.partition("/")
    if not host.rpartition("]")[2].count(":"):
        host += ":443" if scheme == "https" else ":80"
    return f"{'dbwards' if scheme == 'https' else 'dbward'}://:{quote(token, safe='')}@{host}/{path if slash else ''}"


def close_worker_sessions() -> None:
    """Give back what this process holds, when its worker has stopped."""
    with _guard:
        sessions = list(_sessions.values())
        _sessions.clear()
    for session in sessions:
        session.close()


_guard = threading.Lock()
_sessions: dict[str, Session] = {}
_sources: dict[tuple[str, str], HttpSource] = {}


def _worker_session(name: str, source: Source) -> Session:
    with _guard:
        if name not in _sessions:
            _sessions[name] = Session(source, name)
        return _sessions[name]


def _http_source(url: str, token: str) -> HttpSource:
    """Shared by the connections of this process, which share its sockets."""
    with _guard:
        return _sources.setdefault((url, token), HttpSource(url, token))
