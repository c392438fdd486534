"""From what the server handed out to what will be run: pure, so that every refusal can be tested without a database."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dbward.client.wire import Claimed
from dbward.domain.migration import MIGRATING, Pinned, Repair, read_pinned, read_repair
from dbward.domain.model import MAX_SKEW, Limits, Operation, Target
from dbward.domain.tokens import Binding, ExecutionToken, Purpose, TokenRefused, statements_sha256, verify
from dbward.errors import DbwardError, Invalid, Misconfigured

RUNNABLE = frozenset({Operation.EXECUTE_SELECT, Operation.EXECUTE_DML}) | MIGRATING
"""What this version of the agent can run; others are refused, not guessed at."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What this agent itself allows, whatever the server signs.

    `node` is its name at the server; `statement_timeout` an upper bound, zero for none.
    """

    node: str
    targets: Collection[Target]
    operations: Collection[Operation]
    statement_timeout: timedelta


@dataclass(frozen=True, slots=True)
class Plan:
    """Verified: exactly this may run, once. `migration` is None unless the operation is one."""

    execution_id: str
    request_id: str
    claim_id: str
    target: Target
    operation: Operation
    statements: tuple[str, ...]
    limits: Limits
    lease_secs: int
    expires_at: datetime
    migration: tuple[Pinned, ...] | Repair | None = None

    @property
    def read_only(self) -> bool:
        return self.operation is Operation.EXECUTE_SELECT


@dataclass(frozen=True, slots=True)
class Rejected:
    """Nothing may run; the server is told why. `key_may_be_old`: the signature is not by the key the agent knows."""

    code: str
    message: str
    hint: str | None = None

    @property
    def key_may_be_old(self) -> bool:
        return self.code == "token.bad_signature"


def plan(claimed: Claimed, key: Ed25519PublicKey, rules: Rules, *, asked_for: str, now: datetime) -> Plan | Rejected:
    """Check the token against everything that came with it and against the agent's own rules.

    `asked_for` is the execution id of the queue message. Nothing of the database is touched before this said yes.
    """
    target = Target(claimed.database, claimed.environment)

    def expected() -> Binding:
        return Binding(
            claim_id=claimed.claim_id,
            request_id=claimed.request_id,
            execution_id=asked_for,
            agent=rules.node,
            operation=claimed.operation,
            database=claimed.database,
            environment=claimed.environment,
            statements_sha256=statements_sha256(claimed.statements),
            statement_timeout_ms=claimed.limits.statement_timeout_ms,
            max_rows=claimed.limits.max_rows,
            max_bytes=claimed.limits.max_bytes,
        )

    token = genuine(key, claimed.token, expected, target, rules, now=now, purpose=Purpose.RUN)
    if isinstance(token, Rejected):
        return token
    if claimed.operation not in rules.operations or claimed.operation not in RUNNABLE:
        return not_allowed(claimed.operation)
    if not claimed.statements:
        return Rejected("agent.nothing_to_run", "the job holds no statement")
    try:
        migration = _migration(claimed)
    except Invalid as e:
        return Rejected(e.code, e.message, e.hint)
    asked = timedelta(milliseconds=claimed.limits.statement_timeout_ms)
    return Plan(
        execution_id=claimed.execution_id,
        request_id=claimed.request_id,
        claim_id=claimed.claim_id,
        target=target,
        operation=claimed.operation,
        statements=tuple(claimed.statements),
        limits=Limits(
            # The agent's own bound is one for queries; a migration takes what it takes.
            statement_timeout=asked if migration is not None else _shorter(asked, rules.statement_timeout),
            max_rows=claimed.limits.max_rows,
            max_bytes=claimed.limits.max_bytes,
        ),
        lease_secs=claimed.lease_secs,
        expires_at=token.expires_at,
        migration=migration,
    )


def not_allowed(operation: Operation) -> Rejected:
    return Rejected(
        "agent.operation_not_allowed",
        f"this agent does not run {operation}",
        "add it to `operations` in the agent's configuration, or send it to another agent",
    )


def _migration(claimed: Claimed) -> tuple[Pinned, ...] | Repair | None:
    """What the signed texts of a migration say. Raises `Invalid`."""
    if claimed.operation not in MIGRATING:
        return None
    if claimed.operation is Operation.MIGRATE_REPAIR:
        return read_repair(claimed.statements)
    return read_pinned(claimed.statements)


def genuine(
    key: Ed25519PublicKey,
    token: str,
    expected: Callable[[], Binding],
    target: Target,
    rules: Rules,
    *,
    now: datetime,
    purpose: Purpose,
) -> ExecutionToken | Rejected:
    """The token, if it is the server's word for exactly what is `expected`, on a target of this agent's."""
    try:
        found = verify(key, token, expected=expected(), now=now, max_skew=MAX_SKEW, purpose=purpose)
    except TokenRefused as e:
        return Rejected(e.code, e.message, e.hint)
    except DbwardError as e:
        return Rejected("token.mismatch", e.message, e.hint)
    if target not in rules.targets:
        return Rejected("agent.unknown_database", f"this agent has no connection to {target}")
    return found


def parse_key(text: str) -> Ed25519PublicKey:
    """The server's public key from hex. Raises `Misconfigured`: verifying with half a key is not an option."""
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except ValueError as e:
        raise Misconfigured("the server's public key is not a 32-byte Ed25519 key in hex", code="server.bad_key") from e


def skew(server_time: datetime, *, sent: datetime, received: datetime) -> timedelta:
    """How far the server's clock is ahead of the agent's (negative: behind); each way took half of the trip."""
    return server_time - (sent + (received - sent) / 2)


def refuse_skew(server_time: datetime, *, sent: datetime, received: datetime) -> Misconfigured | None:
    """An error when the clocks differ by more than `MAX_SKEW`, beyond what a slow answer could explain."""
    ahead = skew(server_time, sent=sent, received=received)
    if abs(ahead) <= MAX_SKEW + (received - sent) / 2:
        return None
    side = "behind" if ahead > timedelta(0) else "ahead of"
    return Misconfigured(
        f"this machine's clock is {abs(ahead).total_seconds():.0f} s {side} the server's; "
        f"at most {MAX_SKEW.total_seconds():.0f} s are tolerated",
        code="clock.skew",
        hint="set the clocks of both machines (NTP); execution tokens are short-lived",
    )


def _shorter(one: timedelta, other: timedelta) -> timedelta:
    """The stricter of two limits in which zero means none."""
    return min((limit for limit in (one, other) if limit), default=timedelta(0))
