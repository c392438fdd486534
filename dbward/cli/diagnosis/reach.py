"""Whether a server is there: by HTTP as every client reaches it, with its certificate, its version and its clock."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import httpx2

from dbward import VERSION, trust
from dbward.cli.diagnosis.model import Check, failed, passed, refused, skipped, warned
from dbward.cli.selfupdate import upgrade_command
from dbward.client.http import VERSION_HEADER, unreachable
from dbward.domain.model import MAX_SKEW
from dbward.errors import DbwardError

CERTIFICATE_WARN: Final = timedelta(days=14)
_ROUNDED: Final = timedelta(seconds=1)
"""The header `Date` has whole seconds."""

_READY: Final = {
    "starting": "the server is starting",
    "waiting": "the server waits for another one to let go of the state",
    "draining": "the server is stopping",
}


@dataclass(frozen=True, slots=True)
class Health:
    """What `GET /health` said. `ahead` is how far the server's clock is before ours, None when it did not say."""

    version: str
    min_agent_version: str
    ahead: timedelta | None


@dataclass(slots=True)
class Reached:
    """Filled by `reach` while its checks are taken; `health` stays None when the server is not there."""

    health: Health | None = None


def reach(
    url: str,
    seconds: float,
    found: Reached,
    *,
    skewed: Literal["warn", "fail"],
    transport: httpx2.BaseTransport | None = None,
) -> Iterator[Check]:
    """Call the server without a token. `skewed`: what a clock comes to that is further off than agents tolerate."""
    names = ("server_ready", "tls", "version_info", "clock")
    with ExitStack() as stack:
        try:
            http = stack.enter_context(_client(url, seconds, transport))
            found.health = health = _health(http)
        except DbwardError as e:
            yield refused("server_reachable", e, hint="is it running, and is server.url right?")
            yield from (skipped(name, "the server is not reachable") for name in names)
            return
        yield passed("server_reachable", f"{url} answers, version {health.version}")
        yield _ready(http)
    yield _tls(url, seconds) if transport is None else skipped("tls", "no network is used")
    yield _version(health.version)
    yield _clock(health.ahead, skewed)


def _client(url: str, seconds: float, transport: httpx2.BaseTransport | None) -> httpx2.Client:
    """Raises `Misconfigured` where https has nobody to trust."""
    return httpx2.Client(
        base_url=url,
        timeout=seconds,
        verify=trust.context_for(url) if transport is None else True,
        transport=transport,
        headers={"User-Agent": f"dbward/{VERSION}"},
    )


def _health(http: httpx2.Client) -> Health:
    sent = datetime.now(UTC)
    answer = _get(http, "/health")
    received = datetime.now(UTC)
    body = _object(answer)
    version = body.get("version", answer.headers.get(VERSION_HEADER))
    if answer.status_code != 200 or not isinstance(version, str):
        raise DbwardError(
            f"{http.base_url} answers HTTP {answer.status_code}, and not as a dbward server does",
            hint="is server.url the address of a dbward server, and does a proxy answer in its place?",
        )
    return Health(version, str(body.get("min_agent_version", "0")), _ahead(answer, sent, received))


def _ahead(answer: httpx2.Response, sent: datetime, received: datetime) -> timedelta | None:
    try:
        said = parsedate_to_datetime(answer.headers.get("Date", ""))
    except ValueError:
        return None
    if said.tzinfo is None:
        return None
    return said + _ROUNDED / 2 - (sent + (received - sent) / 2)


def _ready(http: httpx2.Client) -> Check:
    try:
        answer = _get(http, "/ready")
    except DbwardError as e:
        return refused("server_ready", e)
    if answer.status_code == 200:
        return passed("server_ready", "its state and its result store answer")
    body = _object(answer)
    checks = body.get("checks")
    down = [name for name, said in checks.items() if said != "ok"] if isinstance(checks, dict) else []
    if down:
        return failed(
            "server_ready",
            f"the server runs, but it cannot serve: {', '.join(down)} does not answer",
            "run `dbward doctor --server` where the server runs: it says why",
        )
    status = str(body.get("status"))
    said = _READY.get(status, f"the server is not ready (HTTP {answer.status_code})")
    return failed("server_ready", said, "try again in a moment")


def _tls(url: str, seconds: float) -> Check:
    """How long the certificate is still valid. That it is trusted was seen before."""
    parts = urlsplit(url)
    if parts.scheme != "https":
        return skipped("tls", "the address is http")
    host = parts.hostname or ""
    try:
        with (
            socket.create_connection((host, parts.port or 443), timeout=seconds) as plain,
            trust.context().wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            certificate = wrapped.getpeercert() or {}
            version = wrapped.version()
    except OSError as e:  # also what is wrong with a certificate
        return skipped("tls", f"the certificate cannot be looked at from here ({type(e).__name__}); is there a proxy?")
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    left = ends - datetime.now(UTC)
    if left < CERTIFICATE_WARN:
        return warned(
            "tls",
            f"the server's certificate ends on {ends:%Y-%m-%d %H:%M} UTC, in {left.days} days",
            "renew it; from then on nobody gets through to the server",
        )
    return passed("tls", f"{version}, and the certificate is valid until {ends:%Y-%m-%d}")


def _version(server: str) -> Check:
    ours, theirs = numbers(VERSION), numbers(server)
    if server == VERSION:
        return passed("version_info", f"both are {VERSION}")
    said = f"the server is version {server}, this program is {VERSION}"
    if theirs > ours:
        return warned("version_info", said, f"bring this program to the server's version: {upgrade_command(server)}")
    return warned("version_info", said, "upgrade the server, or use the program of its version")


def _clock(ahead: timedelta | None, skewed: Literal["warn", "fail"]) -> Check:
    if ahead is None:
        return skipped("clock", "the server does not say what time it is")
    off = abs(ahead).total_seconds()
    if abs(ahead) <= MAX_SKEW + _ROUNDED:
        return passed("clock", f"the clocks differ by less than {off + 1:.0f} s")
    side = "behind" if ahead > timedelta(0) else "ahead of"
    return Check(
        "clock",
        skewed,
        f"this machine's clock is {off:.0f} s {side} the server's; agents tolerate {MAX_SKEW.total_seconds():.0f}",
        "set the clocks of both machines (NTP): tokens and logins have a time from and until which they are valid",
    )


def _get(http: httpx2.Client, path: str) -> httpx2.Response:
    try:
        return http.get(path)
    except httpx2.TransportError as e:
        raise unreachable(e) from e


def _object(answer: httpx2.Response) -> dict[str, Any]:
    try:
        body = json.loads(answer.content)
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {}


def numbers(version: str) -> tuple[int, ...]:
    """A version for comparison."""
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
