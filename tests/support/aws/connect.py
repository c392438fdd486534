"""One address for the tasks of a service, as Service Connect and a load balancer give it to callers."""

from __future__ import annotations

import itertools
import select
import socket
import socketserver
import threading
from collections.abc import Sequence
from typing import Final

LOOPBACK: Final = "127.0.0.1"
PIECE: Final = 65536


class Connect:
    """A port that passes each connection on to one of `targets`, in turn; while there is none, it is closed at once.

    Connections that are passed on stay where they are when the targets change.
    """

    def __init__(self) -> None:
        self.targets: Sequence[int] = ()
        """Ports of the tasks that take calls."""
        turns = itertools.count()
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                if targets := outer.targets:
                    _pass_on(self.request, targets[next(turns) % len(targets)])

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

        self._server = Server((LOOPBACK, 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _pass_on(caller: socket.socket, port: int) -> None:
    """Until one side closes, or fails: then both are closed, and what either had to say has been passed on."""
    try:
        with socket.create_connection((LOOPBACK, port)) as task:
            other = {caller: task, task: caller}
            while True:
                ready, _, _ = select.select(list(other), [], [])
                for side in ready:
                    piece = side.recv(PIECE)
                    if not piece:
                        return
                    other[side].sendall(piece)
    except OSError:
        return
