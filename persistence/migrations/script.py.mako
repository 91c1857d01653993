"""${message}"""

from __future__ import annotations

from typing import Final

from alembic import op

revision: Final = ${repr(up_revision)}
down_revision: Final = ${repr(down_revision)}
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    """${message}"""
    ${upgrades if upgrades else "op.execute('')"}
