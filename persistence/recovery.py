"""Recovery: what happens when a Redis, or what a shard has in it, can no longer be trusted.

Nothing of a lost Redis is read or believed again: what was acknowledged is in the journals of the
sidecars, and what was not is done again by those who asked. Shard by shard, this is the story:

1. *Noticed.* The opener (`opening.py`) sees that a fence is gone or foreign, or that another Redis
   process answers. Or a job finds what cannot be, and makes the shard `suspect`: see `Cause`.
2. *Given up.* One transaction takes the shard to its next epoch, in which nothing of the old one
   counts, and writes down whom it waits for: every sidecar that may hold a journal (`give_up`).
   The generations of older epochs are superseded by that alone; nothing is lent to them any more.
3. *Fenced.* The new fence goes to Redis. Sidecars see it, and decide in the new epoch only.
4. *Drained.* Each sidecar hands in its journal, then its mark. The flusher posts both in one
   transaction; when the last mark is in the ledger the shard is open again (`finish_drains`).
5. *Reopened.* Now the ledger knows all that was spent. What is left of an account's old generation
   comes back to it, and is lent to the next one (`reopening.py`).

This file is the ledger's part of the steps 1 to 4. A worker that dies between 2 and 3 leaves a
fence that does not fit, and the next one begins at 1.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as SQL_UUID

from persistence.database import in_transaction, now_ms
from persistence.fences import RedisProcess
from sidecar.metrics import WorkerMetrics

_log: Final = logging.getLogger(__name__)


class Cause(StrEnum):
    """Why a shard's Redis is given up."""

    RESTARTED = "redis_restarted"
    PROMOTED = "redis_promoted"
    MOVED = "slot_moved"
    """Another node of the cluster has it; the one that had it is still there."""
    FENCE_MISSING = "fence_missing"
    FENCE_DIFFERS = "fence_differs"
    INTERRUPTED = "interrupted"
    """A worker gave it up and died before the fence was written."""
    GAP = "gap"
    """An event has not the number after the one before it."""
    REGRESSION = "regression"
    """Another event has a number that was used."""
    STREAM_SHORT = "stream_short"
    """The stream lacks entries that were written to it."""
    LEDGER_PROMOTED = "ledger_promoted"
    """Postgres was promoted or restored: commits that Redis knows of may be lost."""
    LEDGER_BEHIND = "ledger_behind"
    """Redis has an epoch or a generation that the ledger does not have: it went back in time."""
    REFILL_AHEAD = "refill_ahead"
    """Redis has a refill that the ledger does not know: the ledger went back in time."""
    REFILL_BEHIND = "refill_behind"
    """Redis lacks a refill that it had: an account in it went back in time."""
    ACCOUNT_MISSING = "account_missing"
    """Redis has not, or not in this life, an account that the ledger lent to."""
    REBUILD = "rebuild"
    """An operator said so."""


@dataclass(frozen=True, slots=True)
class Drained:
    """A shard whose journals are all in: since when it was known to be lost, and why."""

    shard: int
    epoch: int
    cause: str
    seconds: float


def suspect(connection: Connection, shard: int, epoch: int, cause: Cause) -> bool:
    """Mark a shard to be given up, if `epoch` is its present one; tell whether that was news."""
    values = {"shard": shard, "epoch": epoch, "cause": cause.value}
    return connection.execute(_SUSPECT, values).rowcount > 0


def suspect_refill_ahead(connection: Connection, account: str, gen: int, refill_no: int) -> bool:
    """Mark the shard of a generation when Redis has a refill that the ledger never wrote."""
    values = {"account": account, "gen": gen, "refill_no": refill_no}
    values["cause"] = Cause.REFILL_AHEAD.value
    return connection.execute(_SUSPECT_AHEAD, values).rowcount > 0


def rebuild(engine: Engine, shards: Sequence[int] | None = None) -> int:
    """Give up what Redis has of these shards, or of all; return of how many.

    The opener of any worker does it; accounts are away for about a second, as after a restart.
    """

    return in_transaction(engine, lambda c: suspect_all(c, Cause.REBUILD, shards))


def suspect_all(connection: Connection, cause: Cause, shards: Sequence[int] | None = None) -> int:
    """Mark these shards, or all, to be given up; return of how many that was news."""
    values = {"shards": None if shards is None else list(shards), "cause": cause.value}
    return connection.execute(_SUSPECT_ALL, values).rowcount


def give_up(
    connection: Connection,
    epochs: Mapping[int, int],
    causes: Mapping[int, Cause],
    by: Mapping[int, RedisProcess],
) -> None:
    """Begin new epochs of shards, decided by these processes, that wait for all journals.

    The caller holds the opening lock alone and the shards' rows.
    """
    order = sorted(epochs)
    values = {
        "shards": order,
        "epochs": [epochs[shard] for shard in order],
        "causes": [causes[shard].value for shard in order],
        "run_ids": [by[shard].run_id for shard in order],
        "replids": [by[shard].replid for shard in order],
        "now": now_ms(),
    }
    connection.execute(_BEGIN_EPOCHS, values)
    connection.execute(_FORGET_DRAINS, values)
    connection.execute(_BEGIN_DRAINS, values)
    connection.execute(_BEGIN_RECOVERIES, values)


def hand_in(connection: Connection, shard: int, epoch: int, sidecars: Sequence[UUID]) -> int:
    """Write down that these sidecars' journals are in the ledger; return for how many it is news.

    The caller holds the shard's row.
    """
    values = {"shard": shard, "epoch": epoch, "sidecars": list(sidecars), "now": now_ms()}
    return connection.execute(_HAND_IN, values).rowcount


