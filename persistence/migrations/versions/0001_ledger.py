"""The ledger: accounts, double-entry rows, grants, generations, refills and usage events."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import context, op

from persistence.migrations import ledger_sql

revision: Final = "0001"
down_revision: Final = None
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    """Create the ledger, with the number of shards that it keeps for ever."""
    for statement in ledger_sql.CREATE:
        op.execute(statement)
    shards = int(context.config.attributes["shards"])
    op.get_bind().execute(sa.text(ledger_sql.SEED_LEDGER), {"shards": shards})
    op.get_bind().execute(sa.text(ledger_sql.SEED_SHARDS), {"last": shards - 1})
    op.execute(ledger_sql.SEED_LEDGER_ACCOUNTS)


def downgrade() -> None:
    """Refuse: a ledger is never dropped by a migration."""
    raise NotImplementedError("the first revision holds the credits of all accounts")
