"""The flusher: usage events from the shards' streams into the ledger.

Any number of flushers may run; a shard's row, locked with SKIP LOCKED, is all they share. One
transaction inserts the events, posts what was inserted, and moves the cursor, so that whatever is
killed in the middle, each event is in the ledger once.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import redis
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from persistence.chain import batch_hash, rows_digest, transfers_digest
from persistence.database import now_ms
from persistence.errors import BadEvent, ShardBusy
from persistence.events import FIELD, decode_event
from persistence.letters import BatchKey, DeadLetter, Entry, write_letter
from persistence.posting import Posted, Posting
from persistence.tables import flush_batches
from sidecar import keys
from sidecar.metrics import WorkerMetrics

_log: Final = logging.getLogger(__name__)

RawEntry = tuple[bytes, list[bytes]]
"""A stream entry: its id, and its fields and values in turn."""


@dataclass(frozen=True, slots=True)
class FlushResult:
    """What one flush of a shard did. `is_more`: the batch was full, there may be another."""

    shard: int
    events: int = 0
    inserted: int = 0
    duplicates: int = 0
    replayed: int = 0
    dead: int = 0
    is_more: bool = False


@dataclass(frozen=True, slots=True)
class _Shard:
    shard: int
    epoch: int
    cursor: str
    last_batch: int
    last_hash: bytes


class Flusher:
    """Flushes shards. One instance belongs to one thread."""

    def __init__(
        self,
        engine: Engine,
        client: redis.Redis,
        metrics: WorkerMetrics,
        *,
        batch_events: int = 5_000,
        keep_seconds: int = 60,
    ) -> None:
        self._engine = engine
        self._redis = client
        # The same connections, without redis-py's reworking of each entry.
        self._streams = redis.Redis(connection_pool=client.connection_pool)
        self._streams.set_response_callback("XRANGE", lambda reply, **_: reply)
        self._metrics = metrics
        self._batch_events = batch_events
        self._keep_ms = keep_seconds * 1000

    def run_once(self) -> list[FlushResult]:
        """Flush one batch of every shard that has events; return what was done.

        Raises the errors of SQLAlchemy, psycopg and redis-py, the first of them when every shard
        has had its turn: a shard that cannot be flushed holds up no other. Nothing of a failed
        batch is in the ledger, and the same batch is read again the next time.
        """
        results = []
        failed: Exception | None = None
        for shard in self._behind():
            try:
                results.append(self.flush_shard(shard))
            except ShardBusy:
                continue
            except (sa.exc.SQLAlchemyError, psycopg.Error, redis.RedisError) as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return results

    def drain(self, deadline: float) -> bool:
        """Flush until no shard has events or `time.monotonic()` passes `deadline`; tell which."""
        while time.monotonic() < deadline:
            if not self._behind():
                return True
            self.run_once()
        return not self._behind()

    def flush_shard(self, shard: int) -> FlushResult:
        """Flush one batch of a shard. Raises `ShardBusy` when another flusher has it."""
        started = time.perf_counter()
        with self._engine.begin() as connection:
            # A row that someone else holds for long must not hold up the other shards.
            connection.execute(_LOCK_TIMEOUT)
            state = _take_shard(connection, shard)
            entries = self._read(state)
            if not entries:
                return FlushResult(shard)
            posted = _flush(connection, state, entries)
        self._after_commit(state, entries[-1][0].decode())
        result = _result(shard, entries, posted, self._batch_events)
        self._count(result, time.perf_counter() - started)
        _report(shard, posted)
        return result

    def _behind(self) -> list[int]:
        """Return the shards with events that the ledger has not, those that wait longest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(_OPEN_SHARDS).all()
        pipeline = self._redis.pipeline(transaction=False)
        for row in rows:
            pipeline.xrange(keys.stream(row.shard, row.epoch), f"({row.cursor}", "+", count=1)
        oldest = {}
        for row, entries in zip(rows, pipeline.execute(), strict=True):
            if entries:
                oldest[row.shard] = int(entries[0][0].partition(b"-")[0])
        self._gauge(rows, oldest)
        return sorted(oldest, key=oldest.__getitem__)

    def _gauge(self, rows: Any, oldest: dict[int, int]) -> None:
        lag_ms = now_ms() - min(oldest.values()) if oldest else 0
        self._metrics.flush_lag_seconds.set(max(lag_ms, 0) / 1000)
        pipeline = self._redis.pipeline(transaction=False)
        waiting = [row for row in rows if row.shard in oldest]
        for row in waiting:
            pipeline.xinfo_stream(keys.stream(row.shard, row.epoch))
        added = [int(info["entries-added"]) for info in pipeline.execute()]
        flushed = [int(row.flushed_events) for row in waiting]
        unflushed = sum(max(a - f, 0) for a, f in zip(added, flushed, strict=True))
        self._metrics.unflushed_events.set(unflushed)

    def _read(self, state: _Shard) -> list[RawEntry]:
        stream = keys.stream(state.shard, state.epoch)
        reply: Any = self._streams.xrange(
            stream, min=f"({state.cursor}", max="+", count=self._batch_events
        )
        return list(reply)

    def _after_commit(self, state: _Shard, last_id: str) -> None:
        """Tell sidecars how far the ledger is, and drop what it has held for long enough."""
        stream = keys.stream(state.shard, state.epoch)
        keep_from = max(int(last_id.partition("-")[0]) - self._keep_ms, 0)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(keys.cursor(state.shard), last_id)
        pipeline.xtrim(stream, minid=keep_from, approximate=True)
        try:
            pipeline.execute()
        except redis.RedisError:
            # The ledger has it; the next batch says it again.
            _log.warning("cursor not published", extra={"shard": state.shard})

    def _count(self, result: FlushResult, seconds: float) -> None:
        self._metrics.flush_seconds.observe(seconds)
        self._metrics.flush_batch_events.observe(result.events)
        for outcome in ("inserted", "duplicates", "replayed", "dead"):
            self._metrics.flushed_events.labels(outcome).inc(getattr(result, outcome))


