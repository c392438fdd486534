"""The execution token: the server's signed word that one agent may run exactly these statements, once, soon.

Text form: `<canonical JSON>.<signature>`; the signature is Ed25519 over the purpose's prefix and the JSON's UTF-8 bytes
as they stand, in lower-case hex. What is signed is what is read: nothing is re-encoded in between. A token for one
purpose is no token for another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from enum import Enum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dbward.canonical import canonical_json, sha256_hex
from dbward.domain.model import Operation
from dbward.errors import Invalid, Refused

VERSION = 1
LIFETIME = timedelta(minutes=5)
MAX_LENGTH = 16_384
"""Characters; a token has a few hundred."""


class Purpose(Enum):
    """What a token lets an agent do with the statements. The value is signed before the token."""

    RUN = b"dbward-execution-token:v1|"
    EXPLAIN = b"dbward-explain-token:v1|"
    MIGRATIONS = b"dbward-migrations-token:v1|"
    """To read which migrations are applied. It binds no statement, and its operation is `migrate_status`."""


_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class TokenRefused(Refused):
    """Codes: `token.malformed`, `token.bad_signature`, `token.clock_skew`, `token.expired`, `token.mismatch`."""

    code = "token.malformed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a token is bound to. `agent` is the node name; `statements_sha256` comes from the function of that name.

    `statement_timeout_ms` 0 means no time limit, which only migrations have.
    """

    claim_id: str
    request_id: str
    execution_id: str
    agent: str
    operation: Operation
    database: str
    environment: str
    statements_sha256: str
    statement_timeout_ms: int
    max_rows: int
    max_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionToken(Binding):
    """A binding with its time of validity, both ends aware UTC."""

    issued_at: datetime
    expires_at: datetime
    v: int = VERSION


def statements_sha256(statements: Sequence[str]) -> str:
    """SHA-256 hex over the canonical JSON array of the statements, so that where one ends is part of what is bound."""
    try:
        return sha256_hex(canonical_json(list(statements)))
    except UnicodeEncodeError:
        raise Invalid("the statements are not valid Unicode text", code="sql.rejected") from None


def issue(private_key: Ed25519PrivateKey, token: ExecutionToken, purpose: Purpose = Purpose.RUN) -> str:
    """The token's text form."""
    values = asdict(token)
    values["issued_at"] = token.issued_at.astimezone(UTC).strftime(_TIME)
    values["expires_at"] = token.expires_at.astimezone(UTC).strftime(_TIME)
    payload = canonical_json(values)
    return f"{payload}.{private_key.sign(purpose.value + payload.encode()).hex()}"


def verify(
    public_key: Ed25519PublicKey,
    text: str,
    *,
    expected: Binding,
    now: datetime,
    max_skew: timedelta,
    purpose: Purpose = Purpose.RUN,
) -> ExecutionToken:
    """The token, when it is genuine, valid at `now` and bound to everything in `expected`; else `TokenRefused`.

    `max_skew` is how far ahead the issuer's clock may be. Expiry allows for none: it would only prolong the token.
    """
    token = _parse(_signed_payload(public_key, text, purpose))
    if token.issued_at > now + max_skew:
        ahead = (token.issued_at - now).total_seconds()
        raise TokenRefused(
            f"the token was issued {ahead:.0f} s in this machine's future",
            code="token.clock_skew",
            hint="set the clocks of the server and of the agent (NTP)",
        )
    if now >= token.expires_at:
        late = (now - token.expires_at).total_seconds()
        raise TokenRefused(
            f"the token expired {late:.0f} s ago by this machine's clock",
            code="token.expired",
            hint="if it was just issued, the clocks of the server and of the agent differ",
        )
    names = [field.name for field in fields(Binding)]
    wrong = [name for name in names if getattr(token, name) != getattr(expected, name)]
    if wrong:
        raise TokenRefused("the token is bound to something else: " + ", ".join(wrong), code="token.mismatch")
    return token


def _signed_payload(public_key: Ed25519PublicKey, text: str, purpose: Purpose) -> str:
    payload, dot, signature = text.rpartition(".")
    if not dot or len(text) > MAX_LENGTH or _SIGNATURE.fullmatch(signature) is None:
        raise TokenRefused("this is not an execution token")
    try:
        public_key.verify(bytes.fromhex(signature), purpose.value + payload.encode())
    except (InvalidSignature, UnicodeEncodeError):
        raise TokenRefused("the token's signature is not the server's", code="token.bad_signature") from None
    return payload


def _parse(payload: str) -> ExecutionToken:
    try:
        values = json.loads(payload)
        values["operation"] = Operation(values["operation"])
        for name in ("issued_at", "expires_at"):
            values[name] = datetime.strptime(values[name], _TIME).replace(tzinfo=UTC)
        token = ExecutionToken(**values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise TokenRefused("the token's content cannot be read") from None
    numbers = (token.v, token.statement_timeout_ms, token.max_rows, token.max_bytes)
    texts = (token.claim_id, token.request_id, token.execution_id, token.agent, token.database, token.environment)
    sound = all(type(value) is str for value in (*texts, token.statements_sha256))
    if token.v != VERSION or not sound or any(type(value) is not int or value < 0 for value in numbers):
        raise TokenRefused("the token's content cannot be read")
    return token
