"""Recovery: who holds journals, what a lost Redis waits for, and how a generation is closed."""

from __future__ import annotations

from typing import Final

from alembic import op

revision: Final = "0003"
down_revision: Final = "0002"
branch_labels: Final = None
depends_on: Final = None

_SHARDS: Final = (
    "ALTER TABLE shards ADD run_id text, ADD replid text,"
    " ADD is_fenced boolean NOT NULL DEFAULT false, ADD cause text",
    "ALTER TABLE shards DROP CONSTRAINT shards_state_known",
    # What was lost or frozen until now is given up, and its accounts are reopened.
    "UPDATE shards SET state = 'suspect', cause = 'rebuild' WHERE state = 'lost'"
    " OR shard IN (SELECT shard FROM generations WHERE state = 'frozen')",
    "ALTER TABLE shards ADD CONSTRAINT shards_state_known"
    " CHECK (state IN ('open', 'draining', 'suspect'))",
)

_SIDECARS: Final = """
CREATE TABLE sidecars (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    boot text NOT NULL,
    state text NOT NULL CONSTRAINT sidecars_state_known CHECK (state IN ('alive', 'gone', 'dead')),
    registered_ms bigint NOT NULL,
    seen_ms bigint NOT NULL,
    ended_ms bigint,
    reason text
)
"""

_DRAINS: Final = """
CREATE TABLE drains (
    shard integer NOT NULL,
    epoch integer NOT NULL,
    sidecar uuid NOT NULL REFERENCES sidecars,
    created_ms bigint NOT NULL,
    handed_in_ms bigint,
    PRIMARY KEY (shard, epoch, sidecar)
)
"""

_RECOVERIES: Final = """
CREATE TABLE recoveries (
    shard integer NOT NULL,
    epoch integer NOT NULL,
    cause text NOT NULL,
    noticed_ms bigint NOT NULL,
    drained_ms bigint,
    PRIMARY KEY (shard, epoch)
)
"""

_INDEXES: Final = (
    "CREATE INDEX sidecars_alive ON sidecars (id) WHERE state = 'alive'",
    "CREATE INDEX drains_pending ON drains (sidecar) WHERE handed_in_ms IS NULL",
    "CREATE INDEX generations_live ON generations (shard, epoch) WHERE state <> 'closed'",
    "DROP INDEX generations_shard",
    "DROP INDEX refills_pending",
    "CREATE INDEX refills_pending ON refills (created_ms, account)"
    " WHERE applied_ms IS NULL AND voided_ms IS NULL",
)

_GENERATIONS: Final = (
    "ALTER TABLE generations ADD residue bigint NOT NULL DEFAULT 0, ADD closed_ms bigint",
    "ALTER TABLE refills ADD voided_ms bigint",
    # One number may be used twice in a generation when Redis went back in time.
    "ALTER TABLE duplicate_events DROP CONSTRAINT duplicate_events_pkey",
    "ALTER TABLE duplicate_events ADD PRIMARY KEY (account, generation, seq, event_id)",
    "ALTER TABLE transfers DROP CONSTRAINT transfers_kind_known",
    "ALTER TABLE transfers ADD CONSTRAINT transfers_kind_known CHECK (kind IN ("
    "'grant', 'adjustment', 'lend', 'usage', 'refund', 'expire', 'return', 'suspense', 'residue'))",
)


def upgrade() -> None:
    """Create the three tables, and give shards and generations what recovery needs."""
    statements = (*_SHARDS, _SIDECARS, _DRAINS, _RECOVERIES, *_GENERATIONS, *_INDEXES)
    for statement in statements:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: closed generations have no place in the schema before."""
    raise NotImplementedError("restore a backup from before revision 0003 instead")