def _take_shard(connection: Connection, shard: int) -> _Shard:
    row = connection.execute(_TAKE, {"shard": shard}).one_or_none()
    if row is None:
        raise ShardBusy(f"shard {shard} is flushed by another worker or is not open")
    return _Shard(row.shard, row.epoch, row.cursor, int(row.last_batch), bytes(row.last_hash))


def _flush(connection: Connection, state: _Shard, entries: list[RawEntry]) -> Posted:
    key = BatchKey(state.shard, state.last_batch + 1, now_ms())
    good, unreadable = _decoded(entries)
    posted = Posting(connection, key).post(good) if good else Posted()
    for letter in unreadable:
        write_letter(connection, key, letter)
    posted.dead += unreadable
    digest = batch_hash(
        state.last_hash, rows_digest(posted.rows), transfers_digest(posted.transfers)
    )
    connection.execute(
        flush_batches.insert().values(
            shard=key.shard,
            batch_no=key.batch,
            epoch=state.epoch,
            first_id=entries[0][0].decode(),
            last_id=entries[-1][0].decode(),
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
        "cursor": entries[-1][0].decode(),
        "events": len(entries),
        "batch": key.batch,
        "hash": digest,
    }
    connection.execute(_MOVE_CURSOR, moved)
    return posted


def _decoded(entries: list[RawEntry]) -> tuple[list[Entry], list[DeadLetter]]:
    good: list[Entry] = []
    unreadable: list[DeadLetter] = []
    for id, fields in entries:
        raw = fields[1] if len(fields) == 2 and fields[0] == FIELD else b"\0".join(fields)
        try:
            good.append((id.decode(), raw, decode_event(raw)))
        except BadEvent as error:
            unreadable.append(DeadLetter(id.decode(), raw, "unreadable", str(error)[:500]))
    return good, unreadable


def _result(shard: int, entries: list[RawEntry], posted: Posted, full: int) -> FlushResult:
    return FlushResult(
        shard,
        events=len(entries),
        inserted=len(posted.rows),
        duplicates=len(posted.duplicates),
        replayed=posted.replayed,
        dead=len(posted.dead),
        is_more=len(entries) >= full,
    )


def _report(shard: int, posted: Posted) -> None:
    for letter in posted.dead:
        fields = {
            "shard": shard,
            "stream_id": letter.stream_id,
            "reason": letter.reason,
            "error": letter.error,
            "account": letter.event.account if letter.event else None,
        }
        _log.error("event not posted: dead letter", extra=fields)
    if posted.duplicates:
        count = len(posted.duplicates)
        _log.warning("duplicate events given back", extra={"shard": shard, "events": count})


_LOCK_TIMEOUT: Final = sa.text("SET LOCAL lock_timeout = '2s'")

_OPEN_SHARDS: Final = sa.text(
    "SELECT shard, epoch, cursor, flushed_events FROM shards"
    " WHERE state = 'open' AND epoch > 0 ORDER BY shard"
)

_TAKE: Final = sa.text(
    """
    SELECT shard, epoch, cursor, last_batch, last_hash FROM shards
    WHERE shard = :shard AND state = 'open' AND epoch > 0
    FOR NO KEY UPDATE SKIP LOCKED
    """
)

_MOVE_CURSOR: Final = sa.text(
    """
    UPDATE shards SET cursor = :cursor, flushed_events = flushed_events + :events,
        last_batch = :batch, last_hash = :hash
    WHERE shard = :shard
    """
)
