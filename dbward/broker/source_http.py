"""The broker over HTTP: `POST /api/broker/<verb>` with a bearer token.

On `http.client`, because a poll in flight is a socket that is looked at between other things; no library hands that
out. Connections are kept and reused, and dropped after a fork.
"""

from __future__ import annotations

import http.client
import os
import select
import ssl
import threading
import time
import weakref
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from dbward import trust
from dbward.broker.names import EVENTS
from dbward.broker.wire import (
    Bind,
    Declare,
    Declared,
    DepthList,
    Depths,
    Fetch,
    Fetched,
    Hello,
    Nothing,
    OneQueue,
    Publish,
    Published,
    QueueDepth,
    Reject,
    Release,
    Settle,
    Stale,
    Unbind,
    Welcome,
)
from dbward.client.wire import ErrorEnvelope
from dbward.errors import (
    Conflict,
    DbwardError,
    Invalid,
    Missing,
    RateLimited,
    Refused,
    TooLarge,
    Unauthorized,
    Unavailable,
)

M = TypeVar("M", bound=BaseModel)

CONNECT_SECS: Final = 5.0
ANSWER_SECS: Final = 15.0
EVENT_SECS: Final = 2.0
"""Events are sent by a thread that has other things to do."""
_LATE_SECS: Final = 15.0
"""How long after its time a poll's answer is still waited for."""
_MAX_IDLE: Final = 8
_MAX_ANSWER: Final = 32 * 1024 * 1024

_BY_STATUS: dict[int, type[DbwardError]] = {
    401: Unauthorized,
    403: Refused,
    404: Missing,
    409: Conflict,
    413: TooLarge,
    429: RateLimited,
}
_BROKEN = (OSError, http.client.HTTPException)


class HttpSource:
    """One server as one token sees it. May be shared by threads.

    Raises `Misconfigured` where TLS has nobody to trust.
    """

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        self._path = parts.path.rstrip("/") + "/api/broker/"
        self._tls = trust.context() if parts.scheme == "https" else None
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        _forget_after_fork(self)

    def hello(self) -> Welcome:
        return self._call("hello", Hello(), Welcome)

    def declare(self, ask: Declare) -> Declared:
        return self._call("declare", ask, Declared)

    def bind(self, ask: Bind) -> None:
        self._call("bind", ask, Nothing)

    def unbind(self, ask: Unbind) -> None:
        self._call("unbind", ask, Nothing)

    def delete(self, ask: OneQueue) -> None:
        self._call("delete", ask, Nothing)

    def publish(self, ask: Publish) -> int:
        secs = EVENT_SECS if ask.exchange == EVENTS else ANSWER_SECS
        return self._call("publish", ask, Published, secs).queues

    def poll(self, ask: Fetch) -> HttpPoll:
        return HttpPoll(self, ask)

    def ack(self, ask: Settle) -> list[str]:
        return self._call("ack", ask, Stale).stale

    def extend(self, ask: Settle) -> list[str]:
        return self._call("extend", ask, Stale).stale

    def reject(self, ask: Reject) -> list[str]:
        return self._call("reject", ask, Stale).stale

    def release(self, ask: Release) -> None:
        self._call("release", ask, Nothing)

    def depths(self, ask: Depths) -> list[QueueDepth]:
        return self._call("depths", ask, DepthList).queues

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _call(self, verb: str, ask: BaseModel, answer: type[M], secs: float = ANSWER_SECS) -> M:
        """One exchange; once more on a fresh connection when a kept one turns out to be dead."""
        connection, kept = self._take()
        try:
            self._send(connection, verb, ask, secs)
            response = connection.getresponse()
        except _BROKEN as e:
            connection.close()
            if not kept or isinstance(e, TimeoutError):
                raise _unreachable(e) from e
            self.close()  # the others are as old
            return self._call(verb, ask, answer, secs)
        return self._read(connection, response, answer)

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        """A connection, and whether it was used before. Kept ones that the server has closed are passed over."""
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if connection.sock is not None and not _readable(connection, 0):
                    return connection, True
                connection.close()
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_SECS), False
        tls = http.client.HTTPSConnection(self._host, self._port, timeout=CONNECT_SECS, context=self._tls)
        return tls, False

    def _send(self, connection: http.client.HTTPConnection, verb: str, ask: BaseModel, secs: float) -> None:
        if connection.sock is None:
            connection.connect()
        connection.sock.settimeout(secs)
        connection.request("POST", self._path + verb, body=ask.model_dump_json().encode(), headers=self._headers)

    def _read(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, answer: type[M]) -> M:
        try:
            body = response.read(_MAX_ANSWER)
        except _BROKEN as e:
            connection.close()
            raise _unreachable(e) from e
        if response.will_close or not response.isclosed():
            connection.close()
        else:
            with self._lock:
                keep = len(self._idle) < _MAX_IDLE
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()
        if response.status != 200:
            raise _error(response, body)
        try:
            return answer.model_validate_json(body)
        except ValidationError as e:
            raise Unavailable(
                "what answered is not the dbward API", code="server.bad_answer", hint="is a proxy in the way?"
            ) from e

    def _forget(self) -> None:
        """In a forked child: the sockets are the parent's, and its lock may be held for ever."""
        self._lock = threading.Lock()
        self._idle = []


