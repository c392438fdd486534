"""The decision whether a claimed job may run, and what two clocks say of each other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dbward.client.wire import Claimed
from dbward.domain import tokens
from dbward.domain.model import Operation, Target
from dbward.errors import Misconfigured
from worker.job import Plan, Rejected, Rules, parse_key, plan, refuse_skew

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY = Ed25519PrivateKey.generate()
RULES = Rules(
    node="agent@host",
    targets={Target("app", "production")},
    operations={Operation.EXECUTE_SELECT, Operation.EXECUTE_DML},
    statement_timeout=timedelta(seconds=60),
)


def claimed(*, key: Ed25519PrivateKey = KEY, sign: dict[str, Any] | None = None, **changes: Any) -> Claimed:
    """A job whose token binds `sign`, with `changes` made to the answer afterwards."""
    statements = ["SELECT 1"]
    bound: dict[str, Any] = {
        "claim_id": "c1",
        "request_id": "r1",
        "execution_id": "e1",
        "agent": "agent@host",
        "operation": Operation.EXECUTE_SELECT,
        "database": "app",
        "environment": "production",
        "statements_sha256": tokens.statements_sha256(statements),
        "statement_timeout_ms": 30_000,
        "max_rows": 10,
        "max_bytes": 1000,
        "issued_at": NOW,
        "expires_at": NOW + tokens.LIFETIME,
    } | (sign or {})
    token = tokens.ExecutionToken(**bound)
    limits = {name: bound[name] for name in ("statement_timeout_ms", "max_rows", "max_bytes")}
    names = ("claim_id", "request_id", "execution_id", "operation", "database", "environment")
    answer = {name: bound[name] for name in names} | {
        "token": tokens.issue(key, token),
        "statements": statements,
        "limits": limits,
        "lease_secs": 60,
        "server_time": NOW,
    }
    return Claimed.model_validate(answer | changes)


def check(job: Claimed, *, rules: Rules = RULES, now: datetime = NOW, asked_for: str = "e1") -> Plan | Rejected:
    return plan(job, KEY.public_key(), rules, asked_for=asked_for, now=now)


def test_a_genuine_job_becomes_a_plan() -> None:
    checked = check(claimed())
    assert isinstance(checked, Plan)
    assert checked.statements == ("SELECT 1",)
    assert checked.target == Target("app", "production")
    assert checked.read_only
    assert checked.limits.statement_timeout == timedelta(seconds=30)
    assert (checked.limits.max_rows, checked.limits.max_bytes) == (10, 1000)


@pytest.mark.parametrize(
    "changes",
    [
        {"statements": ["DELETE FROM t"]},
        {"statements": ["SELECT 1", "SELECT 1"]},
        {"operation": Operation.EXECUTE_DML},
        {"database": "other"},
        {"environment": "development"},
        {"request_id": "r2"},
        {"claim_id": "c2"},
        {"limits": {"statement_timeout_ms": 0, "max_rows": 10, "max_bytes": 1000}},
        {"limits": {"statement_timeout_ms": 30_000, "max_rows": 11, "max_bytes": 1000}},
        {"limits": {"statement_timeout_ms": 30_000, "max_rows": 10, "max_bytes": 1001}},
    ],
)
def test_whatever_was_changed_after_signing_is_noticed(changes: dict[str, Any]) -> None:
    checked = check(claimed(**changes))
    assert isinstance(checked, Rejected)
    assert checked.code == "token.mismatch"


def test_a_token_for_another_message_is_refused() -> None:
    checked = check(claimed(), asked_for="e2")
    assert isinstance(checked, Rejected)
    assert checked.code == "token.mismatch"


def test_a_token_for_another_agent_is_refused() -> None:
    checked = check(claimed(sign={"agent": "other@host"}))
    assert isinstance(checked, Rejected)
    assert checked.code == "token.mismatch"


def test_another_key_may_be_a_rotated_one() -> None:
    checked = check(claimed(key=Ed25519PrivateKey.generate()))
    assert isinstance(checked, Rejected)
    assert checked.key_may_be_old


@pytest.mark.parametrize("token", ["", "x", "{}." + "0" * 128, "{}.zz", "a" * 20_000])
def test_nonsense_is_refused(token: str) -> None:
    checked = check(claimed(token=token))
    assert isinstance(checked, Rejected)
    assert checked.code in {"token.malformed", "token.bad_signature"}


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (NOW + tokens.LIFETIME, "token.expired"),
        (NOW - timedelta(seconds=61), "token.clock_skew"),
    ],
)
def test_time_is_checked(now: datetime, code: str) -> None:
    checked = check(claimed(), now=now)
    assert isinstance(checked, Rejected)
    assert checked.code == code


def test_an_operation_the_agent_does_not_list_is_refused() -> None:
    rules = Rules("agent@host", RULES.targets, {Operation.EXECUTE_SELECT}, timedelta(0))
    checked = check(claimed(sign={"operation": Operation.EXECUTE_DML}), rules=rules)
    assert isinstance(checked, Rejected)
    assert checked.code == "agent.operation_not_allowed"


def test_an_operation_this_version_cannot_run_is_refused_even_when_listed() -> None:
    rules = Rules("agent@host", RULES.targets, set(Operation), timedelta(0))
    checked = check(claimed(sign={"operation": Operation.MIGRATE_STATUS}), rules=rules)
    assert isinstance(checked, Rejected)
    assert checked.code == "agent.operation_not_allowed"


def test_a_database_without_a_url_here_is_refused() -> None:
    checked = check(claimed(sign={"database": "other"}))
    assert isinstance(checked, Rejected)
    assert checked.code == "agent.unknown_database"


@pytest.mark.parametrize(
    ("server_ms", "agent_secs", "effective"),
    [(30_000, 60, 30), (90_000, 60, 60), (0, 60, 60), (30_000, 0, 30), (0, 0, 0)],
)
def test_the_shorter_time_limit_holds_and_zero_is_none(server_ms: int, agent_secs: int, effective: int) -> None:
    rules = Rules("agent@host", RULES.targets, RULES.operations, timedelta(seconds=agent_secs))
    checked = check(claimed(sign={"statement_timeout_ms": server_ms}), rules=rules)
    assert isinstance(checked, Plan)
    assert checked.limits.statement_timeout == timedelta(seconds=effective)


@pytest.mark.parametrize("text", ["", "zz", "00" * 31, "00" * 33])
def test_half_a_key_is_no_key(text: str) -> None:
    with pytest.raises(Misconfigured):
        parse_key(text)


def test_a_key_is_read_from_hex() -> None:
    assert (
        parse_key(KEY.public_key().public_bytes_raw().hex()).public_bytes_raw() == KEY.public_key().public_bytes_raw()
    )


def test_clocks_two_minutes_apart_are_refused_and_the_skew_is_named() -> None:
    ahead = refuse_skew(NOW + timedelta(seconds=120), sent=NOW, received=NOW)
    behind = refuse_skew(NOW - timedelta(seconds=120), sent=NOW, received=NOW)
    assert ahead is not None
    assert "120 s behind" in ahead.message
    assert behind is not None
    assert "120 s ahead of" in behind.message


@pytest.mark.parametrize("secs", [-60, -1, 0, 60])
def test_clocks_a_minute_apart_are_tolerated(secs: int) -> None:
    assert refuse_skew(NOW + timedelta(seconds=secs), sent=NOW, received=NOW) is None


def test_half_of_a_slow_answer_is_not_called_skew() -> None:
    assert refuse_skew(NOW + timedelta(seconds=75), sent=NOW, received=NOW + timedelta(seconds=30)) is None
