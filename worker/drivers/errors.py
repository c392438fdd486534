"""Why a statement did not run, or did not finish.

DbwardError
├─ Unreachable          no connection: nothing was sent                          database.unreachable
├─ CredentialsRefused   the database refused this user: trying again is no use   database.credentials_refused
├─ StatementFailed      the database or a limit said no; nothing was committed   statement.failed, connection.lost …
│  ├─ StatementTimeout  over the statement timeout, stopped and rolled back      statement.timeout
│  └─ ResultTooLarge    one row alone is over the byte cap                       result.row_too_large
├─ StatementCancelled   stopped on request and rolled back                       statement.cancelled
└─ OutcomeUnknown       sent, and whether it took effect cannot be known         outcome.unknown

One exception to "nothing was committed": where the database itself committed part of a list before it failed (DDL on
MySQL does), the code is `statement.partly_committed` and `error.detail` says what stays.
"""

from __future__ import annotations

from dbward.domain.model import StatementError
from dbward.errors import DbwardError, Refused, Unavailable

PARTLY_COMMITTED = "statement.partly_committed"
CONNECTION_LOST = "connection.lost"


class Unreachable(Unavailable):
    code = "database.unreachable"


class CredentialsRefused(Refused):
    code = "database.credentials_refused"


class _Reported(DbwardError):
    """Carries what the database said."""

    def __init__(self, error: StatementError) -> None:
        super().__init__(error.message, code=error.code, hint=error.hint)
        self.error = error


class StatementFailed(_Reported):
    code = "statement.failed"

    @property
    def partly_committed(self) -> bool:
        return self.error.code == PARTLY_COMMITTED


class StatementTimeout(StatementFailed):
    code = "statement.timeout"


class ResultTooLarge(StatementFailed):
    code = "result.row_too_large"


class StatementCancelled(_Reported):
    code = "statement.cancelled"


class OutcomeUnknown(_Reported):
    code = "outcome.unknown"
