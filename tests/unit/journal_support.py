"""What the tests of the journal share: opening one, a disk that fails on demand, and files."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry

from sidecar.meter.journal import Journal
from sidecar.meter.journal_directory import SYSTEM_DISK, Disk
from sidecar.meter.segments import frame, header, segment_name
from sidecar.metrics import JournalMetrics

DEADLINE_SECONDS: Final = 30.0

Result = TypeVar("Result")


def run(scenario: Coroutine[Any, Any, Result]) -> Result:
    """Run a scenario on an event loop of its own."""
    return asyncio.run(scenario)


def open_journal(
    directory: Path,
    *,
    fsync: str = "none",
    max_bytes: int = 1 << 24,
    segment_bytes: int = 1 << 20,
    registry: CollectorRegistry | None = None,
    disk: Disk = SYSTEM_DISK,
) -> Journal:
    """Open a journal with options that suit most tests."""
    return Journal.open(
        directory,
        fsync=fsync,
        max_bytes=max_bytes,
        segment_bytes=segment_bytes,
        metrics=JournalMetrics(registry or CollectorRegistry()),
        disk=disk,
    )


async def append_all(journal: Journal, *bodies: bytes) -> list[int]:
    """Append records in one turn of the loop; return their numbers."""
    return list(await asyncio.gather(*(journal.append(body) for body in bodies)))


async def filled(directory: Path, *bodies: bytes, **options: Any) -> None:
    """Make a journal with some records, as a process that ended leaves it."""
    journal = open_journal(directory, **options)
    await append_all(journal, *bodies)
    await journal.close()


def recovered(directory: Path, **options: Any) -> list[tuple[int, bytes]]:
    """Return what a journal has when it is opened."""

    async def scenario() -> list[tuple[int, bytes]]:
        journal = open_journal(directory, **options)
        await journal.close()
        return journal.recovered

    return run(scenario())


def write_segment(
    directory: Path,
    number: int,
    first: int,
    *records: tuple[int, bytes],
    is_sealed: bool = False,
    tail: bytes = b"",
) -> Path:
    """Write a segment by hand, as a process of this sidecar would have."""
    directory.mkdir(exist_ok=True)
    (directory / "sidecar-id").write_text("5ca1ab1e-0000-4000-8000-000000000000\n")
    path = directory / segment_name(number, is_sealed=is_sealed)
    path.write_bytes(
        header(number, first) + b"".join(frame(at, body) + body for at, body in records) + tail
    )
    return path


def names(directory: Path) -> list[str]:
    """Return the names of the segments of a journal."""
    return sorted(path.name for path in directory.iterdir() if path.name[0].isdigit())


async def eventually(claim: Callable[[], object], what: str = "it") -> None:
    """Wait until `claim` holds; fail when it does not within the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not claim():
        assert time.monotonic() < deadline, f"{what} did not come true"
        await asyncio.sleep(0.002)


class FaultyDisk:
    """A real disk that counts its calls, and refuses them when told to."""

    def __init__(self) -> None:
        self.writes = 0
        self.synchronisations = 0
        self.directory_synchronisations = 0
        self.room: int | None = None  # bytes that it still takes
        self.most_bytes: int | None = None  # in one write
        self.fails_truncate = False
        self.fails_synchronise = False
        self.synced_bytes: dict[int, int] = {}  # by inode
        self.may_synchronise = threading.Event()
        self.may_synchronise.set()

    @property
    def disk(self) -> Disk:
        """The disk to give to a journal."""
        return Disk(self._write, self._truncate, self._synchronise, self._synchronise_directory)

    @contextmanager
    def full_after(self, room: int) -> Iterator[None]:
        """Take only so many bytes more."""
        self.room = room
        yield
        self.room = None

    def _write(self, descriptor: int, data: memoryview) -> int:
        self.writes += 1
        if self.most_bytes is not None:
            return os.write(descriptor, data[: self.most_bytes])
        if self.room is None:
            return os.write(descriptor, data)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(descriptor, data[: self.room])
        self.room -= written
        return written

    def _truncate(self, descriptor: int, size: int) -> None:
        if self.fails_truncate:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.ftruncate(descriptor, size)

    def _synchronise(self, descriptor: int) -> None:
        self.synchronisations += 1
        assert self.may_synchronise.wait(DEADLINE_SECONDS)
        if self.fails_synchronise:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        # What is written while a real disk is busy may or may not be on it: here it is not.
        status = os.fstat(descriptor)
        self.synced_bytes[status.st_ino] = status.st_size

    def _synchronise_directory(self, descriptor: int) -> None:
        self.directory_synchronisations += 1
        os.fsync(descriptor)
