"""The files of the journal: their bytes, what a crash may leave, and every kind of damage."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from zlib import crc32

import pytest

from sidecar.errors import JournalDamaged, JournalError
from sidecar.meter.segments import (
    FRAME_BYTES,
    HEADER_BYTES,
    frame,
    header,
    read_journal,
    read_sidecar_id,
    segment_files,
)
from tests.unit.journal_support import (
    append_all,
    filled,
    names,
    open_journal,
    recovered,
    run,
    write_segment,
)

# The last one has the bytes in it by which a reader finds records again.
BODIES = (b"first", b"", b"\xc5" * 7 + struct.pack("<IIQ", 0xC5000000, 0, 4))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory for a journal, which does not exist yet."""
    return tmp_path / "journal"


def damage(directory: Path) -> str:
    with pytest.raises(JournalDamaged) as found:
        open_journal(directory)
    return str(found.value)


def test_the_bytes_of_a_segment_are_as_documented(directory: Path) -> None:
    run(filled(directory, b"body"))
    start = b"CREDITSJ" + struct.pack("<IQQ", 1, 1, 1)
    number = struct.pack("<Q", 1)
    record = struct.pack("<II", 0xC5000004, crc32(number + b"body")) + number + b"body"
    written = (directory / "000000000001.open").read_bytes()
    assert written == start + struct.pack("<I", crc32(start)) + record


@pytest.mark.parametrize("last", [b"", b"a longer body", b"\xc5" * 40])
def test_a_torn_tail_is_dropped_wherever_it_was_torn(directory: Path, last: bytes) -> None:
    kept = [(1, b"first"), (2, b"")]
    for length in range(FRAME_BYTES + len(last)):
        torn = (frame(3, last) + last)[:length]
        write_segment(directory, 1, 1, *kept, tail=torn)
        assert recovered(directory) == kept, length
        assert names(directory) == ["000000000001.open"]
        good_bytes = HEADER_BYTES + 2 * FRAME_BYTES + len(b"first")
        assert (directory / "000000000001.open").stat().st_size == good_bytes, length


def test_after_a_torn_tail_its_number_is_used_again(directory: Path) -> None:
    write_segment(directory, 1, 1, (1, b"whole"), tail=frame(2, b"torn"))

    async def scenario() -> list[int]:
        journal = open_journal(directory)
        numbers = await append_all(journal, b"next")
        await journal.close()
        return numbers

    assert run(scenario()) == [2]
    assert recovered(directory) == [(1, b"whole"), (2, b"next")]


@pytest.mark.parametrize("length", [1, FRAME_BYTES, 5_000])
def test_zeros_that_a_power_loss_leaves_are_a_torn_tail(directory: Path, length: int) -> None:
    write_segment(directory, 1, 1, (1, b"whole"), tail=bytes(length))
    assert recovered(directory) == [(1, b"whole")]


@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_flipped_bit_is_found_wherever_it_is(directory: Path, is_sealed: bool) -> None:
    whole = list(enumerate(BODIES, 1))
    path = write_segment(directory, 1, 1, *whole, is_sealed=is_sealed)
    data = path.read_bytes()
    last_at = len(data) - FRAME_BYTES - len(BODIES[-1])
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        if is_sealed or bit // 8 < last_at:
            with pytest.raises(JournalDamaged, match=re.escape(str(path))):
                read_journal(directory)
        else:
            # As far as anyone can tell, the last record was not finished.
            assert read_journal(directory) == whole[:-1]


def test_a_sealed_segment_that_was_cut_is_damaged_wherever_it_was_cut(directory: Path) -> None:
    path = write_segment(directory, 1, 1, (1, b"body"), is_sealed=True)
    data = path.read_bytes()
    for length in {*range(len(data))} - {HEADER_BYTES}:
        path.write_bytes(data[:length])
        assert "was written" in damage(directory), length


def test_damage_names_the_file_the_byte_and_what_can_be_done(directory: Path) -> None:
    path = write_segment(directory, 7, 3, (3, b"aaaa"), (4, b"bbbb"), (5, b"cccc"))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"bbbb", b"bbxb"))
    at = HEADER_BYTES + FRAME_BYTES + 4
    message = damage(directory)
    assert f"{path}, byte {at}: the record there is not whole, but others follow" in message
    assert "Restore the file from a copy" in message
    assert f"truncate --size={at} {path}" in message
    assert path.read_bytes() == data.replace(b"bbbb", b"bbxb")


def test_nothing_is_cut_where_a_sealed_segment_is_damaged(directory: Path) -> None:
    path = write_segment(directory, 1, 1, (1, b"a"), is_sealed=True, tail=b"more")
    message = damage(directory)
    assert f"{path}, byte {HEADER_BYTES + FRAME_BYTES + 1}" in message
    assert "truncate" not in message


@pytest.mark.parametrize("start", [b"", b"CRED", header(2, 2)[:-1], bytes(HEADER_BYTES), bytes(99)])
def test_a_crash_before_the_first_record_leaves_nothing(directory: Path, start: bytes) -> None:
    write_segment(directory, 1, 1, (1, b"body"))
    (directory / "000000000002.open").write_bytes(start)
    assert recovered(directory) == [(1, b"body")]
    assert names(directory) == ["000000000001.open"]


@pytest.mark.parametrize("after", [0, 1, 3 * FRAME_BYTES])
def test_a_header_that_power_loss_cut_anywhere_and_filled_with_zeros_is_torn(
    directory: Path, after: int
) -> None:
    path = write_segment(directory, 1, 1)
    whole = path.read_bytes()
    for length in range(HEADER_BYTES):
        path.write_bytes(whole[:length] + bytes(HEADER_BYTES - length + after))
        assert read_journal(directory) == [], length


