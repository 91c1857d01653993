"""Which records of the journal are still needed, and in which segment each is.

A journal may have millions of records while the ledger is away, so a record costs eight bytes here:
the numbers of a segment's new records are contiguous, and their places are arrays.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path


class Segment:
    """One file of the journal. A `descriptor` is there for as long as it may need synchronising."""

    __slots__ = (
        "_copies", "_sizes", "_starts", "descriptor", "first", "is_sealed", "is_unreadable",
        "live_bytes", "live_records", "number", "path", "size", "synced_bytes",
    )  # fmt: skip

    def __init__(
        self, number: int, first: int, path: Path, *, descriptor: int | None, is_sealed: bool
    ) -> None:
        self.number = number
        self.first = first
        self.path = path
        self.descriptor = descriptor
        self.is_sealed = is_sealed
        self.is_unreadable = False
        self.size = 0
        self.synced_bytes = 0
        self.live_bytes = 0
        self.live_records = 0
        self._starts = array("I")
        self._sizes = array("I")  # 0: forgotten
        self._copies: dict[int, tuple[int, int]] = {}

    def add(self, number: int, size: int) -> None:
        """Enter a record that was written at the segment's end; a copy when its number is older."""
        if number >= self.first:
            self._starts.append(self.size)
            self._sizes.append(size)
        else:
            self._copies[number] = (self.size, size)
        self.size += size
        self.live_bytes += size
        self.live_records += 1

    def forget(self, number: int) -> int:
        """Count a record as no longer needed; return its size, or 0 when it was not needed."""
        at = number - self.first
        if at < 0:
            size = self._copies.pop(number, (0, 0))[1]
        elif at < len(self._sizes):
            size, self._sizes[at] = self._sizes[at], 0
        else:
            size = 0
        if size:
            self.live_bytes -= size
            self.live_records -= 1
        return size

    def has(self, number: int) -> bool:
        """Tell whether a record is here and still needed."""
        at = number - self.first
        return bool(self._sizes[at]) if 0 <= at < len(self._sizes) else number in self._copies

    def place(self, number: int) -> tuple[int, int] | None:
        """Return start and size of a record that is here and still needed."""
        at = number - self.first
        if at < 0:
            return self._copies.get(number)
        if at < len(self._sizes) and self._sizes[at]:
            return self._starts[at], self._sizes[at]
        return None

    def live(self, stride: int) -> Iterator[list[tuple[int, int, int]]]:
        """Yield number, start and size of what is needed, after each look at `stride` records."""
        for at in range(0, len(self._sizes), stride):
            sizes = enumerate(self._sizes[at : at + stride], at)
            yield [(self.first + i, self._starts[i], size) for i, size in sizes if size]
        copies = [(number, *place) for number, place in self._copies.items()]
        for at in range(0, len(copies), stride):
            yield copies[at : at + stride]


class Records:
    """All segments, oldest first, and the records in them that are still needed."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.file_bytes = 0
        self.live_bytes = 0
        self.live_records = 0
        self._firsts: list[int] = []
        self._homes: dict[int, Segment] = {}  # of copies

    def add_segment(self, segment: Segment) -> None:
        """Enter the newest segment."""
        self.segments.append(segment)
        self._firsts.append(segment.first)
        self.file_bytes += segment.size

    def remove_segment(self, segment: Segment) -> None:
        """Remove a segment without a record that is needed."""
        assert not segment.live_records
        at = self.segments.index(segment)
        del self.segments[at], self._firsts[at]
        self.file_bytes -= segment.size

    def add_bytes(self, segment: Segment, size: int) -> None:
        """Count what is no record: a header."""
        segment.size += size
        self.file_bytes += size

    def add(self, segment: Segment, number: int, size: int) -> None:
        """Enter a record that was written; where it is a copy, the older place is forgotten."""
        if number < segment.first:
            self.forget(number)
            self._homes[number] = segment
        segment.add(number, size)
        self.file_bytes += size
        self.live_bytes += size
        self.live_records += 1

    def forget(self, number: int) -> Segment | None:
        """Count a record as no longer needed; return its segment, or None when it was not."""
        segment = self._home_of(number)
        size = segment.forget(number) if segment is not None else 0
        if not size:
            return None
        if self._homes:
            self._homes.pop(number, None)
        self.live_bytes -= size
        self.live_records -= 1
        return segment

    def place(self, number: int) -> tuple[Segment, int, int] | None:
        """Return where a record is that is still needed: segment, start and size."""
        segment = self._home_of(number)
        place = segment.place(number) if segment is not None else None
        return None if segment is None or place is None else (segment, *place)

    def _home_of(self, number: int) -> Segment | None:
        segment = self._homes.get(number) if self._homes else None
        if segment is None:
            at = bisect_right(self._firsts, number) - 1
            segment = self.segments[at] if at >= 0 else None
        return segment
