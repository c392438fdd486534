"""Reading a database URL without ever repeating its password."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from dbward.errors import Misconfigured
from worker.drivers.base import CONNECT_TIMEOUT


@dataclass(frozen=True, slots=True)
class Url:
    """The parts of a URL, percent-decoded. `host` has no brackets; `path` is what follows the host, with its slash."""

    host: str | None
    port: int | None
    user: str | None
    password: str | None = field(repr=False)
    path: str
    options: dict[str, str]


def parse_url(url: str, *, known: frozenset[str]) -> Url:
    """Raises Misconfigured for a malformed URL, or one with an option outside `known`."""
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise malformed() from None
    if parts.fragment:  # an unescaped # in a password would silently cut the URL there
        raise malformed()
    options = {name.lower().replace("-", "_"): value for name, value in pairs}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise Misconfigured(
            f"the database URL has an option this driver does not know: {', '.join(unknown)}",
            hint=f"known options: {', '.join(sorted(known))}",
        )
    return Url(
        host=None if host is None else unquote(host),
        port=port,
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        path=unquote(parts.path),
        options=options,
    )


def malformed() -> Misconfigured:
    return Misconfigured(
        "the database URL cannot be read", hint="percent-encode @ : / ? # and % in the user name and the password"
    )


def no_database() -> Misconfigured:
    return Misconfigured(
        "the database URL names no database", hint="add it after the host: scheme://user:password@host:port/database"
    )


def connect_timeout(options: dict[str, str]) -> float:
    text = options.get("connect_timeout", "")
    if not text:
        return CONNECT_TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 600:
        raise Misconfigured(f"connect_timeout in the database URL must be 1 to 600 seconds, not {text!r}")
    return seconds


def scrubbed(message: str, password: str | None) -> str:
    """`message`, from a library, without the password. One shorter than 3 would hide ordinary words."""
    return message.replace(password, "***") if password and len(password) > 2 else message
