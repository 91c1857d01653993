"""Housekeeping of the journal: synchronise each second, seal, remove and compact segments.

A record that is needed for long would keep the whole of its segment on the disk. So a segment of
which little is still needed is compacted: that little is written again, under its numbers, at the
end of the newest segment, and the old one is removed when the copies are on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Final

from sidecar.errors import JournalError
from sidecar.meter.journal_directory import Disk, JournalDirectory
from sidecar.meter.journal_health import Health
from sidecar.meter.journal_records import Segment
from sidecar.meter.journal_sync import Synchroniser
from sidecar.meter.journal_writer import Writer
from sidecar.meter.segments import body_of, segment_name

log: Final = logging.getLogger(__name__)

_ROUND_SECONDS: Final = 1.0

# What one turn of the event loop may look at and copy.
_STRIDE: Final = 1_024
_COPY_BYTES: Final = 262_144

Place = tuple[int, int, int]
"""Number, start and size of a record."""


class Housekeeper:
    """Keeps the journal small, and synchronised when it is to be (`synchroniser` is not None)."""

    def __init__(
        self,
        writer: Writer,
        directory: JournalDirectory,
        health: Health,
        disk: Disk,
        thread: Executor,
        synchroniser: Synchroniser | None,
        *,
        max_bytes: int,
    ) -> None:
        self._writer = writer
        self._records = writer.records
        self._directory = directory
        self._health = health
        self._disk = disk
        self._thread = thread
        self._synchroniser = synchroniser
        self._max_bytes = max_bytes
        self._woken = asyncio.Event()
        self._lock = asyncio.Lock()

    @property
    def is_active_spent(self) -> bool:
        """Whether much of the disk is kept by a newest segment of which little is needed."""
        active = self._writer.active
        if active is None or active.live_bytes * 4 > active.size:
            return False
        return (active.size - active.live_bytes) * 8 > self._max_bytes

    def wake(self) -> None:
        """Let the next round begin at once."""
        self._woken.set()

    async def run(self) -> None:
        """Do a round each second, and at once when there is something to gain."""
        while self._health.broken is None:
            try:
                await self.round()
            except JournalError:
                return  # broken, and the alarm is raised
            except Exception:
                log.exception("the housekeeping of the journal failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ROUND_SECONDS):
                    await self._woken.wait()
            self._woken.clear()

    async def round(self) -> None:
        """Synchronise, remove, seal and compact what there is. Raises `JournalError`."""
        async with self._lock:
            with self._counted("write"):
                self._prepare()
            dead = self._dead()
            if self._synchroniser is not None and self._writer.dirty():
                # Before a segment goes, what was copied from it must be on the disk.
                await asyncio.shield(self._synchroniser.wait())
            with self._counted("remove"):
                await self._remove(dead)
            with self._counted("seal"):
                await self._seal()
            with self._counted("compact"):
                await self._compact(self._victim())

    def _prepare(self) -> None:
        if self._health.problem is not None:
            self._writer.probe()
        if self.is_active_spent:
            self._writer.begin_segment()

    @contextlib.contextmanager
    def _counted(self, kind: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._health.failed(kind, error)

    def _dead(self) -> list[Segment]:
        # The newest stays in any case: it knows which numbers were used.
        return [one for one in self._records.segments[:-1] if not one.live_records]

    async def _remove(self, dead: list[Segment]) -> None:
        for segment in dead:
            if self._is_settled(segment):
                self._writer.close_segment(segment)
                await self._in_thread(segment.path.unlink)
                self._records.remove_segment(segment)
        if dead and self._synchroniser is not None:
            await self._in_thread(self._synchronise_directory)

    async def _seal(self) -> None:
        for segment in list(self._records.segments):
            if segment.is_sealed or not self._is_settled(segment):
                continue
            self._writer.close_segment(segment)
            if self._synchroniser is not None:
                path = segment.path.with_name(segment_name(segment.number, is_sealed=True))
                await self._in_thread(partial(segment.path.rename, path))
                segment.path, segment.is_sealed = path, True

    def _is_settled(self, segment: Segment) -> bool:
        """Tell whether a segment will never be written or synchronised again."""
        if segment is self._writer.active:
            return False
        return self._synchroniser is None or segment.synced_bytes == segment.size

    def _victim(self) -> Segment | None:
        is_pressed = self._records.file_bytes * 2 > self._max_bytes
        share = 2 if is_pressed else 4
        for segment in self._records.segments:
            is_old = segment is not self._writer.active and not segment.is_unreadable
            if is_old and 0 < segment.live_bytes * share <= segment.size:
                return segment
        return None

    async def _compact(self, victim: Segment | None) -> None:
        if victim is None:
            return
        with victim.path.open("rb", buffering=0) as file:
            for places in victim.live(_STRIDE):
                for piece in _pieces(places):
                    self._copy(victim, file.fileno(), piece)
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
        self.wake()

    def _copy(self, victim: Segment, descriptor: int, places: list[Place]) -> None:
        copies = []
        for number, start, size in places:
            if not victim.has(number):
                continue  # forgotten since it was found
            body = body_of(number, os.pread(descriptor, size, start))
            if body is None:
                victim.is_unreadable = True
                raise OSError(errno.EIO, f"record {number} in {victim.path} is damaged")
            copies.append((number, body))
        if copies:
            self._writer.put_numbered(copies)

    def _synchronise_directory(self) -> None:
        self._disk.synchronise_directory(self._directory.descriptor)

    async def _in_thread(self, work: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _pieces(places: list[Place]) -> Iterator[list[Place]]:
    """Yield the places in pieces of about so many bytes as one turn may copy."""
    piece, size = [], 0
    for place in places:
        piece.append(place)
        size += place[2]
        if size >= _COPY_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece
