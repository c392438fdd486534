"""What a database value becomes in a result: JSON that loses nothing.

Numbers stay numbers while every digit survives; what JSON or its readers would round, reorder or merge becomes the text
the database printed. Bytes, and text that is not UTF-8, become `\\x` and lower-case hexadecimal digits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from math import isfinite
from typing import Any, TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

FromBytes: TypeAlias = Callable[[bytes], JsonValue]
"""One column's values, from the text the database sent to JSON."""

MAX_DEPTH = 64
"""Deeper JSON stays text: it would be a stack overflow for somebody further on."""


def from_text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return from_bytes(raw)


def from_bytes(raw: bytes) -> str:
    return "\\x" + raw.hex()


def from_integer(raw: bytes) -> JsonValue:
    return int(raw)


def from_float(raw: bytes) -> JsonValue:
    value = float(raw)
    return value if isfinite(value) else raw.decode("ascii")


def from_json(raw: bytes) -> JsonValue:
    """The parsed value, or its text when parsing would lose something: digits, a repeated key, a lone surrogate."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return from_bytes(raw)
    try:
        value: JsonValue = _LOSSLESS.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, ArithmeticError, RecursionError):
        return text
    return value if _shallow(text, value) else text


def _shallow(text: str, value: JsonValue) -> bool:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return True
    level: list[JsonValue] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for outer in level
            if isinstance(outer, (list, dict))
            for child in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return True
    return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("repeated key")
    return made


def _exact(digits: str) -> float:
    value = float(digits)
    if Decimal(repr(value)) != Decimal(digits):
        raise ValueError("more digits than a float holds")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_LOSSLESS = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_exact, parse_constant=_no_constant)