def finish_drains(connection: Connection, shards: Sequence[int]) -> list[Drained]:
    """Open those of `shards` that wait for no journal any more; return them."""
    values = {"shards": list(shards), "now": now_ms()}
    rows = connection.execute(_FINISH, values)
    return [Drained(row.shard, row.epoch, row.cause, row.waited_ms / 1000) for row in rows]


def report_drained(drained: Sequence[Drained], metrics: WorkerMetrics) -> None:
    """Count and log shards that are open again. Call when it is committed."""
    for one in drained:
        metrics.recovery_seconds.observe(max(one.seconds, 0.0))
    if drained:
        fields = {
            "shards": len(drained),
            "causes": ", ".join(sorted({one.cause for one in drained})),
            "seconds": round(max(one.seconds for one in drained), 3),
        }
        _log.warning("every journal is in: the shards' accounts can be reopened", extra=fields)


def waiting_for(connection: Connection) -> dict[str, int]:
    """Return the names of the sidecars that shards wait for, each with the number of shards."""
    return {row.name: int(row.shards) for row in connection.execute(_WAITING_FOR)}


_INTS: Final = ARRAY(sa.Integer)
_SHARD_LIST: Final = sa.bindparam("shards", type_=_INTS)
_EPOCH_LIST: Final = sa.bindparam("epochs", type_=_INTS)

_SUSPECT: Final = sa.text(
    """
    UPDATE shards SET state = 'suspect', cause = :cause
    WHERE shard = :shard AND epoch = :epoch AND epoch > 0 AND state <> 'suspect'
    """
)

_SUSPECT_AHEAD: Final = sa.text(
    """
    UPDATE shards s SET state = 'suspect', cause = :cause FROM generations g
    WHERE g.account = :account AND g.gen = :gen AND g.refill_no < :refill_no
        AND s.shard = g.shard AND s.epoch = g.epoch AND s.state <> 'suspect'
    """
)

_SUSPECT_ALL: Final = sa.text(
    """
    UPDATE shards SET state = 'suspect', cause = :cause
    WHERE epoch > 0 AND state <> 'suspect'
        AND (CAST(:shards AS integer[]) IS NULL OR shard = ANY(:shards))
    """
).bindparams(_SHARD_LIST)

_BEGIN_EPOCHS: Final = sa.text(
    """
    UPDATE shards s SET epoch = v.epoch, cursor = '0-0', flushed_events = 0, state = 'draining',
        is_fenced = false, run_id = v.run_id, replid = v.replid, cause = NULL
    FROM unnest(:shards, :epochs, :run_ids, :replids) AS v (shard, epoch, run_id, replid)
    WHERE s.shard = v.shard
    """
).bindparams(
    _SHARD_LIST,
    _EPOCH_LIST,
    *(sa.bindparam(name, type_=ARRAY(sa.Text)) for name in ("run_ids", "replids")),
)

# Nobody waits in an epoch that is no more.
_FORGET_DRAINS: Final = sa.text(
    """
    DELETE FROM drains d USING unnest(:shards, :epochs) AS v (shard, epoch)
    WHERE d.shard = v.shard AND d.epoch < v.epoch
    """
).bindparams(_SHARD_LIST, _EPOCH_LIST)

_BEGIN_DRAINS: Final = sa.text(
    """
    INSERT INTO drains (shard, epoch, sidecar, created_ms)
    SELECT v.shard, v.epoch, c.id, :now
    FROM unnest(:shards, :epochs) AS v (shard, epoch) CROSS JOIN sidecars c
    WHERE c.state = 'alive'
    """
).bindparams(_SHARD_LIST, _EPOCH_LIST)

_BEGIN_RECOVERIES: Final = sa.text(
    """
    INSERT INTO recoveries (shard, epoch, cause, noticed_ms)
    SELECT v.shard, v.epoch, v.cause, :now
    FROM unnest(:shards, :epochs, :causes) AS v (shard, epoch, cause)
    """
).bindparams(_SHARD_LIST, _EPOCH_LIST, sa.bindparam("causes", type_=ARRAY(sa.Text)))

_HAND_IN: Final = sa.text(
    """
    UPDATE drains SET handed_in_ms = :now
    WHERE shard = :shard AND epoch = :epoch AND sidecar = ANY(:sidecars) AND handed_in_ms IS NULL
    """
).bindparams(sa.bindparam("sidecars", type_=ARRAY(SQL_UUID(as_uuid=True))))

_FINISH: Final = sa.text(
    """
    WITH finished AS (
        UPDATE shards s SET state = 'open'
        WHERE s.shard = ANY(:shards) AND s.state = 'draining' AND s.is_fenced AND NOT EXISTS (
            SELECT FROM drains d
            WHERE d.shard = s.shard AND d.epoch = s.epoch AND d.handed_in_ms IS NULL)
        RETURNING s.shard, s.epoch
    )
    UPDATE recoveries r SET drained_ms = :now FROM finished f
    WHERE r.shard = f.shard AND r.epoch = f.epoch
    RETURNING r.shard, r.epoch, r.cause, :now - r.noticed_ms AS waited_ms
    """
).bindparams(_SHARD_LIST)

_WAITING_FOR: Final = sa.text(
    """
    SELECT c.name || ' (' || c.id || ')' AS name, count(*) AS shards
    FROM drains d
    JOIN shards s ON s.shard = d.shard AND s.epoch = d.epoch AND s.state <> 'open'
    JOIN sidecars c ON c.id = d.sidecar
    WHERE d.handed_in_ms IS NULL GROUP BY c.id ORDER BY c.name
    """
)
