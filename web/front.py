"""The front of the worker: no connection gets a thread before the head of its request has arrived in full.

gunicorn reads heads on its threads, so that a few hundred clients that send theirs byte by byte, or nothing at all,
would take them all. Here such a connection waits on the poller, for a short time, and the one that has waited longest
makes room when there are too many. Plain HTTP/1 only: what is read here would be ciphertext under TLS.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import selectors
import socket
from functools import partial
from operator import itemgetter
from time import monotonic, sleep
from typing import Any, Literal

from gunicorn import util
from gunicorn.http import errors as http
from gunicorn.http import get_parser
from gunicorn.workers.gthread import TConn, ThreadWorker

HEAD_SECS = 10.0
"""How long a client may take from connecting, or from the first byte of its next request, to the end of the head."""
HEAD_MAX_BYTES = 32 * 1024
LINE_MAX_BYTES = 8 * 1024
WAITING_MAX = 256
"""How many connections may wait for the end of a head at once."""
DRAIN_SECS = 0.5
"""How long a body that nobody wanted is read, for the sake of the connection."""
LINGER_SECS = 0.5
"""How long a stopping server still answers on connections that were idle when it was told to stop."""
OTHER_FILES = 192
"""Descriptors kept for everything that is no client: databases, results, pipes."""

Head = Literal["unfinished", "ready", "gone"]
"""`ready`: a thread can go on without waiting. `gone`: the peer has closed its side before the end of the head."""

_NONE_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_AGAIN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED, errno.EINTR)
_PAUSE = 0.05


def allow_files(wanted: int) -> int:
    """Raise this process's limit of open files towards `wanted`, as far as it may; the limit then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    if soft < wanted:
        target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


class Connection(TConn):  # type: ignore[misc]  # gunicorn carries no types
    """`refusal` is what is wrong with a head that has not ended."""

    refusal: Exception | None = None


class HeadFirst(ThreadWorker):  # type: ignore[misc]  # gunicorn carries no types
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        files = allow_files(self.cfg.worker_connections + OTHER_FILES)
        self.worker_connections = max(1, min(self.cfg.worker_connections, files - OTHER_FILES))
        self.max_keepalived = max(1, self.worker_connections - self.cfg.threads - WAITING_MAX)

    def accept(self, listener: socket.socket) -> None:
        try:
            client, address = listener.accept()
        except OSError as e:
            if e.errno in _NONE_LEFT:
                if not self._make_room() and self.alive:
                    sleep(_PAUSE)  # until a call ends; the poller would only say the same again
                return
            if e.errno in _AGAIN:
                return
            raise
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections:
            self._make_room()  # at that number gunicorn stops to accept, until somebody leaves by themselves
        self._await_head(Connection(self.cfg, client, address, listener.getsockname()))

    def on_client_socket_readable(self, conn: Any, client: socket.socket) -> None:
        if _dropped(client):
            return
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._await_head(conn)

    def on_pending_socket_readable(self, conn: Any, client: socket.socket) -> None:
        if _dropped(client):
            return
        head = read_head(conn)
        if head != "unfinished":
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            self._go_on(conn, head)

    def finish_request(self, conn: Any, fs: Any) -> None:
        kept = not fs.cancelled() and fs.exception() is None and fs.result() is True
        if kept and _read_ahead(conn):
            # What was read ahead may be less than a whole head.
            conn.sock.settimeout(0)
            self._await_head(conn)
        else:
            super().finish_request(conn, fs)

    def handle(self, conn: Any) -> Any:
        if conn.refusal is None:
            return super().handle(conn)
        conn.sock.settimeout(None)
        self.handle_error(None, conn.sock, conn.client, conn.refusal)
        return False

    def murder_pending(self) -> None:
        """While stopping, who has not sent a byte is hardly waited for."""
        super().murder_pending()
        if not self.alive:
            since = monotonic() + HEAD_SECS - LINGER_SECS
            for conn in [conn for conn in self.pending_conns if conn.timeout < since and not self._worth_waiting(conn)]:
                self._drop(conn)

    def _worth_waiting(self, conn: Any) -> bool:
        """Whether a stopping server waits for the rest of a head; its first bytes are there, or not even they."""
        return bool(_read_ahead(conn))

    def _keepalive_after(self, conn: Any, keepalive: Any) -> bool:
        return bool(keepalive) and bool(conn.parser.finish_body(deadline=monotonic() + DRAIN_SECS))

    def _await_head(self, conn: Any) -> None:
        """Serve the connection, or leave it on the poller until the head is there."""
        head = read_head(conn)
        if head != "unfinished":
            self._go_on(conn, head)
            return
        conn.timeout = monotonic() + HEAD_SECS
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))
        if len(self.pending_conns) > WAITING_MAX:
            self._drop(self.pending_conns[0])

    def _go_on(self, conn: Any, head: Head) -> None:
        if head == "gone":
            self._drop(conn)
        else:
            conn.data_ready = True
            self.enqueue_req(conn)

    def _make_room(self) -> bool:
        """End the connection that has had nothing to say for longest; False when all of them are being served."""
        allowed = ((self.pending_conns, HEAD_SECS), (self.keepalived_conns, self.cfg.keepalive))
        since = [(waiting[0].timeout - secs, waiting[0]) for waiting, secs in allowed if waiting]
        if since:
            self._drop(min(since, key=itemgetter(0))[1])
        return bool(since)

    def _drop(self, conn: Any) -> None:
        for waiting in (self.pending_conns, self.keepalived_conns):
            with contextlib.suppress(ValueError):
                waiting.remove(conn)
        with contextlib.suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        util.close(conn.sock)


