"""${message}"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
additive = False  # True when servers of the revision before go on working on these tables: docs/deployment/upgrading.md


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