class HttpPoll:
    """A request in flight on a connection of its own."""

    def __init__(self, source: HttpSource, ask: Fetch) -> None:
        self._source = source
        self._connection, kept = source._take()  # noqa: SLF001 - the two are one module
        self._answer: http.client.HTTPResponse | None = None
        self._until = time.monotonic() + ask.wait_ms / 1000 + _LATE_SECS
        try:
            self._begin(ask)
        except _BROKEN as e:
            self.close()
            if not kept:
                raise _unreachable(e) from e
            source.close()
            self._connection, _ = source._take()  # noqa: SLF001 - the two are one module
            try:
                self._begin(ask)
            except _BROKEN as again:
                self.close()
                raise _unreachable(again) from again

    def result(self, timeout: float) -> Fetched | None:
        try:
            if not self._arrived(time.monotonic() + timeout):
                if time.monotonic() < self._until:
                    return None
                raise TimeoutError("no answer")
            response = self._connection.getresponse()
        except _BROKEN as e:
            self.close()
            raise _unreachable(e) from e
        return self._source._read(self._connection, response, Fetched)  # noqa: SLF001 - the two are one module

    def close(self) -> None:
        self._connection.close()

    def _arrived(self, until: float) -> bool:
        """Whether the answer has begun to arrive by then, so that reading it does not block."""
        while _readable(self._connection, max(0.0, until - time.monotonic())):
            sock: Any = self._connection.sock
            if not isinstance(sock, ssl.SSLSocket):
                return True
            # What came may be TLS talking to itself: session tickets follow the handshake when they like.
            if self._answer is None:
                self._answer = http.client.HTTPResponse(sock, method="POST")
                self._connection.response_class = self._begun  # type: ignore[assignment]  # any callable will do
            sock.settimeout(0)
            try:
                self._answer.fp.peek(1)
            except ssl.SSLWantReadError:
                continue
            finally:
                sock.settimeout(ANSWER_SECS)
            return True
        return False

    def _begun(self, *_: Any, **__: Any) -> Any:
        """The answer that was looked at; the connection forgets it and makes its own from now on."""
        del self._connection.response_class
        return self._answer

    def _begin(self, ask: Fetch) -> None:
        self._source._send(self._connection, "fetch", ask, ANSWER_SECS)  # noqa: SLF001 - the two are one module


def _readable(connection: http.client.HTTPConnection, timeout: float) -> bool:
    """Whether something waits to be read: an answer, or on an idle connection its end."""
    sock: Any = connection.sock
    if sock is None:
        raise OSError("the connection is closed")
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return True
    poller = select.poll()
    poller.register(sock.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poller.poll(timeout * 1000))


def _unreachable(e: BaseException) -> DbwardError:
    if isinstance(e, ssl.SSLCertVerificationError):
        why = f"the server's certificate is not accepted: {e.verify_message}"
    elif isinstance(e, TimeoutError):
        why = "the server does not answer in time"
    else:
        why = "the server cannot be reached"
    return Unavailable(why, code="server.unreachable")


def _error(response: http.client.HTTPResponse, body: bytes) -> DbwardError:
    status = response.status
    try:
        said = ErrorEnvelope.model_validate_json(body)
    except ValidationError:
        said = ErrorEnvelope(error=f"HTTP {status}", code=f"http.{status}")
    detail = dict(said.detail or {})
    # A proxy without its server answers 404 or 502 in its own words: that is an outage, not an answer.
    ours = not said.code.startswith("http.")
    kind = Unavailable if status >= 500 or not ours else _BY_STATUS.get(status, Invalid)
    pause = response.headers.get("Retry-After", "")
    if pause.isdecimal():
        detail["retry_after_secs"] = min(int(pause), 30)
    if said.code == Refused.code and said.hint:  # the bare word is for programs, the hint says why
        return kind(said.hint, code=said.code, detail=detail or None)
    return kind(said.error, code=said.code, hint=said.hint, detail=detail or None)


_open: weakref.WeakSet[HttpSource] = weakref.WeakSet()


def _forget_after_fork(source: HttpSource) -> None:
    _open.add(source)


def _forget_all() -> None:
    for source in list(_open):
        source._forget()  # noqa: SLF001 - the two are one module


os.register_at_fork(after_in_child=_forget_all)
