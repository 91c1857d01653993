"""Which records of the journal wait for the ledger: by shard and epoch, in the stream's order.

The ledger may be away for hours, so a record costs sixteen bytes here.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from sidecar.errors import JournalDamaged

_NUMBER_BITS: Final = 22
_DROP: Final = 4096


def place_of(stream_id: str) -> int:
    """Return a number that grows with the stream id and fits eight bytes.

    It is not below that of any id up to this one: what is confirmed by it is confirmed.
    """
    at_ms, number = _parts(stream_id)
    if number >> _NUMBER_BITS:
        return (at_ms + 1) << _NUMBER_BITS
    return at_ms << _NUMBER_BITS | number


def floor_of(stream_id: str) -> int:
    """Return up to which place a cursor at this stream id confirms."""
    at_ms, number = _parts(stream_id)
    return at_ms << _NUMBER_BITS | min(number, (1 << _NUMBER_BITS) - 1)


def _parts(stream_id: str) -> tuple[int, int]:
    at_ms, _, number = stream_id.partition("-")
    if not (at_ms.isdigit() and number.isdigit()):
        raise JournalDamaged(f"not the id of a stream entry: {stream_id!r}")
    return int(at_ms), int(number)


class Queue:
    """Records in the order in which they were acknowledged, which is nearly the stream's."""

    __slots__ = ("_head", "_numbers", "_places")

    def __init__(self) -> None:
        self._places = array("Q")
        self._numbers = array("Q")
        self._head = 0

    def __len__(self) -> int:
        return len(self._numbers) - self._head

    def add(self, place: int, number: int) -> None:
        """Enter a record."""
        self._places.append(place)
        self._numbers.append(number)

    def numbers(self) -> array[int]:
        """Return the numbers of all records that wait."""
        return self._numbers[self._head :]

    def confirm(self, floor: int) -> Iterator[int]:
        """Yield and drop records up to a place; one that is later keeps those behind it waiting."""
        while self._head < len(self._places) and self._places[self._head] <= floor:
            self._head += 1
            yield self._numbers[self._head - 1]
        if self._head >= _DROP or self._head == len(self._places):
            del self._places[: self._head], self._numbers[: self._head]
            self._head = 0


class Confirmations:
    """All records that wait for the ledger."""

    def __init__(self) -> None:
        self._queues: dict[int, dict[int, Queue]] = defaultdict(dict)

    def __len__(self) -> int:
        return sum(len(queue) for queues in self._queues.values() for queue in queues.values())

    def add(self, shard: int, epoch: int, place: int, number: int) -> None:
        """Enter a record whose event is at that place of the epoch's stream."""
        queues = self._queues[shard]
        queue = queues.get(epoch)
        if queue is None:
            queue = queues[epoch] = Queue()
        queue.add(place, number)

    def confirm(self, shard: int, epoch: int, floor: int) -> Iterator[int]:
        """Yield and drop the records that the ledger has."""
        queue = self._queues[shard].get(epoch)
        return iter(()) if queue is None else queue.confirm(floor)

    def newest_epoch(self, shard: int) -> int:
        """Return the newest epoch in which a record of the shard was made, or 0."""
        return max(self._queues[shard], default=0)

    def older(self, shard: int, epoch: int) -> list[int]:
        """Return the records of a shard's older epochs, in the order of their numbers."""
        return sorted(
            number
            for made_in, queue in self._queues[shard].items()
            if made_in < epoch
            for number in queue.numbers()
        )

    def has_older(self, shard: int, epoch: int) -> bool:
        """Tell whether a shard has records of older epochs."""
        return any(len(queue) for made_in, queue in self._queues[shard].items() if made_in < epoch)

    def moved(self, shard: int, epoch: int, place: int, numbers: Sequence[int]) -> None:
        """Let all records of older epochs, these, wait for a place in the stream of this one."""
        queues = self._queues[shard]
        for made_in in [made_in for made_in in queues if made_in < epoch]:
            del queues[made_in]
        for number in numbers:
            self.add(shard, epoch, place, number)
