"""Turning text from outside into names, operations and selectors; whatever is not plainly right is `Invalid`."""

from __future__ import annotations

import re

from dbward.domain.model import Operation, Selector, SelectorKind
from dbward.errors import Invalid

SELECTOR_VALUE_MAX = 128

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_ALIASES = {
    "": Operation.EXECUTE_SELECT,
    "execute": Operation.EXECUTE_SELECT,
    "execute_query": Operation.EXECUTE_SELECT,
    "query": Operation.EXECUTE_SELECT,
}


def parse_name(text: str, what: str) -> str:
    """The name of a database, environment, role or group; `what` says which in the message. `*` is not a name."""
    if _NAME.fullmatch(text) is None:
        raise Invalid(
            f"{what} {_shown(text)} is not a valid name",
            hint="1 to 63 characters: a lower-case letter, then lower-case letters, digits, `_` or `-`",
        )
    return text


def parse_operation(text: str) -> Operation:
    """An operation or one of its aliases; empty text means `execute_select`."""
    if text in _ALIASES:
        return _ALIASES[text]
    try:
        return Operation(text)
    except ValueError:
        raise Invalid(f"unknown operation {_shown(text)}", hint="one of: " + ", ".join(Operation)) from None


def parse_selector(text: str) -> Selector:
    """`role:x`, `group:x`, `user:x` or `requester`. The value is kept as written: user ids are case-sensitive."""
    if text == SelectorKind.REQUESTER:
        return Selector(SelectorKind.REQUESTER)
    kind, colon, value = text.partition(":")
    known = kind in (SelectorKind.ROLE, SelectorKind.GROUP, SelectorKind.USER)
    sound = 0 < len(value) <= SELECTOR_VALUE_MAX and value.isprintable() and value == value.strip()
    if not (known and colon and sound):
        raise Invalid(
            f"selector {_shown(text)} is not valid",
            hint="`role:<name>`, `group:<name>`, `user:<id>` or `requester`",
        )
    return Selector(SelectorKind(kind), value)


def _shown(text: str) -> str:
    """Quoted, escaped and short: what was sent goes into messages and logs."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")
