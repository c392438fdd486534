"""A text that must not be printed by accident."""

from __future__ import annotations

from hmac import compare_digest


class Secret:
    """Holds a password, token or key; `repr`, `str` and f-strings show `***`. Only `reveal` gives it out."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> str:
        msg = "a secret is not pickled"
        raise TypeError(msg)
