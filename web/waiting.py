"""What answers until the server can serve: while another one still owns the state, and while the state is prepared.

An orchestrator must not take a server for dead that waits for its predecessor to let go, nor let the world in before it
owns anything. It is a process of its own, because the master must not have threads before it forks (see `web.apart`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Final, Literal

from flask import Flask, Response, request
from gunicorn import sock
from gunicorn.app.base import BaseApplication

from dbward import VERSION
from web import errors, json
from web.api.health import MIN_AGENT_VERSION
from web.app import VERSION_HEADER
from web.serving import Serving

Phase = Literal["starting", "waiting"]

REASONS: Final[dict[Phase, str]] = {
    "starting": "the state is being prepared",
    "waiting": "another server owns the state; this one takes over when it lets go",
}
PHASE_CODES = {"starting": "server.starting", "waiting": "server.waiting"}


@contextmanager
def answering(server: BaseApplication) -> Iterator[Callable[[Phase], None]]:
    """Answer on the server's address until the block ends; what is yielded says what is being waited for.

    The address listens from then on, so whoever connects after the block waits for the server itself.
    """
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_serve, args=(server, receiver, sender), name="dbward-waiting")
    process.start()
    receiver.close()

    def say(phase: Phase) -> None:
        with suppress(BrokenPipeError):  # without it nobody is answered, and the server starts all the same
            sender.send(phase)

    try:
        yield say
    finally:
        sender.close()
        process.join()


def _serve(server: BaseApplication, receiver: Connection[Any], sender: Connection[Any]) -> None:
    sender.close()
    log = server.cfg.logger_class(server.cfg)
    worker = Waiting(1, os.getppid(), sock.create_sockets(server.cfg, log), server, 0, server.cfg, log)
    worker.follow(receiver)
    worker.init_process()


class Waiting(Serving):
    """Serves nothing but the answer to whether the server lives and is ready."""

    phase: Phase = "starting"

    def follow(self, receiver: Connection[Any]) -> None:
        """Take over what the master says; stop when it has no more to say, or is gone."""
        self._receiver = receiver

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells the master, too

    def load_wsgi(self) -> None:
        app = waiting_app(lambda: self.phase)

        def wsgi(environ: dict[str, Any], start_response: Any) -> Any:
            start_response.__self__.force_close()  # the next call is for the server itself
            return app(environ, start_response)

        self.wsgi = wsgi
        threading.Thread(target=self._listen, name="dbward-master", daemon=True).start()

    def _worth_waiting(self, conn: Any) -> bool:  # noqa: ARG002
        return False  # the answer would be "try again", and meanwhile the server itself does not start

    def _listen(self) -> None:
        with suppress(EOFError):
            while True:
                self.phase = self._receiver.recv()
        self.handle_exit(signal.SIGTERM, None)


def waiting_app(phase: Callable[[], Phase]) -> Flask:
    """`/health` as ever, `/ready` with the reason why not, and 503 for all the rest."""
    app = Flask("dbward-waiting", static_folder=None)
    app.json = json.ApiJson(app)

    @app.before_request
    def answer() -> Response:
        now = phase()
        response: Response
        if request.method in {"GET", "HEAD"} and request.path == "/health":
            response = json.reply({"status": "ok", "version": VERSION, "min_agent_version": MIN_AGENT_VERSION})
        elif request.method in {"GET", "HEAD"} and request.path == "/ready":
            response = json.reply({"status": now, "reason": REASONS[now]}, 503)
            response.headers["Retry-After"] = str(errors.RETRY_AFTER_SECS)
        else:
            message = f"the server is not ready: {REASONS[now]}"
            response = errors.envelope(503, message, PHASE_CODES[now], "try again shortly")
        response.headers[VERSION_HEADER] = VERSION
        return response

    return app
