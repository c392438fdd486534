"""Connecting to MySQL and MariaDB: the URL, TLS, time limits, and whose fault it is when it fails."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pymysql
from pymysql.constants import CLIENT, ER

from dbward.errors import Misconfigured
from worker.drivers.errors import CredentialsRefused, Unreachable
from worker.drivers.urls import Url, connect_timeout, no_database, parse_url, scrubbed

_OPTIONS = frozenset(
    {"connect_timeout", "unix_socket", "socket", "ssl_mode", "sslmode", "ssl_ca", "ssl_cert", "ssl_key", "charset"}
)

_REFUSED = {ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, 1698, 1820, 1862, 3118, 4151}
"""Wrong user or password; unix-socket-only account; password to be changed; password expired; account locked."""


class Connection(pymysql.connections.Connection):
    server_status: int
    server_version: str
    server_thread_id: tuple[int]

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        """PyMySQL loads the system's authorities for every connection, 20 ms, only to verify nothing when TLS is merely
        preferred."""
        return sslp if isinstance(sslp, ssl.SSLContext) else _UNVERIFIED


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_UNVERIFIED = _unverified()


@dataclass(frozen=True, slots=True)
class Account:
    """Where and as whom to connect."""

    url: Url
    database: str
    user: str
    unix_socket: str | None
    timeout: float
    tls: dict[str, Any]

    @classmethod
    def read(cls, text: str) -> Account:
        url = parse_url(text, known=_OPTIONS)
        database = url.path.removeprefix("/")
        if not database or "/" in database:
            raise no_database()
        if not url.user:
            raise Misconfigured("the database URL names no user", hint="mysql://user:password@host:3306/database")
        if url.options.get("charset", "utf8mb4") != "utf8mb4":
            raise Misconfigured("the database URL asks for another charset than utf8mb4, which results need")
        return cls(
            url,
            database,
            url.user,
            url.options.get("unix_socket") or url.options.get("socket"),
            connect_timeout(url.options),
            _tls(url.options),
        )

    def connect(self, *, read_timeout: float | None = None, decoded: bool = False) -> tuple[Connection, socket.socket]:
        """A connection, and a second handle on its socket by which another thread can cut it.

        Values are the bytes the server sent, or with `decoded` what PyMySQL makes of them.
        """
        try:
            plain = self._dial()
        except OSError as error:
            raise Unreachable(f"cannot connect to {self._where()}: {error.strerror or error}") from None
        line = socket.socket(fileno=os.dup(plain.fileno()))
        connection = Connection(
            host=self.url.host or "localhost",
            user=self.user,
            password=(self.url.password or "").encode(),
            database=self.database,
            charset="utf8mb4",
            use_unicode=decoded,
            conv=None if decoded else {},
            client_flag=CLIENT.FOUND_ROWS,
            local_infile=False,
            autocommit=None,
            read_timeout=read_timeout,
            program_name="dbward",
            defer_connect=True,
            **self.tls,
        )
        try:
            with cut_after(self.timeout, line):
                connection.connect(plain)
        except (pymysql.MySQLError, OSError) as error:
            line.close()
            number, message, _ = parts_of(error)
            text = scrubbed(f"cannot connect to {self._where()}: {message}", self.url.password)
            raise (CredentialsRefused if number in _REFUSED else Unreachable)(text) from None
        except BaseException:
            line.close()
            raise
        return connection, line

    def _dial(self) -> socket.socket:
        if self.unix_socket:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            made.settimeout(self.timeout)
            try:
                made.connect(self.unix_socket)
            except OSError:
                made.close()
                raise
        else:
            made = socket.create_connection((self.url.host or "localhost", self.url.port or 3306), self.timeout)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, name):
                    made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return made

    def _where(self) -> str:
        return self.unix_socket or f"{self.url.host or 'localhost'}:{self.url.port or 3306}"


def _tls(options: dict[str, str]) -> dict[str, Any]:
    """PyMySQL's arguments for the URL's `ssl_mode`: as the mysql client's, which prefers TLS by default."""
    authority = options.get("ssl_ca")
    default = "verify_ca" if authority else "preferred"
    mode = (options.get("ssl_mode") or options.get("sslmode") or default).lower().replace("-", "_")
    known = {"disabled", "disable", "preferred", "prefer", "required", "require"}
    known |= {"verify_ca", "verify_identity", "verify_full"}
    if mode not in known:
        raise Misconfigured(f"ssl_mode in the database URL is not known: {mode!r}", hint=", ".join(sorted(known)))
    if mode in ("disabled", "disable"):
        return {"ssl_disabled": True}
    if mode in ("preferred", "prefer"):
        return {}
    try:
        context = _unverified()
        if mode not in ("required", "require"):
            context = ssl.create_default_context(cafile=authority)
            context.check_hostname = mode in ("verify_identity", "verify_full")
        if options.get("ssl_cert"):
            context.load_cert_chain(options["ssl_cert"], keyfile=options.get("ssl_key"))
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"the TLS files of the database URL cannot be read: {error}") from None
    return {"ssl": context}


def parts_of(error: Exception) -> tuple[int, str, str | None]:
    """Number, message and SQLSTATE."""
    if isinstance(error, pymysql.MySQLError) and len(error.args) > 1 and isinstance(error.args[0], int):
        return error.args[0] & 0xFFFF, str(error.args[1]), getattr(error, "sqlstate", None)
    return 0, str(error), None


@contextmanager
def cut_after(seconds: float, line: socket.socket) -> Iterator[None]:
    """A limit for the whole handshake; PyMySQL has one for each read only."""
    timer = threading.Timer(seconds, cut, (line,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def cut(line: socket.socket) -> None:
    try:
        line.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
