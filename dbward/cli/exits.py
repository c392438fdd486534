"""How a command ends: its exit status, and the outcome that output and status are made from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from dbward.errors import Conflict, DbwardError, Missing, Refused, Unauthorized


class Exit(IntEnum):
    """The exit statuses. `PENDING` shares its number with usage errors: nothing went wrong, but nothing ran either."""

    OK = 0
    FAILED = 1
    USAGE = 2
    PENDING = 2
    TIMEOUT = 124
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command came to. `data` may stand beside an error. `said` means that the person already knows why."""

    data: Any = None
    exit: Exit = Exit.OK
    code: str | None = None
    message: str | None = None
    hint: str | None = None
    said: bool = False

    @property
    def ok(self) -> bool:
        return self.exit is Exit.OK


class Stop(Exception):
    """Ends a command from deep inside it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message or "")
        self.outcome = outcome


def outcome_of(error: DbwardError) -> Outcome:
    """Any refusal, mistake or outage ends with status 1; its code says which it was."""
    hint = error.hint
    if isinstance(error, Unauthorized) and hint is None:
        hint = "the server does not know this token, or it was revoked or has expired"
    return Outcome(exit=Exit.FAILED, code=error.code, message=error.message, hint=hint)


def usage(message: str, hint: str) -> Outcome:
    return Outcome(exit=Exit.USAGE, code="usage", message=message, hint=hint)


def health(trouble: str | None) -> Outcome:
    """Of a server or an agent, for which `trouble` is why it is not healthy, or None."""
    if trouble is None:
        return Outcome({"healthy": True})
    return Outcome({"healthy": False}, Exit.FAILED, "unhealthy", f"unhealthy: {trouble}")


class explained:  # noqa: N801 - used as a function
    """Give what the server says about a thing the codes that scripts know; `conflict`: that of a state in the way."""

    def __init__(self, conflict: str | None = None) -> None:
        self._conflict = conflict

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, DbwardError):
            return
        code = error.code
        if isinstance(error, Missing) and code == Missing.code:
            code = "not_found"
        elif isinstance(error, Refused):
            code = "forbidden"
        elif isinstance(error, Conflict) and "already approved" in error.message:
            code = "already_approved"
        elif isinstance(error, Conflict) and self._conflict is not None and code == Conflict.code:
            code = self._conflict
        raise Stop(Outcome(exit=Exit.FAILED, code=code, message=error.message, hint=error.hint)) from error
