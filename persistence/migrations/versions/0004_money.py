"""Money: orders, refunds, disputes, plans, subscriptions, auto top-up, alerts, the reconciler."""

from __future__ import annotations

from typing import Final

from alembic import op

from persistence.migrations.money_sql import CREATE

revision: Final = "0004"
down_revision: Final = "0003"
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    """Create the tables, and let grants end earlier or later than they were made to."""
    for statement in CREATE:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: what was clawed back has no place in the schema before."""
    raise NotImplementedError("restore a backup from before revision 0004 instead")