def test_half_a_checksum_that_is_another_is_damage_and_not_torn(directory: Path) -> None:
    path = write_segment(directory, 1, 1)
    whole = path.read_bytes()
    wrong = bytes([whole[HEADER_BYTES - 4] ^ 1])
    path.write_bytes(whole[: HEADER_BYTES - 4] + wrong + bytes(3))
    assert "header" in damage(directory)


def test_records_behind_a_header_of_zeros_are_not_dropped(directory: Path) -> None:
    path = write_segment(directory, 1, 1, (1, b"body"))
    path.write_bytes(bytes(HEADER_BYTES) + path.read_bytes()[HEADER_BYTES:])
    assert "byte 0" in damage(directory)


def test_a_segment_of_another_version_is_refused(directory: Path) -> None:
    path = write_segment(directory, 1, 1)
    start = b"CREDITSJ" + struct.pack("<IQQ", 2, 1, 1)
    path.write_bytes(start + struct.pack("<I", crc32(start)))
    assert "written by another version" in damage(directory)


def test_a_segment_with_another_name_is_refused(directory: Path) -> None:
    write_segment(directory, 1, 1).rename(directory / "000000000003.open")
    assert "it is segment 1 by its header" in damage(directory)


def test_a_missing_record_is_found(directory: Path) -> None:
    write_segment(directory, 1, 1, (1, b"a"), (3, b"c"), is_sealed=True)
    assert "record 2 was expected, not 3" in damage(directory)


def test_segments_of_two_histories_are_refused(directory: Path) -> None:
    write_segment(directory, 1, 1, (1, b"a"), (2, b"b"), is_sealed=True)
    write_segment(directory, 2, 2, (2, b"b"))
    assert "older segments have records up to 2 too" in damage(directory)


def test_a_record_that_is_there_twice_counts_once(directory: Path) -> None:
    # As a crash leaves it that came between the copy and the removal of the old segment.
    write_segment(directory, 1, 1, (1, b"a"), (2, b"b"), is_sealed=True)
    write_segment(directory, 2, 3, (3, b"c"), (1, b"a"), (4, b"d"))
    everything = [(1, b"a"), (2, b"b"), (3, b"c"), (4, b"d")]
    assert read_journal(directory) == everything

    async def scenario() -> None:
        journal = open_journal(directory)
        assert journal.recovered == everything
        assert journal.live_records == 4
        journal.forget(2)
        await journal.tidy()
        # All that is needed of the first segment is in the second.
        assert names(directory) == ["000000000002.open"]
        assert journal.live_records == 3
        await journal.close()

    run(scenario())
    assert recovered(directory) == [(1, b"a"), (3, b"c"), (4, b"d")]


def test_two_records_with_one_number_are_refused(directory: Path) -> None:
    write_segment(directory, 1, 1, (1, b"a"), is_sealed=True)
    write_segment(directory, 2, 2, (1, b"b"))
    assert "record 1 is elsewhere a different one" in damage(directory)


def test_a_segment_may_be_torn_although_a_newer_one_was_begun(directory: Path) -> None:
    # The power went before the older one was synchronised, and so before it was sealed.
    write_segment(directory, 1, 1, (1, b"a"), tail=frame(2, b"b"))
    write_segment(directory, 2, 3, (3, b"c"))
    assert recovered(directory, fsync="interval") == [(1, b"a"), (3, b"c")]
    assert names(directory) == ["000000000001.sealed", "000000000002.sealed"]


def test_files_that_are_not_ours_are_left_alone(directory: Path) -> None:
    write_segment(directory, 1, 1, (1, b"a"))
    others = ("1.open", "000000000009.open.bak", "notes.txt", "000000000009.SEALED")
    for name in others:
        (directory / name).write_bytes(b"mine")
    (directory / "000000000008.open").mkdir()
    assert recovered(directory) == [(1, b"a")]
    assert [(directory / name).read_bytes() for name in others] == [b"mine"] * len(others)
    assert [file.number for file in segment_files(directory)] == [1]


def test_reading_takes_no_lock_and_changes_nothing(directory: Path) -> None:
    async def scenario() -> None:
        journal = open_journal(directory)
        await append_all(journal, b"a", b"b")
        path = directory / "000000000001.open"
        with path.open("ab") as file:
            file.write(frame(3, b"c"))
        before = path.read_bytes()
        assert read_journal(directory) == [(1, b"a"), (2, b"b")]
        assert read_sidecar_id(directory) == journal.sidecar_id
        assert path.read_bytes() == before
        await journal.close()

    run(scenario())


def test_reading_says_when_there_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="There is no journal in"):
        read_journal(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot be read"):
        read_journal(tmp_path / "file")
    assert read_journal(tmp_path) == []
    assert read_sidecar_id(tmp_path) is None


@pytest.mark.parametrize("text", ["", "x", "5CA1AB1E-0000-4000-8000-000000000000"])
def test_a_damaged_sidecar_id_is_refused(directory: Path, text: str) -> None:
    directory.mkdir()
    (directory / "sidecar-id").write_text(text)
    assert "must be the UUID of the sidecar" in damage(directory)


def test_records_without_a_sidecar_id_are_refused(directory: Path) -> None:
    write_segment(directory, 1, 1, (1, b"a"))
    (directory / "sidecar-id").unlink()
    assert "sidecar-id is missing" in damage(directory)
