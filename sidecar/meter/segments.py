"""The journal's files: what is in them, and how they are read.

A journal is a directory:

    lock                  locked (flock) by the process whose journal it is; its process id
    sidecar-id            the UUID of the sidecar, made with the directory
    000000000007.sealed   a segment that is complete and synchronised
    000000000008.open     a segment that is written, or was when its process or machine ended

A segment is a header and then records, all integers unsigned and little-endian:

    header   8 bytes "CREDITSJ", 4 version (1), 8 number of the segment, 8 number of the first
             record that is new in it, 4 CRC-32 of all that
    record   4 length of the body + 0xC5000000, 4 CRC-32 of number and body, 8 number, the body

New records are numbered one by one. A record with a number below the header's is a copy: an old
segment of which little was still needed was compacted into this one. After a crash in the middle
of that a record is there twice, and the later one counts.

An open segment may end in the middle of a write. What no whole record follows there is the torn
tail: nobody was told that it had been written. Any other flaw is damage.
"""

from __future__ import annotations

import re
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zlib import crc32

from sidecar.errors import JournalDamaged, JournalError

BODY_BYTES: Final = 1_048_576
"""The longest body of a record."""

_MAGIC: Final = b"CREDITSJ"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sIQQ")
_CRC: Final = struct.Struct("<I")
HEADER_BYTES: Final = _HEADER.size + _CRC.size

_FRAME: Final = struct.Struct("<IIQ")
_NUMBER: Final = struct.Struct("<Q")
FRAME_BYTES: Final = _FRAME.size
"""What a record has on disk beside its body."""

_MARK: Final = 0xC5000000
_MARK_BYTE: Final = b"\xc5"
_MARK_AT: Final = 3  # in a record: the highest byte of the length

_NAME: Final = re.compile(r"([0-9]{12})\.(open|sealed)")
_READS: Final = 10


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """A file that is a segment by its name."""

    path: Path
    number: int
    is_sealed: bool


@dataclass(frozen=True, slots=True)
class Record:
    """A record and the byte of the file at which it starts."""

    number: int
    start: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Contents:
    """What a segment has: its records, and how many of the file's bytes are good and are torn."""

    first: int
    records: tuple[Record, ...]
    good_bytes: int
    torn_bytes: int


def segment_name(number: int, *, is_sealed: bool) -> str:
    """Return the file name of a segment."""
    return f"{number:012}.{'sealed' if is_sealed else 'open'}"


def header(number: int, first: int) -> bytes:
    """Return the header of a segment whose first new record will have the number `first`."""
    fields = _HEADER.pack(_MAGIC, _VERSION, number, first)
    return fields + _CRC.pack(crc32(fields))


def frame(number: int, body: bytes) -> bytes:
    """Return what stands before the body of a record."""
    return _FRAME.pack(_MARK | len(body), crc32(body, crc32(_NUMBER.pack(number))), number)


def body_of(number: int, record: bytes) -> bytes | None:
    """Return the body of one record as it is on disk, or None when it is not as it was written."""
    found = _record_at(record, 0)
    return found.body if found is not None and found.number == number else None


def segment_files(directory: Path) -> list[SegmentFile]:
    """Return the segments of a journal, oldest first; other files are none of ours."""
    found = []
    for path in directory.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and path.is_file():
            found.append(SegmentFile(path, int(match[1]), match[2] == "sealed"))
    return sorted(found, key=lambda file: file.number)


def read_segment(file: SegmentFile) -> Contents | None:
    """Return what a segment has, or None when its process ended before it had a header.

    Raises `JournalDamaged`.
    """
    data = file.path.read_bytes()
    first = _first_number(file, data)
    if first is None:
        return None
    records, at, expected = [], HEADER_BYTES, first
    while at < len(data):
        record = _record_at(data, at)
        if record is None:
            _require_torn(file, data, at)
            break
        if record.number >= first:
            if record.number != expected:
                raise damaged(file, at, f"record {expected} was expected, not {record.number}")
            expected += 1
        records.append(record)
        at += FRAME_BYTES + len(record.body)
    return Contents(first, tuple(records), at, len(data) - at)


