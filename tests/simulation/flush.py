"""The flusher: read, commit, publish, trim; each a step. `persistence.flush` and `batches`."""

from __future__ import annotations

from collections.abc import Generator

from tests.simulation.jobs import Jobs
from tests.simulation.ledger import Ledger, Shard
from tests.simulation.posting import post
from tests.simulation.rules import BATCH, KEEP
from tests.simulation.values import Event, Mark, Steps

Entries = list[tuple[int, Event | Mark]]


class Flush(Jobs):
    """Brings events from the streams into the ledger."""

    def start(self) -> None:
        """Begin as a new process, that has flushed nothing yet."""
        super().start()
        self._flushed: list[tuple[int, int, int, int, int]] = []

    def flush(self, number: int) -> Generator[None, None, str]:
        """Flush one batch of a shard; return busy, changed, more or done: `flush_shard`."""
        ledger = self.ledger
        shard = ledger.shards[number]
        if shard.is_locked or not shard.is_fenced:
            return "busy"
        shard.is_locked = True
        try:
            epoch, cursor = shard.epoch, shard.cursor
            yield
            if self._is_in_doubt(shard):
                return "busy"  # what the ledger lent may be more than it knows
            reading = self._read(number, shard)
            if reading is None:
                return "changed"
            entries, added = reading
            self.world.note("worker: flush read", f"shard {number}/{epoch} {entries} of {added}")
            yield
            if self.ledger is not ledger or not shard.is_locked:
                return "busy"  # its transaction was ended: nothing is known of the stream
            is_complete = self._commit(ledger, number, entries, added)
        finally:
            shard.is_locked = False
        if entries and is_complete:
            last_id = entries[-1][0]
            keep_from = self._keep_from(ledger, number, epoch, last_id)
            yield
            self._publish(number, epoch, last_id)
            yield
            self._trim(number, epoch, keep_from)
        return "more" if len(entries) >= BATCH and entries[-1][0] != cursor else "done"

    def _read(self, number: int, shard: Shard) -> tuple[Entries, int] | None:
        """`persistence.streams.StreamReader.read`: None when another process answers."""
        server = self.master()
        if server is None:
            return None
        is_same = (server.run_id, server.replid) == (shard.run_id, shard.replid)
        if self.rules.is_fenced and not is_same:
            return None
        stream = server.data.streams.get((number, shard.epoch))
        entries = [] if stream is None else [e for e in stream.entries if e[0] > shard.cursor]
        return entries[:BATCH], server.data.added(number, shard.epoch)

    def _is_in_doubt(self, shard: Shard) -> bool:
        server = self.master()
        known = None if server is None else server.data.timeline
        is_promoted = known not in (None, self.ledger.timeline)
        return self.rules.doubts_at_the_flush and is_promoted and shard.state != "suspect"

    def _commit(self, ledger: Ledger, number: int, entries: Entries, added: int) -> bool:
        """Post what was read; tell whether its cursor may be published."""
        shard = ledger.shards[number]
        left = added - shard.flushed - len(entries)
        is_short = left < 0 or (left > 0 and len(entries) < BATCH)
        if not entries:
            if is_short:
                shard.suspect(shard.epoch, "stream_short")
            return False
        was_suspect = shard.state == "suspect"
        events = [entry for _, entry in entries if isinstance(entry, Event)]
        known = len(ledger.duplicates), ledger.evened_out
        cause = post(ledger, number, events, self.rules)
        if len(ledger.duplicates) > known[0]:
            self.world.note("worker: duplicate given back")
        if ledger.evened_out > known[1]:
            self.world.note("worker: evened out")
        cause = "stream_short" if is_short else cause
        shard.cursor, shard.flushed = entries[-1][0], shard.flushed + len(entries)
        if cause and not was_suspect:
            shard.state, shard.cause = "suspect", cause
        self._count_marks(ledger, shard, entries)
        self.world.note("worker: flush committed", f"shard {number} {len(entries)} {cause}")
        is_complete = left == 0 and not was_suspect and not cause
        return is_complete or not self.rules.publishes_whole_streams_only

    def _count_marks(self, ledger: Ledger, shard: Shard, entries: Entries) -> None:
        marks = [entry for _, entry in entries if isinstance(entry, Mark)]
        for mark in marks:
            if mark.epoch == shard.epoch and mark.sidecar in shard.drains:
                shard.drains[mark.sidecar] = True
                self.world.note("worker: journal is in", mark)
        if marks:
            ledger.finish_drains([shard], self.rules)

    def publish(self) -> Steps:
        """Say again how far the ledger is, where it has all: `Flusher._behind`."""
        rows = [
            (n, s.epoch, s.cursor, s.flushed)
            for n, s in enumerate(self.ledger.shards)
            if s.is_fenced and s.state != "suspect"
        ]
        yield
        server = self.master()
        if server is None:
            return
        whole = [row for row in rows if server.data.added(row[0], row[1]) == row[3]]
        yield
        for number, epoch, cursor, _ in whole:
            self._publish(number, epoch, cursor)

    def _publish(self, number: int, epoch: int, cursor: int) -> None:
        server = self.master()
        if server is not None:
            server.data.cursors[number] = epoch, cursor
            self.world.note("worker: cursor published", f"shard {number}/{epoch} {cursor}")

    def _keep_from(self, ledger: Ledger, number: int, epoch: int, last_id: int) -> int:
        """Return up to where the ledger has had a stream for so long that nothing undoes it."""
        now = self.world.now
        if not self.rules.keeps_what_was_flushed_lately:
            return last_id - KEEP * 1_000
        place = number, epoch, ledger.timeline
        self._flushed.append((*place, now, last_id))
        old = [id for *where, at, id in self._flushed if tuple(where) == place and at < now - KEEP]
        return max(old, default=0)

    def _trim(self, number: int, epoch: int, keep_from: int) -> None:
        server = self.master()
        stream = None if server is None else server.data.streams.get((number, epoch))
        if stream is not None and stream.entries and stream.entries[0][0] < keep_from:
            stream.entries = [entry for entry in stream.entries if entry[0] >= keep_from]
            self.world.note("worker: stream trimmed", f"shard {number} before {keep_from}")
