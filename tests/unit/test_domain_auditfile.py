"""An exported audit log without its server: what verifies, what does not, and what is no export at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from dbward.domain.auditfile import verify_file
from dbward.errors import Invalid
from tests.unit.test_domain_audit import RING, Chain

Change = Callable[[list[bytes]], list[bytes]]


def _file(events: str) -> list[bytes]:
    """The lines of an export of this chain."""
    chain = Chain(events)
    rows = [
        {"seq": row.seq, **asdict(row.event), "event_hash": row.event_hash, "chain_version": row.chain_version}
        for row in chain.rows
    ]
    first = {"audit_export": {"version": 1, "filtered": False, "head": asdict(chain.head())}}
    return [json.dumps(line).encode() + b"\n" for line in (first, *rows, {"audit_export_end": {"events": len(rows)}})]


FILE = _file("eeecee")


@pytest.mark.parametrize("events", ["", "e", "eeecee", "eecepe"])
def test_a_whole_file_verifies(events: str) -> None:
    text = _file(events)
    verdict, _ = verify_file(text, RING)
    assert (verdict.valid, verdict.total_events) == (True, len(text) - 2)


def _edit(number: int, **values: Any) -> Change:
    def change(text: list[bytes]) -> list[bytes]:
        row = json.loads(text[number]) | values
        return [*text[:number], json.dumps(row).encode() + b"\n", *text[number + 1 :]]

    return change


def _head(**values: Any) -> Change:
    def change(text: list[bytes]) -> list[bytes]:
        first = json.loads(text[0])
        first["audit_export"]["head"] |= values
        return [json.dumps(first).encode() + b"\n", *text[1:]]

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_edit(3, actor_id="mallory"), "hash_mismatch"),
        (_edit(3, prev_hash="0" * 64), "prev_hash_mismatch"),
        (_edit(3, chain_version=1), "unknown_chain_version"),
        (lambda t: [*t[:3], *t[4:]], "sequence_gap"),
        (lambda t: [*t[:-2], t[-1]], "tail_missing"),
        (lambda t: [t[0], *t[2:]], "sequence_gap"),
        (lambda t: [*t[:-1], t[-2], t[-1]], "sequence_gap"),
        (_head(seq=3), "head_signature_invalid"),
        (_head(signature="00" * 64), "head_signature_invalid"),
        (_head(first_seq=2), "sequence_gap"),
    ],
)
def test_a_changed_file_does_not_verify(change: Change, reason: str) -> None:
    verdict, _ = verify_file(change(FILE), RING)
    assert (verdict.valid, verdict.reason) == (False, reason)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda _: [], "audit.export_unreadable"),
        (lambda t: t[1:], "audit.export_unreadable"),
        (lambda t: t[:-1], "audit.export_incomplete"),
        (lambda t: [*t[:-1], b'{"audit_export_incomplete":{"events":1}}\n'], "audit.export_incomplete"),
        (lambda t: [*t, t[1]], "audit.export_unreadable"),
        (lambda t: [t[0], b"[]\n", *t[1:]], "audit.export_unreadable"),
        (lambda t: [t[0], b'{"seq":\n', *t[1:]], "audit.export_unreadable"),
        (lambda t: [t[0], b"[" * 100_000, *t[1:]], "audit.export_unreadable"),
        (_edit(1, seq="1"), "audit.export_unreadable"),
        (_edit(1, more=1), "audit.export_unreadable"),
        (_head(signature=None), "audit.export_unreadable"),
        (_head(seq="x"), "audit.export_unreadable"),
        (_head(more=1), "audit.export_unreadable"),
        (lambda t: [b'{"audit_export":{"filtered":false}}\n', *t[1:]], "audit.export_unreadable"),
    ],
)
def test_what_is_no_whole_export_is_not_judged(change: Change, code: str) -> None:
    with pytest.raises(Invalid) as caught:
        verify_file(change(FILE), RING)
    assert caught.value.code == code
