"""What server processes tell each other of the calls they counted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
additive = True


def upgrade() -> None:
    op.create_table(
        "allowances",
        sa.Column("minute", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("process", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("minute", "process", "name", name="pk_allowances"),
    )
