"""Group commit: one `fdatasync`, in a thread, for all that was written before it began."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from functools import partial

from sidecar.errors import JournalError
from sidecar.meter.journal_directory import Disk, JournalDirectory
from sidecar.meter.journal_health import Health
from sidecar.meter.journal_records import Segment
from sidecar.meter.journal_writer import Writer


class Synchroniser:
    """Brings what the writer wrote to the disk; one synchronisation runs at a time."""

    def __init__(
        self,
        writer: Writer,
        directory: JournalDirectory,
        health: Health,
        disk: Disk,
        thread: Executor,
    ) -> None:
        self._writer = writer
        self._directory = directory
        self._health = health
        self._disk = disk
        self._thread = thread
        self._next: asyncio.Future[None] | None = None
        self._is_running = False

    def wait(self) -> asyncio.Future[None]:
        """Return a future for the end of a synchronisation of all that is written now.

        It is shared: never cancel it. It fails with `JournalError`.
        """
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        wanted = self._next
        if not self._is_running:
            self._begin()
        return wanted

    def _begin(self) -> None:
        wanted, self._next = self._next, None
        assert wanted is not None
        if self._health.broken is not None:
            wanted.set_exception(JournalError(self._health.broken))
            return
        targets = [(segment, segment.size) for segment in self._writer.dirty()]
        descriptors = [one.descriptor for one, _ in targets if one.descriptor is not None]
        if self._writer.is_directory_changed:
            self._writer.is_directory_changed = False
            job = partial(self._synchronise, descriptors, self._directory.descriptor)
        else:
            job = partial(self._synchronise, descriptors, None)
        self._is_running = True
        running = asyncio.get_running_loop().run_in_executor(self._thread, job)
        running.add_done_callback(partial(self._end, wanted, targets))

    def _synchronise(self, descriptors: list[int], directory: int | None) -> None:
        for descriptor in descriptors:
            self._disk.synchronise(descriptor)
        if directory is not None:
            self._disk.synchronise_directory(directory)

    def _end(
        self,
        wanted: asyncio.Future[None],
        targets: list[tuple[Segment, int]],
        job: asyncio.Future[None],
    ) -> None:
        self._is_running = False
        error = job.exception()
        if error is None:
            for segment, size in targets:
                segment.synced_bytes = size
            wanted.set_result(None)
        else:
            self._health.broke("synchronise", error)
            wanted.set_exception(JournalError(self._health.broken))
        if self._next is not None:
            self._begin()
