"""What a check comes to, and how many came to what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dbward.errors import DbwardError

Status = Literal["pass", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Check:
    """`message` says what was found and `hint` how to mend it; `details` are lines below them.

    `id` is stable: scripts select by it, and docs/guides/doctor.md has a row for each. What stands behind a `:` says
    which of several things of that kind was looked at.
    """

    id: str
    status: Status
    message: str
    hint: str | None = None
    details: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        made: dict[str, Any] = {"id": self.id, "status": self.status, "message": self.message}
        if self.hint:
            made["hint"] = self.hint
        if self.details:
            made["details"] = list(self.details)
        return made


def passed(name: str, message: str, details: Iterable[str] = ()) -> Check:
    return Check(name, "pass", message, details=tuple(details))


def warned(name: str, message: str, hint: str | None = None, details: Iterable[str] = ()) -> Check:
    return Check(name, "warn", message, hint, tuple(details))


def failed(name: str, message: str, hint: str | None = None, details: Iterable[str] = ()) -> Check:
    return Check(name, "fail", message, hint, tuple(details))


def skipped(name: str, message: str) -> Check:
    return Check(name, "skip", message)


def refused(name: str, error: DbwardError, hint: str | None = None) -> Check:
    """A failure in the words of the error; `hint` where it has none."""
    first, *rest = error.message.splitlines() or [error.code]
    return failed(name, first, error.hint or hint, rest)


def summary(checks: Sequence[Check]) -> dict[str, int]:
    names: dict[str, Status] = {"passed": "pass", "warnings": "warn", "failed": "fail", "skipped": "skip"}
    return {name: sum(check.status == status for check in checks) for name, status in names.items()}
