"""Indexes for the filters of the audit log that were without one."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
additive = True


def upgrade() -> None:
    op.create_index("ix_audit_events_database_name_environment", "audit_events", ["database_name", "environment"])
    op.create_index("ix_audit_events_outcome", "audit_events", ["outcome"])
