"""S3 servers for the tests, started once per session like the databases, and a proxy that enforces a bucket policy.

Two servers that share no code: moto's, and s3rver, which wants to know the access key. Every test gets its own bucket.
"""

from __future__ import annotations

import http.client
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
from botocore.config import Config

from dbward.settings.secret import Secret
from dbward.settings.server import S3Settings
from tests.support.npm import NODE, install
from tests.support.services import own_server, serve, shared

S3RVER = Path(__file__).with_name("s3rver")
ACCESS_KEY = "S3RVER"
SECRET_KEY = "S3RVER"
"""The one pair that s3rver knows; moto takes any."""


def moto_url() -> str:
    """URL of moto's server. Starts it at the first call of the session."""
    return shared("moto", _start_moto)


@contextmanager
def own_moto() -> Iterator[str]:
    """URL of one that nobody else uses, for tests that look at all of it."""
    with own_server("moto", _start_moto) as url:
        yield url


def s3rver_url() -> str:
    return shared("s3rver", _start_s3rver)


def _start_moto(home: Path) -> str:
    def argv(port: int) -> list[str | Path]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]

    return serve("moto", argv, _url, _ping, home, None)


def _start_s3rver(home: Path) -> str:
    program = install(S3RVER) / "s3rver/bin/s3rver.js"
    data = home / "data"
    data.mkdir()

    def argv(port: int) -> list[str | Path]:
        # It makes its continuation tokens with DES, which OpenSSL 3 offers on request only.
        return [NODE, "--openssl-legacy-provider", program, "-d", data, "-a", "127.0.0.1", "-p", str(port), "--silent"]

    return serve("s3rver", argv, _url, _ping, home, None)


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _ping(url: str) -> None:
    parts = urlsplit(url)
    socket.create_connection((parts.hostname, parts.port), timeout=5).close()


def client(url: str) -> Any:
    """A client of the test's own, without any limits on what it may do."""
    return boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1").client(
        "s3",
        endpoint_url=url,
        config=Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@dataclass(slots=True)
class Bucket:
    """A fresh bucket, and how to reach it with and without what is between."""

    name: str
    url: str
    raw: Any

    def settings(self, url: str | None = None) -> S3Settings:
        return S3Settings(
            bucket=self.name,
            endpoint=url or self.url,
            access_key_id=ACCESS_KEY,
            secret_access_key=Secret(SECRET_KEY),
            path_style=True,
        )

    def names(self) -> list[str]:
        pages = self.raw.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]

    def multiparts(self) -> list[str]:
        return [found["Key"] for found in self.raw.list_multipart_uploads(Bucket=self.name).get("Uploads", [])]


@contextmanager
def fresh_bucket(url: str) -> Iterator[Bucket]:
    raw = client(url)
    name = f"t-{token_hex(6)}"
    raw.create_bucket(Bucket=name)
    yield Bucket(name, url, raw)
    raw.close()


# --- the policy -------------------------------------------------------------------------------------------------------

MINIMAL = frozenset({"PutObject", "GetObject", "DeleteObject", "PutObjectTagging", "ListBucket"})
"""What the role of a server on ECS may do: the first four below `results/`, the last with that prefix."""


@dataclass(slots=True)
class Gate:
    """A proxy that lets pass what a policy allows and answers 403 to the rest, as AWS does.

    `fail` maps an action to statuses that its next calls are answered with instead; 0 cuts the connection.
    """

    target: str
    allowed: frozenset[str] = MINIMAL
    fail: dict[str, list[int]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    denied: Counter[str] = field(default_factory=Counter)
    truncate: list[int] = field(default_factory=list)
    """After how many bytes the bodies of the next objects read are cut off."""
    after: dict[str, tuple[int, Callable[[], None]]] = field(default_factory=dict)
    """What to run once, just before the call of an action with that number (from one) is passed on."""
    url: str = ""


@contextmanager
def gate(target: str, allowed: frozenset[str] = MINIMAL) -> Iterator[Gate]:
    made = Gate(target, allowed)

    class Handler(_Handler):
        gate = made

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    made.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def action_of(method: str, path: str, query: dict[str, list[str]]) -> tuple[str, str]:
    """The IAM action of a call on `/bucket/key`, and the key or prefix it is about."""
    _, _, key = path.lstrip("/").partition("/")
    if not key:
        if "uploads" in query:
            return "ListBucketMultipartUploads", query.get("prefix", [""])[0]
        return {"GET": "ListBucket", "HEAD": "ListBucket"}.get(method, "other"), query.get("prefix", [""])[0]
    if "tagging" in query:
        return ("PutObjectTagging" if method == "PUT" else "GetObjectTagging"), key
    if method == "DELETE":
        return ("AbortMultipartUpload" if "uploadId" in query else "DeleteObject"), key
    if method == "GET" and "uploadId" in query:
        return "ListMultipartUploadParts", key
    return ("GetObject" if method in {"GET", "HEAD"} else "PutObject"), key


class _Handler(BaseHTTPRequestHandler):
    gate: Gate
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        gate = self.gate
        parts = urlsplit(self.path)
        action, about = action_of(self.command, unquote(parts.path), parse_qs(parts.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        gate.seen[action] += 1
        if statuses := gate.fail.get(action):
            status = statuses.pop(0)
            if status == 0:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return None
            return self._refuse(status, "InternalError" if status >= 500 else "AccessDenied")
        if action not in gate.allowed or not about.startswith("results/"):
            gate.denied[action] += 1
            return self._refuse(403, "AccessDenied")
        number, act = gate.after.get(action, (0, None))
        if act is not None and gate.seen[action] >= number:
            del gate.after[action]
            act()
        status, headers, content = self._pass_on(body)
        if action == "GetObject" and status == 404:
            return self._refuse(403, "AccessDenied")  # without ListBucket on all of it, nobody is told what is absent
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in {"transfer-encoding", "connection", "content-length", "date", "server"}:
                self.send_header(name, value)
        length = len(content)
        if self.command == "HEAD":
            length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if action == "GetObject" and self.command == "GET" and gate.truncate:
            self.wfile.write(content[: gate.truncate.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return None
        if self.command != "HEAD":
            self.wfile.write(content)
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - the names it calls

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        parts = urlsplit(self.gate.target)
        assert parts.hostname is not None
        upstream = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        try:
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def _refuse(self, status: int, code: str) -> None:
        content = b"" if self.command == "HEAD" else f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """The counters say what was called."""
