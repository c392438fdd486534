"""What is known about people."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
additive = True


def _utc() -> sa.DateTime:
    """SQLite keeps times as text of fixed width."""
    return sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.add_column("users", sa.Column("display_name", sa.String(200), nullable=True))
    op.add_column("users", sa.Column("email", sa.String(320), nullable=True))
    op.add_column("users", sa.Column("slack_user_id", sa.String(32), nullable=True))
    op.add_column("users", sa.Column("last_seen_at", _utc(), nullable=True))
    op.add_column("users", sa.Column("suspended_by", sa.String(128), nullable=True))
    op.add_column("users", sa.Column("deleted_at", _utc(), nullable=True))
    op.create_index("uq_users_slack_user_id", "users", ["slack_user_id"], unique=True)
