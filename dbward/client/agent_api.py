"""The agent's side of `/api/agent/*`: one method per endpoint, shapes in `dbward.client.wire`, thread-safe.

A method sends its request once. Every one may be repeated after a lost answer, so `patiently` retries what an outage
interrupts; anything the server decided is raised as the branch of `dbward.errors` it belongs to.
"""

from __future__ import annotations

import logging
import random
import ssl
import time
from collections.abc import Callable
from threading import Event
from typing import Final, Literal, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from dbward import trust
from dbward.client.wire import (
    AgentReport,
    AgentWelcome,
    Claimed,
    ClaimRequest,
    Completed,
    CompleteRequest,
    ErrorEnvelope,
    ExplainClaimed,
    ExplainReport,
    PartAccepted,
    ReleaseRequest,
    Renewed,
    RenewRequest,
    SchemaBegin,
    SchemaCommit,
    SchemaFailure,
    SchemaTables,
    SchemaUpload,
    StartRequest,
)
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

log = logging.getLogger("dbward.agent")

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

CONNECT_SECS: Final = 10.0
ANSWER_SECS: Final = 30.0
"""How long an answer may take, beyond the time the request asked the server to wait."""

LOG_EVERY_SECS: Final = 30.0
FIRST_DELAY_SECS: Final = 0.1
LAST_DELAY_SECS: Final = 15.0

