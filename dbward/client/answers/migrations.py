"""`/api/migrations`, and what became of the migrations of an execution."""

from __future__ import annotations

from dbward.client.answers.base import Answer, Count, Time
from dbward.domain.migration import StepOutcome


class AppliedVersion(Answer):
    """One applied migration. All but `version` null: another tool applied it, or did so before dbward was there."""

    version: str
    name: str | None
    checksum: str | None
    applied_at: Time | None
    request_id: str | None


class Applied(Answer):
    """`versions` in the order of the database's own table."""

    database: str
    environment: str
    versions: list[AppliedVersion]


class MigrationStep(Answer):
    """What became of one migration in one execution; `duration_ms` null when it did not run."""

    version: str
    name: str | None
    outcome: StepOutcome
    duration_ms: Count | None
