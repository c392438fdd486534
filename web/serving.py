"""How a process of the server treats its connections: it refuses in our words, closes gracefully and drains."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import struct
from time import monotonic
from typing import Any

from gunicorn import util
from gunicorn.http import errors as http

from dbward import VERSION
from dbward.errors import DbwardError
from web.app import VERSION_HEADER
from web.errors import HTTP_CODES
from web.front import LINGER_SECS, HeadFirst

log = logging.getLogger("dbward.server")

CLOSE_SECS = 1.0
"""How long a closed connection waits for its peer to have read everything."""
CLOSE_MAX_BYTES = 64 * 1024 * 1024
"""How much of what such a peer still sends is read meanwhile: left unread, it may cost the peer our answer."""
STALL_SECS = 60
"""How long a peer may neither send nor take a byte of what is being transferred, before its thread is given up."""

_STALL = struct.pack("ll", STALL_SECS, 0)  # a struct timeval

_PARSE_ERRORS: tuple[tuple[type[Exception], int], ...] = (
    (http.LimitRequestLine, 414),
    (http.LimitRequestHeaders, 431),
    (http.ExpectationFailed, 417),
    (http.UnsupportedTransferCoding, 501),
    (http.ParseException, 400),
)


class Serving(HeadFirst):
    """A worker of gunicorn's that serves plain HTTP/1."""

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - gunicorn's signature
        """On the way out, answer whoever is already connected, then refuse instead of letting clients wait."""
        stopping = not enabled and not self.alive
        if stopping:
            for listener in self.sockets:
                ready = select.poll()
                ready.register(listener.fileno(), select.POLLIN)
                for _ in range(self.cfg.backlog):  # clients that never stop to connect must not keep us here
                    if not ready.poll(0):
                        break
                    self.accept(listener)
        super().set_accept_enabled(enabled)
        if stopping:
            for listener in self.sockets:
                listener.close()

    def handle(self, conn: Any) -> Any:
        """Serve one request, and close the connection here when it ends: gunicorn would do so in its accept loop.

        A graceful close waits for the peer; in the loop, everybody else would wait with it.
        """
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            with contextlib.suppress(OSError):
                conn.sock.setsockopt(socket.SOL_SOCKET, option, _STALL)
        keep = super().handle(conn)
        if keep is False:
            with contextlib.suppress(OSError):
                secs = CLOSE_SECS if self.alive else LINGER_SECS
                util.close_graceful(conn.sock, timeout=secs, max_drain=CLOSE_MAX_BYTES)
            conn.close = _closed_already
        return keep

    def finish_request(self, conn: Any, fs: Any) -> None:
        super().finish_request(conn, fs)
        if not self.alive:
            self._cap_keepalive(monotonic() + LINGER_SECS)

    def _cap_keepalive(self, deadline: float) -> None:
        super()._cap_keepalive(min(deadline, monotonic() + LINGER_SECS))

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:  # noqa: ARG002
        """What is not HTTP is refused in the shape of every other error."""
        status = next((status for kind, status in _PARSE_ERRORS if isinstance(exc, kind)), 500)
        if status == 500:
            log.error("connection failed", exc_info=exc)
        with contextlib.suppress(OSError):
            client.sendall(_raw_error(status))


def _closed_already(graceful: bool = False) -> None:  # noqa: FBT001, FBT002, ARG001 - gunicorn's signature
    return


def _raw_error(status: int) -> bytes:
    text = "the request is not valid HTTP" if status < 500 else "the server failed to answer; its log says why"
    code = HTTP_CODES.get(status, f"http.{status}") if status != 500 else DbwardError.code
    body = f'{{"error":"{text}","code":"{code}","hint":null}}\n'.encode()
    head = (
        f"HTTP/1.1 {status} {'Bad Request' if status < 500 else 'Error'}\r\nConnection: close\r\n"
        f"{VERSION_HEADER}: {VERSION}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