def read_journal(directory: Path) -> list[tuple[int, bytes]]:
    """Return the records of a journal in order, without locking or changing anything.

    A sidecar may be writing: what it appends meanwhile may be missing. Raises `JournalError`.
    """
    for _ in range(_READS):
        try:
            records: dict[int, bytes] = {}
            for file in segment_files(directory):
                contents = read_segment(file)
                for record in contents.records if contents else ():
                    records[record.number] = record.body
            return sorted(records.items())
        except FileNotFoundError:
            if not directory.is_dir():
                raise JournalError(f"There is no journal in {directory}.") from None
        except OSError as error:
            raise JournalError(f"The journal in {directory} cannot be read: {error}.") from error
    raise JournalError(f"The files of {directory} change faster than they can be read.")


def read_sidecar_id(directory: Path) -> str | None:
    """Return the id of the sidecar whose journal this is, or None when it has none yet.

    Raises `JournalDamaged` when there is something else in its place.
    """
    path = directory / "sidecar-id"
    try:
        text = path.read_text().strip()
        if str(uuid.UUID(text)) == text:
            return text
    except FileNotFoundError:
        return None
    except ValueError:
        pass
    raise JournalDamaged(
        f"{path} is damaged: it must be the UUID of the sidecar whose journal this is. Restore "
        "it: the ledger's list of sidecars has it."
    )


def damaged(file: SegmentFile, at: int, what: str) -> JournalDamaged:
    """Return the fault that names the place and what can be done."""
    cure = "Restore the file from a copy, or move the journal's directory away and start anew"
    if not file.is_sealed:
        cure += f"; or, after a loss of power, cut it: truncate --size={at} {file.path}"
    return JournalDamaged(
        f"The journal is damaged: {file.path}, byte {at}: {what}. Nothing was changed. {cure}. "
        "What is given up that way is lost where Redis lost it too."
    )


def _first_number(file: SegmentFile, data: bytes) -> int | None:
    start = data[:HEADER_BYTES]
    is_whole = len(start) == HEADER_BYTES and _CRC.unpack_from(start, _HEADER.size)[0] == crc32(
        start[: _HEADER.size]
    )
    if not is_whole and not file.is_sealed and _may_be_torn(start):
        _require_torn(file, data, 0)
        return None
    if not is_whole:
        raise damaged(file, 0, "the header is not as it was written")
    magic, version, number, first = _HEADER.unpack_from(start)
    if magic != _MAGIC or version != _VERSION:
        raise damaged(file, 0, "it was written by another version of this program")
    if number != file.number:
        raise damaged(file, 0, f"it is segment {number} by its header, but not by its name")
    return int(first)


def _may_be_torn(start: bytes) -> bool:
    """Tell whether the beginning of a header is all that was written, maybe with zeros after it."""
    written = start.rstrip(b"\0")
    if len(start) < HEADER_BYTES or len(written) < _HEADER.size:
        return True
    return _CRC.pack(crc32(start[: _HEADER.size])).startswith(written[_HEADER.size :])


def _record_at(data: bytes, at: int) -> Record | None:
    start = at + FRAME_BYTES
    if start > len(data):
        return None
    marked, crc, number = _FRAME.unpack_from(data, at)
    length = marked - _MARK
    if not 0 <= length <= BODY_BYTES or start + length > len(data):
        return None
    body = data[start : start + length]
    if crc32(body, crc32(_NUMBER.pack(number))) != crc:
        return None
    return Record(number, at, body)


def _require_torn(file: SegmentFile, data: bytes, at: int) -> None:
    """Raise `JournalDamaged` unless what begins at `at` can be the end of an unfinished write."""
    if file.is_sealed:
        raise damaged(file, at, "the record there is not as it was written")
    mark_at = data.find(_MARK_BYTE, at + 1 + _MARK_AT)
    while mark_at != -1:
        if _record_at(data, mark_at - _MARK_AT) is not None:
            raise damaged(file, at, "the record there is not whole, but others follow")
        mark_at = data.find(_MARK_BYTE, mark_at + 1)
