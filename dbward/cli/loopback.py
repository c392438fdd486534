"""Waiting on 127.0.0.1 for the browser to come back from the identity provider."""

from __future__ import annotations

import hmac
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import parse_qs, urlsplit

from dbward.identity import grants
from dbward.identity.grants import LoginFailed

PATH: Final = "/callback"
WAIT_SECS: Final = 300.0
_CONNECTION_SECS = 10.0
_DONE = "You are signed in. You may close this window and go back to the terminal."
_NOT_DONE = "Signing in has failed; the terminal says why. You may close this window."
_STRANGE = "This is not the answer that was waited for."


@dataclass(slots=True)
class Waiting:
    """A listener whose address is `redirect_uri`."""

    redirect_uri: str
    answers: queue.SimpleQueue[str | LoginFailed]

    def code(self) -> str:
        """The code that the browser brought. Raises `LoginFailed`, also when nobody came in time."""
        try:
            found = self.answers.get(timeout=WAIT_SECS)
        except queue.Empty:
            raise LoginFailed(f"nobody signed in within {WAIT_SECS:.0f} s", hint="run `dbward login` again") from None
        if isinstance(found, LoginFailed):
            raise found
        return found


@contextmanager
def listen(state: str, *, issuer: str, names_issuer: bool, port: int = 0) -> Iterator[Waiting]:
    """Listen on 127.0.0.1 for the answer that carries `state`; anything else is turned away and waited past.

    `names_issuer`: the provider promises to say who it is, so an answer that does not is not its own.
    """
    answers: queue.SimpleQueue[str | LoginFailed] = queue.SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        timeout = _CONNECTION_SECS  # browsers open connections that they never use

        def do_GET(self) -> None:
            found = self._answer()
            if found is None:
                self._page(400, _STRANGE)
                return
            self._page(200 if isinstance(found, str) else 403, _DONE if isinstance(found, str) else _NOT_DONE)
            answers.put(found)

        def _answer(self) -> str | LoginFailed | None:
            parts = urlsplit(self.path)
            given = parse_qs(parts.query, keep_blank_values=True, max_num_fields=50)
            one = {name: values[0] for name, values in given.items() if len(values) == 1}
            fits = (
                parts.path == PATH
                and self.headers.get("Host") == f"127.0.0.1:{server.server_port}"
                and hmac.compare_digest(one.get("state", "").encode(), state.encode())
                and one.get("iss", None if names_issuer else issuer) == issuer
            )
            if not fits:
                return None
            if "error" in one:
                return grants.refusal(one["error"], one.get("error_description"))
            return one.get("code") or None

        def _page(self, status: int, text: str) -> None:
            body = f"<!doctype html><meta charset=utf-8><title>dbward</title><p>{text}\n".encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", "default-src 'none'")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Nothing: the address holds the code."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            """Nothing: a browser may hang up whenever it likes."""

    server = Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Waiting(f"http://127.0.0.1:{server.server_port}{PATH}", answers)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
