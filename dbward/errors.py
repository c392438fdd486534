"""Every error dbward raises on purpose.

DbwardError(message, code, hint)
├─ Invalid        what was sent is wrong                            400
│  └─ TooLarge    it is over a stated size                          413
├─ Unauthorized   who is asking is not known                        401
├─ Refused        known, but policy, role or state says no          403
├─ Missing        no such thing, or not visible                     404
├─ Conflict       the thing is no longer in the state this needs    409
│  └─ LostRace    a guarded update found another status
├─ Gone           it was there; its time has passed                 410
├─ RateLimited    too many at once                                  429
├─ Unavailable    not now; trying later is right                    503
└─ Misconfigured  a setting, a file or the machine is wrong         (start-up, exit 1)

`code` is stable and documented in docs/reference/errors.md; `hint` says what to do next; `detail` holds facts for a
program. `web.errors` maps a branch to its HTTP status, `dbward.cli.exits` to an exit status; nothing below those two
knows either.
"""

from __future__ import annotations

from typing import Any


class DbwardError(Exception):
    """Base of all expected errors; `message` is written for the person who made the call."""

    code = "internal_error"

    def __init__(
        self, message: str, *, code: str | None = None, hint: str | None = None, detail: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.hint = hint
        self.detail = detail


class Invalid(DbwardError):
    code = "validation.failed"


class TooLarge(Invalid):
    code = "payload.too_large"


class Unauthorized(DbwardError):
    code = "unauthorized"


class Refused(DbwardError):
    code = "forbidden"


class Missing(DbwardError):
    code = "request.not_found"


class Conflict(DbwardError):
    code = "request.conflict"


class LostRace(Conflict):
    """A guarded update hit no row: somebody else moved it first."""


class Gone(DbwardError):
    code = "request.gone"


class RateLimited(DbwardError):
    """`retry_after`: whole seconds after which the same call will be let through, where that is known."""

    code = "rate_limited"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        detail: dict[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint, detail=detail)
        self.retry_after = retry_after


class Unavailable(DbwardError):
    code = "service_unavailable"


class Misconfigured(DbwardError):
    code = "config_error"
