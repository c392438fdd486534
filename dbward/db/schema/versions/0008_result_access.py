"""Who may read a result is asked of its request and of the policies as they are; what was noted with it is dropped."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
additive = False  # servers of the revision before it read the table


def upgrade() -> None:
    op.drop_table("result_access")
