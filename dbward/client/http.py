"""The REST API for people's programs: one call at a time, errors as the branches of `dbward.errors`."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self
from urllib.parse import quote

import httpx2

from dbward import trust
from dbward.errors import (
    Conflict,
    DbwardError,
    Gone,
    Invalid,
    Misconfigured,
    Missing,
    RateLimited,
    Refused,
    TooLarge,
    Unauthorized,
    Unavailable,
)

CONNECT_SECS: Final = 10.0
ANSWER_SECS: Final = 30.0
"""How long an answer may take, beyond the time the server was asked to wait."""

VERSION_HEADER: Final = "x-dbward-version"
NETWORK_ERROR: Final = "network_error"
SERVER_ERROR: Final = "server_error"
_SHOWN = 200

_BY_STATUS: Final[Mapping[int, type[DbwardError]]] = {
    400: Invalid,
    401: Unauthorized,
    403: Refused,
    404: Missing,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    422: Invalid,
    429: RateLimited,
}


def part(text: str) -> str:
    """`text` as one segment of a path, whatever it holds."""
    return quote(text, safe="")


class ApiClient:
    """A connection to one server with one token. Close it, or use it as a context manager.

    `token` may be a function: it is asked before each call, and what it raises is raised. `transport` replaces the
    network, so that the real application can be called without a socket. `server_version` is what the last answer said.
    Raises `Misconfigured` where https has nobody to trust.
    """

    def __init__(
        self,
        base_url: str,
        token: str | Callable[[], str] | None,
        *,
        version: str = "",
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        headers = {"User-Agent": f"dbward/{version}", "Accept": "application/json"}
        if isinstance(token, str):
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx2.Client(
            base_url=base_url,
            headers=headers,
            verify=trust.context_for(base_url) if transport is None else True,
            transport=transport,
            auth=_Bearer(token) if callable(token) else None,
        )
        self.server_version: str | None = None

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, answer_secs: float = ANSWER_SECS) -> Any:
        """The decoded answer. Parameters that are None are left out. Raises a branch of `DbwardError`."""
        return self._call("GET", path, params=params, answer_secs=answer_secs)

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, answer_secs: float = ANSWER_SECS
    ) -> dict[str, Any]:
        """The decoded answer. Raises a branch of `DbwardError`; `Unavailable` when the answer was lost."""
        return self._object("POST", path, body or {}, answer_secs=answer_secs)

    def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """As `post`."""
        return self._object("PATCH", path, body)

    def delete(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """As `post`."""
        return self._object("DELETE", path, body)

    @contextmanager
    def stream(
        self, path: str, params: Mapping[str, Any] | None = None, *, answer_secs: float = ANSWER_SECS
    ) -> Iterator[Iterator[bytes] | None]:
        """The answer's bytes as they come, never all at once; None for 204. Raises as `get` does."""
        timeout = httpx2.Timeout(answer_secs, connect=CONNECT_SECS)
        try:
            with self._http.stream("GET", path, params=_given(params), timeout=timeout) as response:
                self._note(response)
                if response.status_code == 204:
                    yield None
                    return
                if response.status_code != 200:
                    response.read()
                    raise error_of(response)
                yield response.iter_bytes()
        except httpx2.TransportError as e:
            raise unreachable(e) from e

    def _object(
        self, method: str, path: str, body: Mapping[str, Any] | None, *, answer_secs: float = ANSWER_SECS
    ) -> dict[str, Any]:
        answer = self._call(method, path, body=body, answer_secs=answer_secs)
        if not isinstance(answer, dict):
            raise _not_ours()
        return answer

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        answer_secs: float,
    ) -> Any:
        try:
            response = self._http.request(
                method,
                path,
                params=_given(params),
                json=body,
                timeout=httpx2.Timeout(answer_secs, connect=CONNECT_SECS),
            )
        except httpx2.TransportError as e:
            raise unreachable(e) from e
        self._note(response)
        if not response.is_success:
            raise error_of(response)
        try:
            return json.loads(response.content)
        except ValueError as e:
            raise _not_ours() from e

    def _note(self, response: httpx2.Response) -> None:
        self.server_version = response.headers.get(VERSION_HEADER, self.server_version)


class _Bearer(httpx2.Auth):
    """Puts in the token of the moment: a command may wait for longer than one lives."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token()}"
        yield request


def unreachable(error: httpx2.TransportError) -> DbwardError:
    """An outage, or what no waiting will cure. The texts hold neither the URL nor the token.

    `detail["sent"]` says whether the server may have read the call.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Misconfigured(
                f"the server's certificate is not accepted: {cause.verify_message}",
                code="server.certificate",
                hint="install the certificate authority on this machine, or correct server.url",
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError):
        return Misconfigured("server.url or the token cannot be used for HTTP", code="server.url")
    sent = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
    kind = "does not answer in time" if isinstance(error, httpx2.TimeoutException) else "cannot be reached"
    if sent and not isinstance(error, httpx2.TimeoutException):
        kind = "broke the connection"
    return Unavailable(
        f"the server {kind}", code=NETWORK_ERROR, hint="is it running, and is server.url right?", detail={"sent": sent}
    )


def error_of(response: httpx2.Response) -> DbwardError:
    """The error an answer describes, in its envelope if it has one; else `detail["status"]` is what a proxy said."""
    status = response.status_code
    cls = Unavailable if status >= 500 else _BY_STATUS.get(status, DbwardError)
    try:
        body = json.loads(response.content)
    except ValueError:
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("error"), str):
        if 300 <= status < 400:
            return _not_ours()
        text = " ".join(response.text.split())[:_SHOWN]
        message = f"the server answered HTTP {status}" + (f": {text}" if text else "")
        return cls(message, code=SERVER_ERROR, detail={"status": status})
    message, code, hint, detail = body["error"], body.get("code"), body.get("hint"), body.get("detail")
    if message == "forbidden" and isinstance(hint, str):
        message, hint = f"forbidden: {hint}", None  # why stands in the hint; here it is what happened
    return cls(
        message,
        code=code if isinstance(code, str) else SERVER_ERROR,
        hint=hint if isinstance(hint, str) else None,
        detail=detail if isinstance(detail, dict) else None,
    )


def _given(params: Mapping[str, Any] | None) -> dict[str, str]:
    given = {key: value for key, value in (params or {}).items() if value is not None}
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in given.items()}


def _not_ours() -> DbwardError:
    return Unavailable(
        "the answer is not one of a dbward server",
        code=SERVER_ERROR,
        hint="is server.url the address of a dbward server, and does a proxy answer in its place?",
    )