_BY_STATUS: Final[dict[int, type[DbwardError]]] = {
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


class PublicKey(BaseModel):
    """`GET /api/public-key`; further fields of a newer server are not read."""

    public_key: str


class AgentApi:
    """A pool of connections to one server, with the agent's token. Close it when the process ends.

    `transport` replaces the network, so that the real application can be called without a socket.
    Raises `Misconfigured` where TLS has nobody to trust.
    """

    def __init__(
        self, base_url: str, token: str, *, version: str = "", transport: httpx2.BaseTransport | None = None
    ) -> None:
        self._http = httpx2.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {token}", "User-Agent": f"dbward-agent/{version}"},
            timeout=httpx2.Timeout(ANSWER_SECS, connect=CONNECT_SECS, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=8),
            verify=trust.context() if transport is None else True,
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def public_key(self) -> str:
        """The 32 bytes of the server's Ed25519 key as hex."""
        return self._send("GET", "/api/public-key", answer=PublicKey).public_key

    def report(self, report: AgentReport) -> AgentWelcome:
        return self._send("POST", "/api/agent/report", body=report, answer=AgentWelcome)

    def claim(self, execution_id: str, claim: ClaimRequest) -> Claimed:
        """`Conflict` or `Missing`: the message is out of date and can be forgotten."""
        return self._send("POST", _path(execution_id, "claim"), body=claim, answer=Claimed)

    def start(self, execution_id: str, start: StartRequest) -> None:
        """Spend the token. `Conflict`: do not run. Repeating it with the same nonce is accepted."""
        self._send("POST", _path(execution_id, "start"), body=start, answer=_Anything)

    def renew(self, execution_id: str, renew: RenewRequest) -> Renewed:
        return self._send(
            "POST", _path(execution_id, "renew"), body=renew, answer=Renewed, answer_secs=ANSWER_SECS + renew.wait_secs
        )

    def part(self, execution_id: str, *, claim_id: str, offset: int, data: bytes) -> int:
        """Bytes the server holds now. `Conflict` with code `result.offset` says in `detail["size"]` where to go on."""
        accepted = self._send(
            "POST",
            _path(execution_id, "parts"),
            params={"claim_id": claim_id, "offset": str(offset)},
            content=data,
            answer=PartAccepted,
        )
        return accepted.size

    def release(self, execution_id: str, release: ReleaseRequest) -> None:
        self._send("POST", _path(execution_id, "release"), body=release, answer=_Anything)

    def complete(self, execution_id: str, complete: CompleteRequest) -> Completed:
        return self._send("POST", _path(execution_id, "complete"), body=complete, answer=Completed)

    def claim_explain(self, explain_id: str, claim: ClaimRequest) -> ExplainClaimed:
        """`Conflict` or `Missing`: the message is out of date and can be forgotten."""
        return self._send("POST", f"/api/agent/explains/{explain_id}/claim", body=claim, answer=ExplainClaimed)

    def complete_explain(self, explain_id: str, report: ExplainReport) -> None:
        self._send("POST", f"/api/agent/explains/{explain_id}/complete", body=report, answer=_Anything)

    def begin_schema(self, begin: SchemaBegin) -> str:
        """The id under which the snapshot is sent."""
        return self._send("POST", "/api/agent/schemas", body=begin, answer=SchemaUpload).upload_id

    def schema_tables(self, upload_id: str, tables: SchemaTables) -> None:
        self._send("POST", f"/api/agent/schemas/{upload_id}/tables", body=tables, answer=_Anything)

    def commit_schema(self, upload_id: str, commit: SchemaCommit) -> None:
        self._send("POST", f"/api/agent/schemas/{upload_id}/commit", body=commit, answer=_Anything)

    def schema_failed(self, failure: SchemaFailure) -> None:
        self._send("POST", "/api/agent/schemas/failed", body=failure, answer=_Anything)

    def _send(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        answer: type[M],
        body: BaseModel | None = None,
        params: dict[str, str] | None = None,
        content: bytes | None = None,
        answer_secs: float = ANSWER_SECS,
    ) -> M:
        """One exchange. Raises the branch of the error tree; `Unavailable` when no usable answer came."""
        kind = "application/octet-stream"
        if body is not None:
            content, kind = body.model_dump_json().encode(), "application/json"
        try:
            response = self._http.request(
                method,
                path,
                params=params,
                content=content,
                headers={"Content-Type": kind} if content is not None else None,
                timeout=httpx2.Timeout(answer_secs, connect=CONNECT_SECS, pool=None),
            )
        except httpx2.TransportError as e:
            raise _unreachable(e) from e
        if response.status_code >= 300:
            raise _error(response)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as e:
            raise Unavailable(
                f"{path} was answered with something that is not the dbward API",
                code="server.bad_answer",
                hint="is a proxy answering instead of the server, or is the server much newer than the agent?",
            ) from e


class _Anything(BaseModel):
    """An answer whose content does not matter."""


def patiently(
    call: Callable[[], T],
    *,
    stop: Event,
    what: str,
    limit_secs: float | None = None,
    first_secs: float = FIRST_DELAY_SECS,
    last_secs: float = LAST_DELAY_SECS,
) -> T:
    """Repeat `call` while it raises `Unavailable` or `RateLimited`, with jittered exponential back-off.

    Gives up, raising the last error, when `stop` is set or `limit_secs` have passed; None never gives up by itself.
    The first failure is logged, then one line every 30 s, then the recovery. `what` names the step in those lines.
    """
    began = time.monotonic()
    logged: float | None = None
    delay = first_secs
    while True:
        try:
            result = call()
        except (Unavailable, RateLimited) as e:
            now = time.monotonic()
            pause = jittered(delay)
            asked = (e.detail or {}).get("retry_after_secs")
            if isinstance(asked, int | float):
                pause = max(pause, jittered(min(float(asked), last_secs)))
            if limit_secs is not None and now + pause - began > limit_secs:
                raise
            if logged is None or now - logged >= LOG_EVERY_SECS:
                log.warning("%s: %s; trying again", what, e.message)
                logged = now
            if stop.wait(pause):
                raise
            delay = min(delay * 2, last_secs)
        else:
            if logged is not None:
                log.info("%s: the server answered after %.0f s", what, time.monotonic() - began)
            return result


def jittered(delay: float) -> float:
    """Between half and the whole of `delay`, so that many agents do not come back in step."""
    return delay * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


def _path(execution_id: str, verb: str) -> str:
    return f"/api/agent/executions/{execution_id}/{verb}"


def _unreachable(e: httpx2.TransportError) -> DbwardError:
    """An outage, or a TLS or URL mistake that no waiting will cure. The texts never hold the URL."""
    cause: BaseException | None = e
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Misconfigured(
                f"the server's certificate is not accepted: {cause.verify_message}",
                code="server.certificate",
                hint="install the certificate authority on this machine, or correct server.url",
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(e, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError):
        return Misconfigured("server.url or the token cannot be used for HTTP", code="server.url")
    kind = "does not answer in time" if isinstance(e, httpx2.TimeoutException) else "cannot be reached"
    return Unavailable(f"the server {kind}", code="server.unreachable")


def _error(response: httpx2.Response) -> DbwardError:
    status = response.status_code
    try:
        envelope = ErrorEnvelope.model_validate_json(response.content)
    except ValidationError:
        envelope = ErrorEnvelope(error=f"HTTP {status}", code=f"http.{status}")
    detail = dict(envelope.detail or {})
    cls = Unavailable if status >= 500 else _BY_STATUS.get(status, Misconfigured)
    if cls in {Unavailable, RateLimited}:
        pause = response.headers.get("Retry-After", "")
        if pause.isdecimal():
            detail["retry_after_secs"] = int(pause)
    message = envelope.error
    if cls is Misconfigured:
        message = f"the server answered HTTP {status}; is server.url the address of a dbward server?"
    return cls(message, code=envelope.code, hint=envelope.hint, detail=detail or None)
