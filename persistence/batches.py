"""One batch of a shard in the ledger: its events posted, its row chained, its cursor moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection

from persistence.chain import batch_hash, rows_digest, transfers_digest
from persistence.database import now_ms
from persistence.errors import ShardBusy
from persistence.fences import RedisProcess
from persistence.letters import BatchKey, write_letter
from persistence.posting import Posted, Posting
from persistence.recovery import Cause, Drained, finish_drains, hand_in
from persistence.streams import Reading, sorted_out
from persistence.tables import flush_batches
from persistence.watching import watch


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard's row, locked: where its flush goes on, and which Redis decided for it."""

    shard: int
    epoch: int
    state: str
    cursor: str
    flushed_events: int
    last_batch: int
    last_hash: bytes
    process: RedisProcess


@dataclass(slots=True)
class Flushed:
    """What one transaction did.

    `is_complete`: every entry that the stream ever got is in the ledger. `cause`: why the shard's
    Redis is to be given up, if it is.
    """

    posted: Posted
    is_complete: bool = False
    marks: int = 0
    drained: list[Drained] = field(default_factory=list)
    cause: Cause | None = None


def take_shard(connection: Connection, shard: int) -> Shard:
    """Lock a shard's row and return it. Raises `ShardBusy` when another flusher has it."""
    row = connection.execute(_TAKE, {"shard": shard}).one_or_none()
    if row is None:
        raise ShardBusy(f"shard {shard} is flushed by another worker or is not open")
    return Shard(
        shard=row.shard,
        epoch=row.epoch,
        state=row.state,
        cursor=row.cursor,
        flushed_events=int(row.flushed_events),
        last_batch=int(row.last_batch),
        last_hash=bytes(row.last_hash),
        process=RedisProcess(row.run_id, row.replid),
    )


def write_batch(
    connection: Connection, state: Shard, reading: Reading, *, is_short: bool
) -> Flushed:
    """Post a batch, chain it to the one before, and do what its other entries say.

    They say whose journals are in, and who has run low.
    """
    key = BatchKey(state.shard, state.last_batch + 1, now_ms())
    batch = sorted_out(reading.entries)
    posted = Posting(connection, key).post(batch.events) if batch.events else Posted()
    for letter in batch.unreadable:
        write_letter(connection, key, letter)
    posted.dead += batch.unreadable
    flushed = Flushed(posted, cause=Cause.STREAM_SHORT if is_short else posted.cause)
    _chain(connection, state, key, reading, flushed)
    sidecars = [sidecar for sidecar, epoch in batch.marks if epoch == state.epoch]
    if sidecars:
        flushed.marks = hand_in(connection, state.shard, state.epoch, sidecars)
        flushed.drained = finish_drains(connection, [state.shard])
    # Last: what others lock for a look must not keep what was locked here waiting for long.
    watch(connection, batch.rings, key.at_ms)
    return flushed


def _chain(
    connection: Connection, state: Shard, key: BatchKey, reading: Reading, flushed: Flushed
) -> None:
    """Write the batch's row with its hash, and move the shard's cursor."""
    entries, posted = reading.entries, flushed.posted
    first_id, last_id = entries[0][0].decode(), entries[-1][0].decode()
    rows, transfers = rows_digest(posted.rows), transfers_digest(posted.transfers)
    digest = batch_hash(state.last_hash, rows, transfers)
    connection.execute(
        flush_batches.insert().values(
            shard=key.shard,
            batch_no=key.batch,
            epoch=state.epoch,
            first_id=first_id,
            last_id=last_id,
            events=len(entries),
            inserted=len(posted.rows),
            amount=sum(row.event.amount for row in posted.rows),
            at_ms=key.at_ms,
            prev_hash=state.last_hash,
            hash=digest,
        )
    )
    moved = {
        "shard": key.shard,
        "cursor": last_id,
        "events": len(entries),
        "batch": key.batch,
        "hash": digest,
        "cause": flushed.cause.value if flushed.cause else None,
    }
    connection.execute(_MOVE_CURSOR, moved)


_TAKE: Final = sa.text(
    """
    SELECT shard, epoch, state, cursor, flushed_events, last_batch, last_hash, run_id, replid
    FROM shards WHERE shard = :shard AND is_fenced AND epoch > 0
    FOR NO KEY UPDATE SKIP LOCKED
    """
)

_MOVE_CURSOR: Final = sa.text(
    """
    UPDATE shards SET cursor = :cursor, flushed_events = flushed_events + :events,
        last_batch = :batch, last_hash = :hash,
        state = CASE WHEN CAST(:cause AS text) IS NULL THEN state ELSE 'suspect' END,
        cause = CASE state WHEN 'suspect' THEN cause ELSE :cause END
    WHERE shard = :shard
    """
)
