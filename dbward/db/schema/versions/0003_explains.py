"""Plans that agents are asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
additive = True


def _utc() -> sa.DateTime:
    """SQLite keeps times as text of fixed width."""
    return sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.create_table(
        "explains",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("request_id", sa.String(36), nullable=True),
        sa.Column("requested_by", sa.String(128), nullable=False),
        sa.Column("database", sa.String(63), nullable=False),
        sa.Column("environment", sa.String(63), nullable=False),
        sa.Column("dialect", sa.String(16), nullable=False),
        sa.Column("statements", sa.JSON(), nullable=False),
        sa.Column("timeout_ms", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("agent_id", sa.String(255), nullable=True),
        sa.Column("claim_id", sa.String(36), nullable=True),
        sa.Column("created_at", _utc(), nullable=False),
        sa.Column("expires_at", _utc(), nullable=False),
        sa.Column("finished_at", _utc(), nullable=True),
        sa.Column("outcome", sa.JSON(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_explains"),
        sa.ForeignKeyConstraint(["request_id"], ["requests.id"], name="fk_explains_request_id", ondelete="CASCADE"),
    )
    op.create_index("ix_explains_request_id", "explains", ["request_id"])
    op.create_index("ix_explains_status_expires_at", "explains", ["status", "expires_at"])
    op.create_index("ix_explains_requested_by_status", "explains", ["requested_by", "status"])
