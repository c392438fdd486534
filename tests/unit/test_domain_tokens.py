"""Execution tokens: nothing in one can be changed, and nothing else be run with it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from dbward.domain.model import Operation
from dbward.domain.tokens import (
    LIFETIME,
    Binding,
    ExecutionToken,
    Purpose,
    TokenRefused,
    issue,
    statements_sha256,
    verify,
)
from dbward.errors import Invalid
from tests.support.props import calm

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
SKEW = timedelta(seconds=30)
BOUND: dict[str, Any] = {
    "claim_id": "c1",
    "request_id": "r1",
    "execution_id": "e1",
    "agent": "prod-agent@host-1",
    "operation": Operation.EXECUTE_DML,
    "database": "app",
    "environment": "production",
    "statements_sha256": statements_sha256(["UPDATE t SET a = 'ü'"]),
    "statement_timeout_ms": 30_000,
    "max_rows": 10_000,
    "max_bytes": 1_000_000,
}
EXPECTED = Binding(**BOUND)
TOKEN = ExecutionToken(**BOUND, issued_at=NOON, expires_at=NOON + LIFETIME)
TEXT = issue(KEY, TOKEN)
OTHER: dict[str, Any] = {
    name: (Operation.EXECUTE_SELECT if name == "operation" else value + 1 if isinstance(value, int) else value + "x")
    for name, value in BOUND.items()
}


def check(text: str, *, expected: Binding = EXPECTED, now: datetime = NOON, key: Ed25519PrivateKey = KEY) -> str:
    try:
        assert verify(key.public_key(), text, expected=expected, now=now, max_skew=SKEW) is not None
    except TokenRefused as e:
        return e.code
    return "ok"


def signed(payload: str) -> str:
    return f"{payload}.{KEY.sign(b'dbward-execution-token:v1|' + payload.encode()).hex()}"


def payload_with(**changes: Any) -> str:
    return json.dumps(json.loads(TEXT.rpartition(".")[0]) | changes, sort_keys=True, separators=(",", ":"))


def test_a_good_token_comes_back_whole() -> None:
    assert verify(KEY.public_key(), TEXT, expected=EXPECTED, now=NOON, max_skew=SKEW) == TOKEN


def test_the_text_is_what_it_is_said_to_be() -> None:
    payload, _, signature = TEXT.rpartition(".")
    fields = json.loads(payload)
    assert fields == asdict(TOKEN) | {
        "issued_at": "2026-03-01T12:00:00.123456Z",
        "expires_at": "2026-03-01T12:05:00.123456Z",
    }
    KEY.public_key().verify(bytes.fromhex(signature), b"dbward-execution-token:v1|" + payload.encode())


def test_statements_are_bound_with_their_borders() -> None:
    independent = hashlib.sha256(json.dumps(["a", "b"], separators=(",", ":")).encode()).hexdigest()
    assert statements_sha256(["a", "b"]) == statements_sha256(("a", "b")) == independent
    several = [["a", "b"], ["ab"], ["b", "a"], ["a", "b", ""], ['a","b'], [], ["a\nb"], ["a", "B"]]
    assert len({statements_sha256(one) for one in several}) == len(several)
    with pytest.raises(Invalid):
        statements_sha256(["\ud800"])


@pytest.mark.parametrize("name", BOUND)
def test_every_field_binds(name: str) -> None:
    assert check(TEXT, expected=replace(EXPECTED, **{name: OTHER[name]})) == "token.mismatch"


@pytest.mark.parametrize("name", [*BOUND, "issued_at", "expires_at", "v"])
def test_a_changed_field_breaks_the_signature(name: str) -> None:
    value = OTHER.get(name, 2 if name == "v" else "2027-01-01T00:00:00.000000Z")
    forged = payload_with(**{name: value}) + "." + TEXT.rpartition(".")[2]
    expected = replace(EXPECTED, **{name: value}) if name in BOUND else EXPECTED
    assert check(forged, expected=expected) == "token.bad_signature"


@calm
@given(st.integers(0, len(TEXT) - 1), st.integers(0, 0x10FFFF).map(chr))
def test_no_character_can_change(at: int, character: str) -> None:
    if TEXT[at] != character:
        assert check(TEXT[:at] + character + TEXT[at + 1 :]) in ("token.bad_signature", "token.malformed")


def test_another_key_is_a_bad_signature() -> None:
    assert check(TEXT, key=Ed25519PrivateKey.generate()) == "token.bad_signature"


def test_a_signature_for_something_else_is_not_one_for_a_token() -> None:
    payload = TEXT.rpartition(".")[0]
    assert check(f"{payload}.{KEY.sign(payload.encode()).hex()}") == "token.bad_signature"


def test_a_token_for_one_purpose_is_none_for_another() -> None:
    explain = issue(KEY, TOKEN, Purpose.EXPLAIN)
    assert check(explain) == "token.bad_signature"
    key = KEY.public_key()
    assert verify(key, explain, expected=EXPECTED, now=NOON, max_skew=SKEW, purpose=Purpose.EXPLAIN) == TOKEN
    with pytest.raises(TokenRefused):
        verify(key, TEXT, expected=EXPECTED, now=NOON, max_skew=SKEW, purpose=Purpose.EXPLAIN)


@pytest.mark.parametrize(
    ("after", "code"),
    [
        (-SKEW, "ok"),
        (-SKEW - timedelta(seconds=1), "token.clock_skew"),
        (-timedelta(minutes=2), "token.clock_skew"),
        (LIFETIME - timedelta(microseconds=1), "ok"),
        (LIFETIME, "token.expired"),
        (timedelta(days=1), "token.expired"),
    ],
)
def test_time(after: timedelta, code: str) -> None:
    assert check(TEXT, now=NOON + after) == code


def test_time_comes_before_the_binding() -> None:
    assert check(TEXT, now=NOON + LIFETIME, expected=replace(EXPECTED, agent="x")) == "token.expired"


@pytest.mark.parametrize(
    "text",
    ["", ".", "x", "{}." + "0" * 127, "{}." + "G" * 128, TEXT[:-1], TEXT + "0", TEXT.upper(), "x" * 20_000 + TEXT],
)
def test_what_is_no_token(text: str) -> None:
    assert check(text) == "token.malformed"


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "null",
        "[]",
        '"x"',
        "{",
        "[" * 5000,
        payload_with(v=2),
        payload_with(v=True),
        payload_with(v="1"),
        payload_with(extra=1),
        payload_with(operation="drop"),
        payload_with(operation=None),
        payload_with(max_rows="10000"),
        payload_with(max_rows=True),
        payload_with(max_rows=-1),
        payload_with(max_bytes=1e6),
        payload_with(agent=None),
        payload_with(statements_sha256=["x"]),
        payload_with(issued_at=0),
        payload_with(expires_at="tomorrow"),
        payload_with(expires_at=None),
    ],
)
def test_a_signed_but_odd_payload_is_malformed(payload: str) -> None:
    assert check(signed(payload)) == "token.malformed"


@pytest.mark.parametrize("name", [*BOUND, "issued_at", "expires_at"])
def test_a_signed_payload_without_a_field_is_malformed(name: str) -> None:
    fields = json.loads(payload_with())
    del fields[name]
    assert check(signed(json.dumps(fields))) == "token.malformed"


def test_a_surrogate_is_no_crash() -> None:
    assert check("\ud800" + TEXT) == "token.bad_signature"
