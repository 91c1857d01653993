"""The journal's housekeeping: what is removed, sealed and compacted, and what never is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client import CollectorRegistry

from sidecar.meter.journal import Journal
from sidecar.meter.segments import HEADER_BYTES, read_journal
from tests.unit.journal_support import (
    FaultyDisk,
    append_all,
    eventually,
    names,
    open_journal,
    recovered,
    run,
)

BODY: Final = b"x" * 84  # a record of 100 bytes
POLICIES: Final = ("none", "interval", "group")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory for a journal, which does not exist yet."""
    return tmp_path / "journal"


async def with_segments(directory: Path, segments: int, **options: Any) -> Journal:
    """Open a journal with segments of ten records; the last one is the active one."""
    journal = open_journal(directory, segment_bytes=HEADER_BYTES + 1_000, **options)
    for at in range(segments):
        numbers = await append_all(journal, *[BODY] * 10)
        assert numbers == list(range(at * 10 + 1, at * 10 + 11))
    return journal


def forget_all(journal: Journal, *numbers: int, but: tuple[int, ...] = ()) -> None:
    for number in numbers:
        if number not in but:
            journal.forget(number)


@pytest.mark.parametrize("fsync", POLICIES)
def test_a_segment_goes_when_none_of_its_records_is_needed(directory: Path, fsync: str) -> None:
    async def scenario() -> None:
        journal = await with_segments(directory, 3, fsync=fsync)
        forget_all(journal, *range(11, 21))
        await eventually(lambda: journal.segments == 2)
        assert journal.file_bytes == 2 * (HEADER_BYTES + 1_000)
        await journal.close()

    run(scenario())
    assert [number for number, _ in recovered(directory)] == [*range(1, 11), *range(21, 31)]


def test_the_newest_segment_stays_and_knows_which_numbers_were_used(directory: Path) -> None:
    async def scenario() -> None:
        journal = await with_segments(directory, 3)
        forget_all(journal, *range(1, 31))
        await journal.close()
        for _ in range(3):
            journal = open_journal(directory)
            forget_all(journal, *(number for number, _ in journal.recovered))
            await journal.tidy()
            assert len(names(directory)) == 1
            await journal.close()
        journal = open_journal(directory)
        assert await journal.append(b"a") == 31
        await journal.close()

    run(scenario())


@pytest.mark.parametrize(
    ("fsync", "kinds"),
    [
        ("none", ["open", "open", "open"]),
        ("interval", ["sealed", "sealed", "open"]),
        ("group", ["sealed", "sealed", "open"]),
    ],
)
def test_complete_segments_are_sealed_unless_they_are_never_synchronised(
    directory: Path, fsync: str, kinds: list[str]
) -> None:
    async def scenario() -> None:
        journal = await with_segments(directory, 3, fsync=fsync)
        await journal.tidy()
        assert [name.partition(".")[2] for name in names(directory)] == kinds
        await journal.close()

    run(scenario())
    assert len(recovered(directory)) == 30


@pytest.mark.parametrize("fsync", POLICIES)
def test_what_is_needed_of_a_mostly_dead_segment_is_written_again(
    directory: Path, fsync: str
) -> None:
    async def scenario() -> None:
        journal = await with_segments(directory, 3, fsync=fsync)
        forget_all(journal, *range(1, 11), but=(3, 7))
        before = journal.live_bytes
        await eventually(lambda: names(directory)[0].startswith("000000000002"))
        assert (journal.live_records, journal.live_bytes) == (22, before)
        # Where it is now, it can be forgotten and compacted again.
        journal.forget(3)
        more = await append_all(journal, *[BODY] * 10)
        assert more == list(range(31, 41))
        forget_all(journal, *range(11, 31), *more)
        assert journal.live_records == 1
        await journal.append(b"new")
        await eventually(lambda: journal.segments == 1)
        await journal.close()

    run(scenario())
    assert recovered(directory) == [(7, BODY), (41, b"new")]


def test_a_segment_of_which_much_is_needed_is_left_alone(directory: Path) -> None:
    async def scenario() -> None:
        journal = await with_segments(directory, 2)
        forget_all(journal, *range(1, 11), but=(1, 2, 3))
        await journal.tidy()
        assert journal.file_bytes == 2 * (HEADER_BYTES + 1_000)
        await journal.close()

    run(scenario())


