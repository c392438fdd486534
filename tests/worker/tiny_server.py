"""The agent's endpoints over real HTTP with nothing behind them: hands out signed jobs and keeps what it is told.

For what the real server cannot be made to do on cue: answers that get lost, outages at one step, foreign signatures.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dbward.domain import tokens
from dbward.domain.model import Operation

NODE = "agent-1@test"
TOKEN = "dbw_" + "0" * 32
LOSE_ANSWER = -1
"""In `fail`: do what was asked, then cut the connection instead of answering."""


class TinyServer:
    """`fail["start"] = [503, LOSE_ANSWER]` breaks the next two starts; `calls` counts what arrived, by verb."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.published_key = self.key
        self.jobs: dict[str, dict[str, Any]] = {}
        self.stream: dict[str, bytearray] = defaultdict(bytearray)
        self.started: dict[str, str] = {}
        self.released: dict[str, dict[str, Any]] = {}
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.reports: list[dict[str, Any]] = []
        self.calls: dict[str, int] = defaultdict(int)
        self.fail: dict[str, list[int]] = defaultdict(list)
        self.queues = ["job.app.test"]
        self.clock_ahead = timedelta(0)
        self.lease_secs = 60
        self.longest_wait = 0
        self.max_result = 64 * 1024 * 1024
        self.cancelled = threading.Event()
        self.lost = threading.Event()
        self.changed = threading.Condition()
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.httpd.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.httpd.server_address[1]}"

    def add_job(
        self,
        execution_id: str,
        *statements: str,
        operation: Operation = Operation.EXECUTE_SELECT,
        timeout_ms: int = 30_000,
        **changes: Any,
    ) -> None:
        """A claimable job; `changes` override fields of the answer after the token was signed."""
        values: dict[str, Any] = {
            "claim_id": f"claim-{execution_id}",
            "request_id": f"request-{execution_id}",
            "execution_id": execution_id,
            "operation": operation,
            "database": "app",
            "environment": "test",
        }
        limits = {"statement_timeout_ms": timeout_ms, "max_rows": 1_000_000, "max_bytes": 50_000_000}
        now = datetime.now(UTC)
        token = tokens.ExecutionToken(
            **values,
            **limits,
            agent=NODE,
            statements_sha256=tokens.statements_sha256(statements),
            issued_at=now,
            expires_at=now + tokens.LIFETIME,
        )
        self.jobs[execution_id] = {
            **values,
            "token": tokens.issue(self.key, token),
            "statements": list(statements),
            "limits": limits,
            "lease_secs": self.lease_secs,
            "server_time": now.isoformat(),
            **changes,
        }

    def until(self, check: Any, secs: float = 30) -> None:
        with self.changed:
            assert self.changed.wait_for(check, secs), "the agent did not do it in time"

    def answer(self, verb: str, execution_id: str, query: dict[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
        data = json.loads(body) if body and verb != "parts" else {}
        job = self.jobs.get(execution_id, {})
        match verb:
            case "public-key":
                return 200, {"public_key": self.published_key.public_key().public_bytes_raw().hex(), "more": 1}
            case "report":
                self.reports.append(data)
                return 200, {
                    "node": NODE,
                    "queues": self.queues,
                    "server_time": (datetime.now(UTC) + self.clock_ahead).isoformat(),
                    "server_version": "0.1.0",
                    "protocol": 1,
                }
            case "claim":
                return (200, job) if job else _error(404, "execution.not_found")
            case "start":
                if self.started.setdefault(execution_id, data["nonce"]) != data["nonce"]:
                    return _error(409, "token.replayed")
                return 200, {}
            case "renew":
                self.longest_wait = max(self.longest_wait, data["wait_secs"])
                self._wait(data["wait_secs"])
                lost = self.lost.is_set()
                return 200, {
                    "cancelled": self.cancelled.is_set() and not lost,
                    "lost": lost,
                    "lease_secs": self.lease_secs,
                }
            case "parts":
                return self._part(execution_id, int(query["offset"]), body)
            case "release":
                self.released[execution_id] = data
                return 200, {}
            case "complete":
                held = self.stream[execution_id]
                if data["result_size"] is not None and data["result_size"] != len(held):
                    return _error(409, "result.incomplete", size=len(held))
                self.outcomes[execution_id] = data
                return 200, {"request_id": job["request_id"], "status": "executed"}
        return _error(404, "route.not_found")

    def _wait(self, secs: float) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.cancelled.is_set() or self.lost.is_set() or self.outcomes, secs)

    def _part(self, execution_id: str, offset: int, body: bytes) -> tuple[int, dict[str, Any]]:
        held = self.stream[execution_id]
        if offset + len(body) > self.max_result:
            return _error(413, "payload.too_large")
        if offset > len(held):
            return _error(409, "result.offset", size=len(held))
        held[offset:] = body
        return 200, {"size": len(held)}

    def say(self, event: threading.Event) -> None:
        """Set `cancelled` or `lost` and wake the renewals that wait."""
        with self.changed:
            event.set()
            self.changed.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._do()

            def do_POST(self) -> None:
                self._do()

            def _do(self) -> None:
                parts = urlsplit(self.path)
                pieces = parts.path.split("/")
                verb, execution_id = pieces[-1], pieces[-2]
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fault = server.fail[verb].pop(0) if server.fail[verb] else 0
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    fault = 401
                if fault > 0:
                    status, reply = _error(fault, f"test.{fault}")
                else:
                    status, reply = server.answer(verb, execution_id, query, body)
                with server.changed:
                    server.calls[verb] += 1
                    server.changed.notify_all()
                if fault == LOSE_ANSWER:
                    self.close_connection = True
                    return
                raw = json.dumps(reply, default=str).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args: Any) -> None:
                pass

        return Handler


def _error(status: int, code: str, **detail: Any) -> tuple[int, dict[str, Any]]:
    return status, {"error": f"test says {status}", "code": code, "hint": None, "detail": detail or None}


@contextmanager
def tiny_server() -> Iterator[TinyServer]:
    server = TinyServer()
    thread = threading.Thread(target=server.httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.httpd.shutdown()
        server.httpd.server_close()
        thread.join(10)