def read_head(conn: Any) -> Head:
    """Take in what has come of the next head, without waiting, and say how far it is.

    A head that can only be refused is `ready` before its end, with the reason in `conn.refusal`. Nothing is read while
    a whole head waits, so that a client that sends request after request cannot fill the memory.
    """
    if conn.parser is None:
        conn.parser = get_parser(conn.cfg, conn.sock, conn.client)
    unreader = conn.parser.unreader
    seen: bytes = unreader.take_buffered()
    ended = False
    if not _is_whole(seen):
        try:
            fresh = conn.sock.recv(HEAD_MAX_BYTES)
        except BlockingIOError:
            pass
        except OSError:
            ended = True
        else:
            ended = not fresh
            seen += fresh
    unreader.unread(seen)
    if _is_whole(seen):
        return "ready"
    if ended:
        return "gone"
    conn.refusal = _refusal(seen)
    return "ready" if conn.refusal else "unfinished"


def _is_whole(seen: bytes) -> bool:
    return b"\r\n\r\n" in seen.lstrip(b"\r\n")


def _refusal(seen: bytes) -> Exception | None:
    """What is wrong with the beginning of a head, or None when it may become a good one."""
    head = seen.lstrip(b"\r\n")
    line, end, _ = head.partition(b"\r\n")
    found: Exception | None = None
    if head and not head[:1].isalpha():
        found = http.InvalidRequestLine("not HTTP")  # TLS, most often
    elif len(line) > LINE_MAX_BYTES:
        found = http.LimitRequestLine(len(line), LINE_MAX_BYTES)
    elif end and b" HTTP/1." not in line:
        found = http.InvalidRequestLine("not HTTP")
    elif head.count(b"\n") != head.count(b"\r\n"):
        found = http.InvalidHeader("a line that ends with LF alone")
    elif len(seen) >= HEAD_MAX_BYTES:
        found = http.LimitRequestHeaders("the head is too long")
    return found


def _read_ahead(conn: Any) -> bytes:
    """What has come behind the last request and is nobody's yet."""
    return bytes(conn.parser.unreader.buf.getvalue())


def _dropped(client: socket.socket) -> bool:
    """Whether an earlier event of the same round has closed this connection to make room."""
    return client.fileno() < 0
