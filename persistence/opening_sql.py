"""What the opener asks and tells the ledger of shards."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

LEDGER: Final = sa.text("SELECT ledger_id, shards FROM ledger")

ROWS: Final = sa.text(
    "SELECT shard, epoch, state, cause, run_id, replid, is_fenced FROM shards ORDER BY shard"
)

# One that is being flushed comes the next time: it must not hold up the others.
ROWS_LOCKED: Final = sa.text(f"{ROWS.text} FOR NO KEY UPDATE SKIP LOCKED")

SUSPECTS: Final = sa.text("SELECT shard, epoch FROM shards WHERE state = 'suspect' ORDER BY shard")

_SHARD_LIST: Final = sa.bindparam("shards", type_=ARRAY(sa.Integer))
_EPOCH_LIST: Final = sa.bindparam("epochs", type_=ARRAY(sa.Integer))
_PROCESSES: Final = tuple(
    sa.bindparam(name, type_=ARRAY(sa.Text)) for name in ("run_ids", "replids")
)

OPEN: Final = sa.text(
    """
    UPDATE shards s SET epoch = v.epoch, state = 'open', cursor = '0-0', flushed_events = 0,
        run_id = v.run_id, replid = v.replid, is_fenced = false, cause = NULL
    FROM unnest(:shards, :epochs, :run_ids, :replids) AS v (shard, epoch, run_id, replid)
    WHERE s.shard = v.shard
    """
).bindparams(_SHARD_LIST, _EPOCH_LIST, *_PROCESSES)

ADOPT_GENERATIONS: Final = sa.text(
    """
    UPDATE generations g SET epoch = s.epoch FROM shards s
    WHERE s.shard = ANY(:shards) AND g.shard = s.shard AND g.state = 'open' AND g.epoch <> s.epoch
    """
).bindparams(_SHARD_LIST)

ADOPT_PROCESS: Final = sa.text(
    """
    UPDATE shards s SET run_id = v.run_id, replid = v.replid, is_fenced = true
    FROM unnest(:shards, :run_ids, :replids) AS v (shard, run_id, replid)
    WHERE s.shard = v.shard
    """
).bindparams(_SHARD_LIST, *_PROCESSES)

# The flusher reads that stream from its beginning; then the shard is given up.
CATCH_UP: Final = sa.text(
    """
    UPDATE shards s SET epoch = v.epoch, cursor = '0-0', flushed_events = 0, is_fenced = true,
        run_id = v.run_id, replid = v.replid, state = 'suspect', cause = :cause
    FROM unnest(:shards, :epochs, :run_ids, :replids) AS v (shard, epoch, run_id, replid)
    WHERE s.shard = v.shard
    """
).bindparams(_SHARD_LIST, _EPOCH_LIST, *_PROCESSES)

CONFIRM: Final = sa.text(
    """
    UPDATE shards s SET is_fenced = true
    FROM unnest(:shards, :epochs) AS v (shard, epoch)
    WHERE s.shard = v.shard AND s.epoch = v.epoch AND NOT s.is_fenced
    """
).bindparams(_SHARD_LIST, _EPOCH_LIST)
