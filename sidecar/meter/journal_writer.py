"""Writing the journal: one write for many records, cut back when the disk refuses it."""

from __future__ import annotations

import errno
import os
from typing import Final

from sidecar.meter.journal_directory import Disk, JournalDirectory, Loaded
from sidecar.meter.journal_health import Health
from sidecar.meter.journal_records import Segment
from sidecar.meter.segments import FRAME_BYTES, frame, header

_PROBE_BYTES: Final = 4_096


class Writer:
    """Writes records at the end of the newest segment, and begins another when that is full."""

    def __init__(
        self,
        directory: JournalDirectory,
        loaded: Loaded,
        health: Health,
        disk: Disk,
        *,
        segment_bytes: int,
    ) -> None:
        self.records: Final = loaded.records
        self.active: Segment | None = None
        self.is_directory_changed = False
        self._directory = directory
        self._health = health
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._next_number = loaded.next_number
        self._next_segment = loaded.next_segment

    def put(self, bodies: list[bytes]) -> int:
        """Write new records; return the number of the first, which the others follow.

        Raises `JournalError` or `OSError`: then none of them is in the journal, unless the journal
        is broken now.
        """
        first = self._next_number
        self.put_numbered(list(enumerate(bodies, first)))
        self._next_number += len(bodies)
        return first

    def put_numbered(self, numbered: list[tuple[int, bytes]]) -> None:
        """Write records under numbers that they have; raises as `put` does."""
        self._health.require_whole()
        segment = self._writable()
        start = b"" if segment.size else header(segment.number, segment.first)
        parts = [start]
        for number, body in numbered:
            parts.append(frame(number, body))
            parts.append(body)
        self._write(segment, b"".join(parts))
        self._health.wrote()
        self.records.add_bytes(segment, len(start))
        for number, body in numbered:
            self.records.add(segment, number, FRAME_BYTES + len(body))

    def begin_segment(self) -> None:
        """Make a new segment, to which the next records go; raises as `put` does."""
        self.active = None
        self.put_numbered([])

    def probe(self) -> None:
        """Find out whether the disk takes records again, by bytes that are cut off at once.

        A crash between leaves a torn tail. Raises as `put` does.
        """
        self._health.require_whole()
        segment = self._writable()
        self._write(segment, bytes(_PROBE_BYTES))
        self._cut_back(segment)
        self._health.wrote()

    def dirty(self) -> list[Segment]:
        """Return the segments of which not all is known to be on the disk."""
        segments = self.records.segments
        return [one for one in segments if one.synced_bytes < one.size]

    def close(self) -> None:
        """Close the files of segments."""
        self.active = None
        for segment in self.records.segments:
            self.close_segment(segment)

    def close_segment(self, segment: Segment) -> None:
        """Close the file of a segment that is neither written nor synchronised any more."""
        if segment.descriptor is not None:
            os.close(segment.descriptor)
            segment.descriptor = None

    def _writable(self) -> Segment:
        active = self.active
        if active is not None and active.size < self._segment_bytes:
            return active
        number = self._next_segment
        path, descriptor = self._directory.create(number)
        self._next_segment += 1
        self.is_directory_changed = True
        segment = Segment(number, self._next_number, path, descriptor=descriptor, is_sealed=False)
        self.records.add_segment(segment)
        self.active = segment
        return segment

    def _write(self, segment: Segment, data: bytes) -> None:
        assert segment.descriptor is not None
        view = memoryview(data)
        try:
            while view:
                written = self._disk.write(segment.descriptor, view)
                if not written:
                    raise OSError(errno.EIO, "nothing was written")
                view = view[written:]
        except OSError:
            self._cut_back(segment)
            raise

    def _cut_back(self, segment: Segment) -> None:
        assert segment.descriptor is not None
        try:
            self._disk.truncate(segment.descriptor, segment.size)
        except OSError as error:
            self._health.broke("cut back", error)
