"""What became of each migration of an execution, and questions to agents that are not about plans."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
additive = True


def upgrade() -> None:
    op.add_column("executions", sa.Column("migrations", sa.JSON()))
    op.add_column("explains", sa.Column("kind", sa.String(16), nullable=False, server_default="plans"))