def test_when_the_disk_is_short_segments_are_compacted_earlier(directory: Path) -> None:
    async def scenario() -> None:
        journal = await with_segments(directory, 2, max_bytes=4_000)
        forget_all(journal, *range(1, 11), but=(1, 2, 3, 4, 5))
        await journal.tidy()
        await journal.tidy()
        assert journal.file_bytes == 2 * HEADER_BYTES + 1_000 + 500
        await journal.close()

    run(scenario())
    assert [number for number, _ in recovered(directory)] == [1, 2, 3, 4, 5, *range(11, 21)]


def test_an_old_segment_goes_only_after_its_copies_are_on_the_disk(directory: Path) -> None:
    faulty = FaultyDisk()

    async def scenario() -> None:
        journal = await with_segments(directory, 2, fsync="interval", disk=faulty.disk)
        await journal.tidy()
        forget_all(journal, *range(1, 11), but=(5,))
        await journal.tidy()
        assert names(directory)[0] == "000000000001.sealed"  # copied, and not yet synchronised
        assert [number for number, _ in read_journal(directory)] == [*range(1, 21)]
        await eventually(lambda: len(names(directory)) == 2)
        newest = directory / "000000000003.open"
        assert faulty.synced_bytes[newest.stat().st_ino] == newest.stat().st_size
        await journal.close()

    run(scenario())


def test_a_crash_amid_a_compaction_loses_and_doubles_nothing(directory: Path) -> None:
    faulty = FaultyDisk()

    async def scenario() -> None:
        journal = await with_segments(directory, 2, fsync="interval", disk=faulty.disk)
        await journal.tidy()
        forget_all(journal, *range(1, 11), but=(5, 6))
        faulty.fails_synchronise = True  # the copies are written, and the old segment stays
        await journal.tidy()
        await journal.close()

    run(scenario())
    assert names(directory)[0] == "000000000001.sealed"
    assert recovered(directory) == [(number, BODY) for number in range(1, 21)]


def test_a_compaction_that_the_disk_refuses_keeps_the_old_segment(directory: Path) -> None:
    faulty, registry = FaultyDisk(), CollectorRegistry()

    async def scenario() -> None:
        journal = await with_segments(directory, 2, disk=faulty.disk, registry=registry)
        forget_all(journal, *range(1, 11), but=(5,))
        with faulty.full_after(50):
            await journal.tidy()
            assert journal.problem is not None
            assert "failed to compact: [Errno 28]" in journal.problem
        assert [number for number, _ in read_journal(directory)] == list(range(1, 21))
        await eventually(lambda: names(directory)[0].startswith("000000000002"))
        await journal.close()

    run(scenario())
    assert (5, BODY) in recovered(directory)
    name = "credits_journal_errors_total"
    assert registry.get_sample_value(name, {"kind": "compact"})


def test_a_record_that_rotted_is_not_copied_and_its_segment_stays(directory: Path) -> None:
    async def scenario() -> None:
        journal = await with_segments(directory, 2)
        forget_all(journal, *range(1, 11), but=(1,))
        path = directory / "000000000001.open"
        path.write_bytes(path.read_bytes().replace(b"x", b"y", 1))
        await journal.tidy()
        assert journal.problem is not None
        assert "record 1 in" in journal.problem
        await journal.tidy()
        assert names(directory)[0] == path.name
        assert journal.live_records == 11
        await journal.close()

    run(scenario())


def test_a_large_segment_is_compacted_in_pieces_while_records_come_and_go(directory: Path) -> None:
    async def scenario() -> None:
        journal = open_journal(directory, segment_bytes=1 << 20)
        body = bytes(30_000)
        await append_all(journal, *[body] * 200)
        await append_all(journal, b"in the next segment")
        forget_all(journal, *range(1, 201), but=tuple(range(5, 201, 5)))
        added = []
        tidied = False

        async def traffic() -> None:
            while not tidied:
                added.append(await journal.append(b"meanwhile"))
                if len(added) == 2:
                    forget_all(journal, 5, 195, 200)  # before and after their turn came

        task = asyncio.create_task(traffic())
        await eventually(lambda: names(directory)[0] != "000000000001.open")
        tidied = True
        await task
        assert journal.live_records == 37 + 1 + len(added)
        await journal.close()
        expected = [*range(10, 195, 5), 201, *added]
        kept = [number for number, _ in read_journal(directory) if number not in (5, 195, 200)]
        assert kept == expected

    run(scenario())
