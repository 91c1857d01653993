"""The journal: what this sidecar acknowledged and the ledger has not confirmed, on its own disk.

All records of one turn of the event loop are one `write`; what a process wrote survives its end.
What survives the end of the machine is up to the policy:

    none       what the kernel has written back by then
    interval   all but the last second: `fdatasync` in a thread, each second
    group      everything: a record is confirmed after an `fdatasync` that began after its write

Records stay until they are forgotten. What was forgotten may be there again after a restart: only
whole segments leave the disk. How the files look is in `segments`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from sidecar.errors import JournalError, JournalFull
from sidecar.meter.journal_directory import (
    SYSTEM_DISK,
    Disk,
    JournalDirectory,
    Loaded,
    load,
)
from sidecar.meter.journal_health import Health
from sidecar.meter.journal_house import Housekeeper
from sidecar.meter.journal_sync import Synchroniser
from sidecar.meter.journal_writer import Writer
from sidecar.meter.segments import BODY_BYTES, FRAME_BYTES, HEADER_BYTES, body_of
from sidecar.metrics import JournalMetrics

_URGENT_PERCENT: Final = 110

Queue = list[tuple[bytes, "asyncio.Future[int]"]]


class Journal:
    """Appends records and forgets them; everything runs on one event loop."""

    def __init__(
        self,
        directory: JournalDirectory,
        loaded: Loaded,
        *,
        fsync: str,
        max_bytes: int,
        segment_bytes: int,
        metrics: JournalMetrics,
        disk: Disk,
    ) -> None:
        self.sidecar_id: Final = directory.sidecar_id
        self.recovered: Final = sorted(loaded.bodies.items())
        """Numbers and bodies of what was needed, by the files, when the journal was opened.

        Whoever has taken them over may clear the list.
        """
        self._directory = directory
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._urgent_bytes = max_bytes * _URGENT_PERCENT // 100
        self._records = loaded.records
        self._health = Health(directory.path, metrics)
        self._writer = Writer(directory, loaded, self._health, disk, segment_bytes=segment_bytes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        synchroniser = Synchroniser(self._writer, directory, self._health, disk, self._thread)
        self._synchroniser = synchroniser if fsync != "none" else None
        self._is_group = fsync == "group"
        self._house = Housekeeper(
            self._writer, directory, self._health, disk, self._thread, self._synchroniser,
            max_bytes=max_bytes,
        )  # fmt: skip
        self._housekeeping: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: Queue = []
        self._queued_bytes, self._queued_since = 0, 0.0
        self._refused_bytes = 0
        self._is_closed = False
        metrics.records.set_function(lambda: loaded.records.live_records)
        metrics.file_bytes.set_function(lambda: loaded.records.file_bytes)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        fsync: str,
        max_bytes: int,
        segment_bytes: int,
        metrics: JournalMetrics,
        disk: Disk = SYSTEM_DISK,
    ) -> Journal:
        """Open the journal in a directory, which is made when it is missing, and lock it.

        `fsync` is none, interval or group. Raises `JournalError`: `JournalDamaged` when a file is
        not as it was written, except for a write that a crash left unfinished, which is cut off.
        """
        own = JournalDirectory.open(directory)
        with contextlib.ExitStack() as opened:
            opened.callback(own.close)
            journal = cls(
                own,
                load(own, disk, is_synchronised=fsync != "none"),
                fsync=fsync,
                max_bytes=max_bytes,
                segment_bytes=segment_bytes,
                metrics=metrics,
                disk=disk,
            )
            opened.pop_all()
        return journal

    def append(self, body: bytes, *, is_urgent: bool = False) -> asyncio.Future[int]:
        """Write a record; the future has its number once it is as safe as the policy says.

        Raises `JournalFull` at once; urgent records may use a tenth more than `max_bytes`. Raises
        `JournalError`, at once or in the future, when the disk fails: then the record is not in the
        journal, unless the journal is broken. A cancelled future leaves no record.
        """
        size = len(body) + FRAME_BYTES
        self._require_room(size, self._urgent_bytes if is_urgent else self._max_bytes)
        loop = self._loop or self._begin()
        if not self._queue:
            self._queued_since = time.perf_counter()
            loop.call_soon(self._write)
        future: asyncio.Future[int] = loop.create_future()
        self._queue.append((body, future))
        self._queued_bytes += size
        return future

    def forget(self, number: int) -> None:
        """Count a record as no longer needed; once is enough, twice does nothing.

        A segment is removed when none of its records is needed, and compacted when few are.
        """
        segment = self._records.forget(number)
        if segment is None or segment.live_records:
            return
        if segment is not self._writer.active or self._house.is_active_spent:
            if self._loop is None:
                self._begin()
            self._house.wake()

    def read(self, numbers: Sequence[int]) -> list[bytes | None]:
        """Return the bodies of some records; None for one that is not needed any more.

        They are read at once, mostly from the kernel's memory: ask for some hundreds. Raises
        `JournalError` when one is not as it was written or the disk fails.
        """
        with contextlib.ExitStack() as files:
            opened: dict[int, int] = {}
            return [self._read(number, opened, files) for number in numbers]

    @property
    def live_records(self) -> int:
        """How many records are still needed."""
        return self._records.live_records

    @property
    def live_bytes(self) -> int:
        """What the records that are still needed have of the disk."""
        return self._records.live_bytes

    @property
    def file_bytes(self) -> int:
        """The size of all files."""
        return self._records.file_bytes

    @property
    def segments(self) -> int:
        """How many files there are."""
        return len(self._records.segments)

    @property
    def problem(self) -> str | None:
        """A sentence about why records may be refused now, or None."""
        if self._health.problem is not None:
            return self._health.problem
        return self._fullness() if self._refused_bytes > self._free_bytes() else None

    async def tidy(self) -> None:
        """Do now what is done each second: synchronise, and remove, seal and compact segments.

        Raises `JournalError` when the journal is broken.
        """
        await self._house.round()

    async def close(self) -> None:
        """Write and synchronise what is still to be, and let others have the directory."""
        if self._is_closed:
            return
        self._is_closed = True
        self._write()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            await asyncio.wait([self._housekeeping])
        if self._synchroniser is not None and self._writer.dirty():
            with contextlib.suppress(JournalError):  # the alarm is raised
                await self._synchroniser.wait()
        self._thread.shutdown()
        self._writer.close()
        self._directory.close()

    def _begin(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        self._housekeeping = self._loop.create_task(self._house.run())
        return self._loop

    def _require_room(self, size: int, limit: int) -> None:
        if self._health.broken is not None:
            raise JournalError(self._health.broken)
        if self._is_closed:
            raise JournalError("The journal is closed.")
        if size > BODY_BYTES + FRAME_BYTES:
            raise JournalError(f"A record of {size} bytes is too long for the journal.")
        if self._records.file_bytes + self._queued_bytes + size + HEADER_BYTES > limit:
            self._refused_bytes = size
            self._metrics.refusals.inc()
            raise JournalFull(self._fullness())

    def _read(
        self, number: int, opened: dict[int, int], files: contextlib.ExitStack
    ) -> bytes | None:
        place = self._records.place(number)
        if place is None:
            return None
        segment, start, size = place
        try:
            if segment.number not in opened:
                file = files.enter_context(segment.path.open("rb", buffering=0))
                opened[segment.number] = file.fileno()
            body = body_of(number, os.pread(opened[segment.number], size, start))
        except OSError as error:
            self._health.failed("read", error)
            raise JournalError(f"Record {number} of the journal cannot be read: {error}") from error
        if body is None:
            raise JournalError(f"Record {number} in {segment.path} is damaged.")
        return body

    def _free_bytes(self) -> int:
        used = self._records.file_bytes + self._queued_bytes + HEADER_BYTES
        return self._max_bytes - used

    def _fullness(self) -> str:
        return (
            f"The journal in {self._directory.path} is full: {self.file_bytes} of "
            f"{self._max_bytes} bytes. The ledger has not confirmed {self.live_records} records: "
            "see whether a worker and Postgres run."
        )

    def _write(self) -> None:
        """Write what one turn of the loop has queued, all or nothing."""
        queue = [entry for entry in self._queue if not entry[1].cancelled()]
        self._queue, self._queued_bytes = [], 0
        if not queue:
            return
        try:
            first = self._writer.put([body for body, _ in queue])
        except JournalError as error:
            _refuse(queue, str(error))
        except OSError as error:
            self._health.failed("write", error)
            _refuse(queue, str(self._health.problem))
        else:
            confirm = partial(self._confirm, queue, first, self._queued_since)
            if self._is_group and self._synchroniser is not None:
                self._synchroniser.wait().add_done_callback(confirm)
            else:
                confirm()

    def _confirm(
        self, queue: Queue, first: int, since: float, done: asyncio.Future[None] | None = None
    ) -> None:
        if done is not None and done.exception() is not None:
            _refuse(queue, str(done.exception()))
            return
        for number, (_, future) in enumerate(queue, first):
            if future.cancelled():
                self.forget(number)
            else:
                future.set_result(number)
        self._metrics.append_seconds.observe(time.perf_counter() - since)


def _refuse(queue: Queue, problem: str) -> None:
    for _, future in queue:
        if not future.cancelled():
            future.set_exception(JournalError(problem))
