"""A sidecar's journal and shelf: what it acknowledged, and for how long that is needed."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulation.values import Event

Id = tuple[int, str]
"""Account and the caller's id."""


@dataclass(slots=True)
class Record:
    """One acknowledged decision: an event with its place in a stream, or a hold without."""

    number: int
    account: int
    id: str
    operation: str
    shard: int
    epoch: int
    place: int
    event: Event | None
    amount: int
    is_whole: bool = False
    is_forgotten: bool = False
    is_void: bool = False


@dataclass(slots=True)
class Disk:
    """What survives the process. Forgotten records are there until housekeeping removes them."""

    records: dict[int, Record] = field(default_factory=dict)
    last: int = 0
    is_destroyed: bool = False

    def add(self, account: int, id: str, operation: str, shard: int, epoch: int, place: int,
            event: Event | None, amount: int) -> Record:  # fmt: skip
        """Begin to write a record: until it `is_whole`, a crash leaves a torn tail."""
        self.last += 1
        record = Record(self.last, account, id, operation, shard, epoch, place, event, amount)
        self.records[self.last] = record
        return record

    def tidy(self) -> None:
        """Remove what is forgotten: `sidecar.meter.journal_house`."""
        for number in [n for n, record in self.records.items() if record.is_forgotten]:
            del self.records[number]


class Shelf:
    """`sidecar.meter.shelf` with its `confirmations`."""

    __slots__ = ("_disk", "_waiting_too", "cursors", "holds", "survivors", "unconfirmed")

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._waiting_too: set[int] = set()
        self.cursors: dict[int, tuple[int, int]] = {}
        self.holds: dict[Id, Record] = {}
        self.survivors: dict[Id, Record] = {}
        self.unconfirmed: dict[int, dict[int, list[tuple[int, Record]]]] = {}
        # A torn tail is cut off, and what was forgotten may be there again, but for what is void.
        for number in [n for n, record in disk.records.items() if not record.is_whole]:
            del disk.records[number]
        for record in disk.records.values():
            record.is_forgotten = record.is_void
            if not record.is_void:
                self.put(record)

    def __len__(self) -> int:
        return sum(len(q) for queues in self.unconfirmed.values() for q in queues.values())

    def put(self, record: Record) -> None:
        """Enter what was acknowledged now, or was found in the journal."""
        id = (record.account, record.id)
        if record.event is not None:
            queues = self.unconfirmed.setdefault(record.shard, {})
            queues.setdefault(record.epoch, []).append((record.place, record))
        else:
            self.end_hold(id)
            self.holds[id] = record
        if record.operation == "settle":
            self.end_hold(id)

    def end_hold(self, id: Id) -> None:
        """Forget a hold that was settled or released."""
        record = self.holds.pop(id, None)
        if record is not None:
            record.is_forgotten = True

    def put_survivor(self, record: Record) -> None:
        """Answer repeats of an id from a record that Redis has forgotten."""
        id = (record.account, record.id)
        known = self.survivors.get(id)
        if known is record:
            return
        if known is not None:
            self._release(known)
        self.survivors[id] = record
        self._waiting_too.add(record.number)

    def confirm(self, shard: int, epoch: int, place: int, *, is_only_news: bool) -> None:
        """Forget what the ledger has, up to a place in the stream of an epoch.

        Also when the cursor is no news: what it passed may have been entered only now.
        """
        if is_only_news and self.cursors.get(shard) == (epoch, place):
            return
        self.cursors[shard] = epoch, place
        queue = self.unconfirmed.get(shard, {}).get(epoch, [])
        while queue and queue[0][0] <= place:
            self._release(queue.pop(0)[1])

    def is_confirmed(self, shard: int, epoch: int, place: int) -> bool:
        """Tell whether the ledger is known to have an event."""
        known_epoch, cursor = self.cursors.get(shard, (0, 0))
        return known_epoch == epoch and place <= cursor

    def newest_epoch(self, shard: int) -> int:
        """Return the newest epoch in which a record of the shard was made, or 0."""
        return max(self.unconfirmed.get(shard, ()), default=0)

    def older(self, shard: int, epoch: int) -> list[Record]:
        """Return the records of a shard's older epochs."""
        queues = self.unconfirmed.get(shard, {})
        found = [r for made_in, queue in queues.items() if made_in < epoch for _, r in queue]
        return sorted(found, key=lambda record: record.number)

    def moved(self, shard: int, epoch: int, place: int, records: list[Record]) -> None:
        """Let all records of older epochs, these, wait for a place in the stream of this one."""
        queues = self.unconfirmed.setdefault(shard, {})
        for made_in in [made_in for made_in in queues if made_in < epoch]:
            del queues[made_in]
        queues.setdefault(epoch, []).extend((place, record) for record in records)

    def _release(self, record: Record) -> None:
        if record.number in self._waiting_too:
            self._waiting_too.discard(record.number)
        else:
            record.is_forgotten = True
