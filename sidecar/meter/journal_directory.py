"""The directory of a journal: whose it is, and what a crash may have left in it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sidecar.errors import JournalDamaged, JournalError
from sidecar.meter.journal_records import Records, Segment
from sidecar.meter.segments import (
    FRAME_BYTES,
    HEADER_BYTES,
    Contents,
    SegmentFile,
    damaged,
    read_segment,
    read_sidecar_id,
    segment_files,
    segment_name,
)

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Disk:
    """The calls that a disk may refuse. (macOS has no `fdatasync`.)"""

    write: Callable[[int, memoryview], int] = field(default=os.write)
    truncate: Callable[[int, int], None] = field(default=os.ftruncate)
    synchronise: Callable[[int], None] = field(default=getattr(os, "fdatasync", os.fsync))
    synchronise_directory: Callable[[int], None] = field(default=os.fsync)


SYSTEM_DISK: Final = Disk()


class JournalDirectory:
    """A directory that this process has to itself until `close`."""

    def __init__(self, path: Path, sidecar_id: str, descriptor: int, lock: int) -> None:
        self.path = path
        self.sidecar_id = sidecar_id
        self.descriptor = descriptor
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> JournalDirectory:
        """Make the directory where it is missing, and lock it. Raises `JournalError`."""
        with contextlib.ExitStack() as opened:
            try:
                _make(path)
                lock = _locked(path)
                opened.callback(os.close, lock)
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                opened.callback(os.close, descriptor)
                directory = cls(path, _sidecar_id(path, descriptor), descriptor, lock)
            except OSError as error:
                raise JournalError(
                    f"The journal's directory {path} cannot be used: {error}. Give one that user "
                    f"{os.geteuid()} may write to in CREDITS_JOURNAL_DIR."
                ) from error
            opened.pop_all()
        return directory

    def create(self, number: int) -> tuple[Path, int]:
        """Make the file of a new segment; return its path and a descriptor that appends."""
        path = self.path / segment_name(number, is_sealed=False)
        return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)

    def close(self) -> None:
        """Let others have the directory."""
        os.close(self.descriptor)
        os.close(self._lock)


@dataclass(slots=True)
class Loaded:
    """What a journal had when it was opened; `bodies` by number."""

    records: Records = field(default_factory=Records)
    bodies: dict[int, bytes] = field(default_factory=dict)
    next_number: int = 1
    next_segment: int = 1


def load(directory: JournalDirectory, disk: Disk, *, is_synchronised: bool) -> Loaded:
    """Read all segments, and finish what a crash has left unfinished.

    Torn tails are cut off, and the segments are sealed unless the journal is never synchronised.
    Raises `JournalError`.
    """
    loaded = Loaded()
    try:
        for file in segment_files(directory.path):
            contents = read_segment(file)
            loaded.next_segment = file.number + 1
            if contents is None:
                file.path.unlink()
                continue
            if not file.is_sealed:
                file = _finish(file, contents, disk, is_synchronised=is_synchronised)
            _enter(loaded, file, contents)
        if is_synchronised:
            disk.synchronise_directory(directory.descriptor)
    except OSError as error:
        raise JournalError(f"The journal in {directory.path} cannot be read: {error}.") from error
    return loaded


def _finish(
    file: SegmentFile, contents: Contents, disk: Disk, *, is_synchronised: bool
) -> SegmentFile:
    if contents.torn_bytes:
        log.warning(
            "dropped the end of the journal, whose writing was not finished",
            extra={
                "file": file.path, "byte": contents.good_bytes, "dropped_bytes": contents.torn_bytes
            },
        )  # fmt: skip
    descriptor = os.open(file.path, os.O_WRONLY)
    try:
        if contents.torn_bytes:
            disk.truncate(descriptor, contents.good_bytes)
        if not is_synchronised:
            return file
        disk.synchronise(descriptor)
    finally:
        os.close(descriptor)
    sealed = file.path.with_name(segment_name(file.number, is_sealed=True))
    file.path.rename(sealed)
    return SegmentFile(sealed, file.number, is_sealed=True)


def _enter(loaded: Loaded, file: SegmentFile, contents: Contents) -> None:
    if contents.first < loaded.next_number:
        raise damaged(file, 0, f"older segments have records up to {loaded.next_number - 1} too")
    segment = Segment(
        file.number, contents.first, file.path, descriptor=None, is_sealed=file.is_sealed
    )
    loaded.records.add_segment(segment)
    loaded.records.add_bytes(segment, HEADER_BYTES)
    loaded.next_number = contents.first
    for record in contents.records:
        if loaded.bodies.setdefault(record.number, record.body) != record.body:
            raise damaged(
                file, record.start, f"record {record.number} is elsewhere a different one"
            )
        loaded.records.add(segment, record.number, FRAME_BYTES + len(record.body))
        loaded.next_number = max(loaded.next_number, record.number + 1)
    segment.synced_bytes = segment.size


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        _synchronise_directory(path.parent)


def _locked(path: Path) -> int:
    """Return the descriptor of the lock; the kernel lets go of it however the process ends."""
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip() or "?"
        os.close(lock)
        raise JournalError(
            f"The journal in {path} is in use by process {holder}: stop that sidecar, or give this "
            "one a CREDITS_JOURNAL_DIR of its own."
        ) from None
    with contextlib.suppress(OSError):  # on a full disk: it is only for messages
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _sidecar_id(path: Path, descriptor: int) -> str:
    known = read_sidecar_id(path)
    if known is not None:
        return known
    if segment_files(path):
        raise JournalDamaged(
            f"The journal in {path} has records, but its file sidecar-id is missing. Restore it: "
            "the ledger's list of sidecars has the id. Or move the directory away and start anew."
        )
    made = str(uuid.uuid4())
    new = path / "sidecar-id.new"
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(made + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(path / "sidecar-id")
    os.fsync(descriptor)
    return made


def _synchronise_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
