"""The flusher: usage events from the shards' streams into the ledger.

Any number of flushers may run; a shard's row, locked with SKIP LOCKED, is all they share. One
transaction inserts the events, posts what was inserted, and moves the cursor, so that whatever is
killed in the middle, each event is in the ledger once.

Sidecars forget what the published cursor has passed. So it is published only when every entry that
the stream ever got is accounted for: what is missing in the stream is still in their journals.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import redis
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from persistence.batches import Flushed, Shard, take_shard, write_batch
from persistence.catching_up import BEHIND_SECONDS, CatchingUp
from persistence.database import now_ms
from persistence.doubt import is_doubted, told_timeline
from persistence.errors import RedisChanged, ShardBusy
from persistence.posting import Posted
from persistence.recovery import Cause, Drained, report_drained, suspect
from persistence.streams import Reading, StreamReader, entries_added, is_told
from sidecar import keys
from sidecar.metrics import WorkerMetrics
from sidecar.nodes import RedisNodes

_log: Final = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 0.02
_SAY_AGAIN_SECONDS: Final = 5.0
_TRIM_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class FlushResult:
    """What one flush of a shard did. `is_more`: the batch was full, there may be another.

    `events` are all entries, `marks` those by which a sidecar's journal is handed in.
    """

    shard: int
    events: int = 0
    inserted: int = 0
    duplicates: int = 0
    replayed: int = 0
    dead: int = 0
    marks: int = 0
    is_more: bool = False
    drained: tuple[Drained, ...] = ()


class Flusher:
    """Flushes shards. One instance belongs to one thread."""

    def __init__(
        self,
        engine: Engine,
        nodes: RedisNodes,
        metrics: WorkerMetrics,
        *,
        batch_events: int = 5_000,
        keep_seconds: int = 60,
        behind_seconds: float = BEHIND_SECONDS,
    ) -> None:
        self._engine = engine
        self._nodes = nodes
        self._reader = StreamReader(nodes)
        self._metrics = metrics
        self._batch_events = batch_events
        self._keep_ms = keep_seconds * 1000
        self._published: dict[int, str] = {}
        self._forget_at = 0.0
        self._trim_at = 0.0
        self._told = ""
        self._catching_up = CatchingUp(metrics, behind_seconds=behind_seconds)

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
            except (ShardBusy, RedisChanged):
                continue  # another flusher has it; or the opener is about to give it up
            except (sa.exc.SQLAlchemyError, psycopg.Error, redis.RedisError) as error:
                failed = failed or error
        # One line for all shards of a lost Redis.
        report_drained([one for result in results for one in result.drained], self._metrics)
        if failed is not None:
            raise failed
        return results

    def drain(self, deadline: float) -> bool:
        """Flush until no shard has events or `time.monotonic()` passes `deadline`; tell which."""
        while time.monotonic() < deadline:
            if not self._behind():
                return True
            if not self.run_once():
                time.sleep(_PAUSE_SECONDS)  # others have these shards
        return not self._behind()

    def flush_shard(self, shard: int) -> FlushResult:
        """Flush one batch of a shard.

        Raises `ShardBusy` when another flusher has it, and `RedisChanged` when the Redis that
        answers is not the one that decided for it.
        """
        started = time.perf_counter()
        with self._engine.begin() as connection:
            # A row that someone else holds for long must not hold up the other shards.
            connection.execute(_LOCK_TIMEOUT)
            state = take_shard(connection, shard)
            if state.state != "suspect" and is_doubted(connection, self._told):
                raise ShardBusy("the ledger is in doubt: the shard is to be suspect first")
            place = (shard, state.epoch, state.cursor)
            reading = self._reader.read(*place, self._batch_events, state.process)
            flushed = self._flush(connection, state, reading)
        if flushed is None:
            return FlushResult(shard)
        if flushed.cause is None and flushed.is_complete:
            last_id = reading.entries[-1][0].decode()
            self._publish([(shard, state.epoch, last_id)])
        result = _result(shard, reading, flushed, self._batch_events)
        self._count(result, time.perf_counter() - started)
        _report(shard, flushed)
        return result

    def _flush(self, connection: Connection, state: Shard, reading: Reading) -> Flushed | None:
        """Write what was read; None when there was nothing to write."""
        left = reading.added - state.flushed_events - len(reading.entries)
        is_short = left < 0 or (left > 0 and len(reading.entries) < self._batch_events)
        if reading.entries:
            flushed = write_batch(connection, state, reading, is_short=is_short)
            flushed.is_complete = left == 0 and state.state != "suspect"
            return flushed
        if is_short and suspect(connection, state.shard, state.epoch, Cause.STREAM_SHORT):
            return Flushed(Posted(), cause=Cause.STREAM_SHORT)
        return None

    def _behind(self) -> list[int]:
        """Return the shards with events that the ledger has not, those that wait longest first."""
        self._told = told_timeline(self._nodes)
        with self._engine.connect() as connection:
            rows = connection.execute(_FENCED_SHARDS).all()
        infos = self._ask(rows, lambda pipeline, stream, _: pipeline.xinfo_stream(stream))
        # The others' node is away, or they are just moving to another.
        told = [(row, info) for row, info in zip(rows, infos, strict=True) if is_told(info)]
        rows = [row for row, _ in told]
        added = {row.shard: entries_added(info) for row, info in told}
        whole = [row for row in rows if added[row.shard] == row.flushed_events]
        self._publish([(r.shard, r.epoch, r.cursor) for r in whole if r.state != "suspect"])
        self._trim()
        waiting = [row for row in rows if added[row.shard] > row.flushed_events]
        first = self._ask(waiting, lambda p, stream, row: _first_after(p, stream, row.cursor))
        oldest = {
            row.shard: int(entries[0][0].partition(b"-")[0])
            for row, entries in zip(waiting, first, strict=True)
            if entries and not isinstance(entries, Exception)
        }
        self._gauge(rows, sum(added[row.shard] - row.flushed_events for row in waiting), oldest)
        # One that lacks entries is looked at once: then it is suspect.
        short = [
            row.shard
            for row in rows
            if added[row.shard] != row.flushed_events
            and row.shard not in oldest
            and row.state != "suspect"
        ]
        return short + sorted(oldest, key=oldest.__getitem__)

    def _ask(self, rows: Sequence[Any], ask: Callable[[Any, str, Any], object]) -> list[Any]:
        def queue(pipeline: Any, row: Any) -> None:
            ask(pipeline, keys.stream(row.shard, row.epoch), row)

        return self._nodes.ask(rows, lambda row: int(row.shard), queue)

    def _gauge(self, rows: Sequence[Any], unflushed: int, oldest: dict[int, int]) -> None:
        lag_ms = now_ms() - min(oldest.values()) if oldest else 0
        flushed = sum(row.flushed_events for row in rows)
        self._catching_up.look(unflushed, max(lag_ms, 0) / 1000, flushed)

    def _publish(self, cursors: Sequence[tuple[int, int, str]]) -> None:
        """Tell sidecars how far the ledger is in the epochs of these shards, unless they know."""
        if time.monotonic() >= self._forget_at:
            # Someone may have deleted the keys.
            self._published.clear()
            self._forget_at = time.monotonic() + _SAY_AGAIN_SECONDS
        news = {
            shard: f"{epoch} {last_id}"
            for shard, epoch, last_id in cursors
            if self._published.get(shard) != f"{epoch} {last_id}"
        }
        if not news:
            return
        try:
            replies = self._nodes.ask(
                list(news),
                int,
                lambda pipeline, shard: pipeline.set(keys.cursor(shard), news[shard]),
            )
        except redis.RedisError as error:
            replies = [error] * len(news)
        said = [
            s for s, reply in zip(news, replies, strict=True) if not isinstance(reply, Exception)
        ]
        self._published |= {shard: news[shard] for shard in said}
        if len(said) < len(news):
            # The ledger has it; the next look says it again.
            _log.warning("cursors not published", extra={"shards": len(news) - len(said)})

    def _trim(self) -> None:
        """Drop what the ledger has held for long enough: after a fail-over it may have it no more.

        Also where nothing new comes: Redis may be too full for anything new.
        """
        if time.monotonic() < self._trim_at:
            return
        self._trim_at = time.monotonic() + min(_TRIM_SECONDS, self._keep_ms / 1000)
        with self._engine.connect() as connection:
            rows = connection.execute(_HELD, {"before": now_ms() - self._keep_ms}).all()
        with contextlib.suppress(redis.RedisError):
            self._ask(rows, lambda p, stream, row: p.xtrim(stream, minid=row.last_id))

    def _count(self, result: FlushResult, seconds: float) -> None:
        self._metrics.flush_seconds.observe(seconds)
        self._metrics.flush_batch_events.observe(result.events)
        for outcome in ("inserted", "duplicates", "replayed", "dead"):
            self._metrics.flushed_events.labels(outcome).inc(getattr(result, outcome))


def _first_after(pipeline: Any, stream: str, cursor: str) -> None:
    pipeline.xrange(stream, f"({cursor}", "+", count=1)


def _result(shard: int, reading: Reading, flushed: Flushed, full: int) -> FlushResult:
    posted = flushed.posted
    return FlushResult(
        shard,
        events=len(reading.entries),
        inserted=len(posted.rows),
        duplicates=len(posted.duplicates),
        replayed=posted.replayed,
        dead=len(posted.dead),
        marks=flushed.marks,
        is_more=len(reading.entries) >= full,
        drained=tuple(flushed.drained),
    )


def _report(shard: int, flushed: Flushed) -> None:
    posted = flushed.posted
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
    if flushed.cause is not None:
        _log.critical("Redis lost events", extra={"shard": shard, "cause": flushed.cause.value})


_LOCK_TIMEOUT: Final = sa.text("SET LOCAL lock_timeout = '2s'")

# The last entry that was in the ledger some time ago, of each shard whose Redis is trusted.
_HELD: Final = sa.text(
    """
    SELECT s.shard, s.epoch, b.last_id FROM shards s CROSS JOIN LATERAL (
        SELECT last_id FROM flush_batches b
        WHERE b.shard = s.shard AND b.epoch = s.epoch AND b.at_ms <= :before
        ORDER BY b.batch_no DESC LIMIT 1) b
    WHERE s.is_fenced AND s.state <> 'suspect'
    """
)

_FENCED_SHARDS: Final = sa.text(
    "SELECT shard, epoch, state, cursor, flushed_events FROM shards"
    " WHERE is_fenced AND epoch > 0 ORDER BY shard"
)
