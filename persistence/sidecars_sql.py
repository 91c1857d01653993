"""What the registry asks and tells the ledger of sidecars."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

_COLUMNS: Final = """
    c.id, c.name, c.boot, c.state, c.registered_ms, c.seen_ms, c.ended_ms, c.reason,
    (SELECT count(*) FROM drains d JOIN shards s ON s.shard = d.shard AND s.epoch = d.epoch
        WHERE d.sidecar = c.id AND d.handed_in_ms IS NULL) AS pending
"""

SIDECARS: Final = sa.text(f"SELECT {_COLUMNS} FROM sidecars c WHERE c.state <> 'gone'")

ALL_SIDECARS: Final = sa.text(
    f"""
    SELECT {_COLUMNS} FROM sidecars c
    WHERE c.state <> 'gone' OR CAST(:with_gone AS boolean) ORDER BY c.name, c.registered_ms
    """
)

SHARDS: Final = sa.text(
    """
    SELECT shard, epoch, run_id, replid, flushed_events, state = 'open' AND is_fenced AS is_whole
    FROM shards ORDER BY shard
    """
)

ENTER: Final = sa.text(
    """
    INSERT INTO sidecars (id, name, boot, state, registered_ms, seen_ms)
    VALUES (:id, :name, :boot, 'alive', :now, :now)
    ON CONFLICT (id) DO UPDATE SET name = :name, boot = :boot, state = 'alive',
        registered_ms = :now, seen_ms = :now, ended_ms = NULL, reason = NULL
    """
)

SEEN: Final = sa.text("UPDATE sidecars SET seen_ms = :now WHERE id = :id")

LOCK_DRAINING: Final = sa.text(
    "SELECT shard FROM shards WHERE state = 'draining' ORDER BY shard FOR SHARE"
)

WAIT_FOR: Final = sa.text(
    """
    INSERT INTO drains (shard, epoch, sidecar, created_ms)
    SELECT s.shard, s.epoch, :id, :now FROM shards s WHERE s.shard = ANY(:shards)
    ON CONFLICT DO NOTHING
    """
).bindparams(sa.bindparam("shards", type_=ARRAY(sa.Integer)))

END: Final = sa.text(
    """
    UPDATE sidecars SET state = :state, ended_ms = :now, reason = :reason
    WHERE id = :id AND state = 'alive'
    """
)

LOCK_WAITING: Final = sa.text(
    """
    SELECT s.shard FROM shards s
    WHERE s.shard IN (
        SELECT d.shard FROM drains d WHERE d.sidecar = :id AND d.handed_in_ms IS NULL)
    ORDER BY s.shard FOR NO KEY UPDATE
    """
)

# Not as if it had handed them in: if it comes back while they drain, they wait for it again.
STOP_WAITING: Final = sa.text("DELETE FROM drains WHERE sidecar = :id AND handed_in_ms IS NULL")

LEAVE: Final = sa.text(
    """
    UPDATE sidecars c SET state = 'gone', ended_ms = :now, reason = 'gave no sign of life'
    WHERE c.id = :id AND c.state = 'alive' AND c.registered_ms = :registered_ms AND NOT EXISTS (
        SELECT FROM drains d JOIN shards s ON s.shard = d.shard AND s.epoch = d.epoch
        WHERE d.sidecar = c.id AND d.handed_in_ms IS NULL)
    """
)
