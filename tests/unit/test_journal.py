"""The journal: appending, confirming by policy, forgetting, and a disk that refuses."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from sidecar.errors import JournalError, JournalFull
from sidecar.meter.journal import Journal
from sidecar.meter.segments import BODY_BYTES, FRAME_BYTES, HEADER_BYTES, read_journal
from tests.unit.journal_support import (
    FaultyDisk,
    append_all,
    eventually,
    names,
    open_journal,
    recovered,
    run,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory for a journal, which does not exist yet, nor does its parent."""
    return tmp_path / "sidecars" / "journal"


@pytest.fixture
def faulty() -> FaultyDisk:
    """A disk that fails on demand."""
    return FaultyDisk()


async def refused(journal: Journal, *bodies: bytes) -> list[str]:
    """Append records in one turn that must all fail with the disk; return the messages."""
    futures = [journal.append(body) for body in bodies]
    errors = await asyncio.gather(*futures, return_exceptions=True)
    assert {type(error) for error in errors} == {JournalError}
    return [str(error) for error in errors]


def errors(registry: CollectorRegistry, kind: str) -> float:
    """Return how many failures of a kind the metrics have."""
    return registry.get_sample_value("credits_journal_errors_total", {"kind": kind}) or 0


# Appending ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fsync", ["none", "interval", "group"])
def test_what_was_appended_is_there_after_a_restart_in_its_order(
    directory: Path, fsync: str
) -> None:
    async def scenario() -> None:
        journal = open_journal(directory, fsync=fsync)
        assert journal.recovered == []
        assert await append_all(journal, b"a", b"", b"c") == [1, 2, 3]
        assert await journal.append(b"d") == 4
        await journal.close()
        again = open_journal(directory, fsync=fsync)
        assert again.recovered == [(1, b"a"), (2, b""), (3, b"c"), (4, b"d")]
        assert again.sidecar_id == journal.sidecar_id
        assert await again.append(b"e") == 5
        await again.close()

    run(scenario())
    assert [number for number, _ in recovered(directory)] == [1, 2, 3, 4, 5]


def test_the_longest_record_is_taken_and_a_longer_one_refused(directory: Path) -> None:
    longest = bytes(BODY_BYTES)

    async def scenario() -> None:
        journal = open_journal(directory)
        assert await journal.append(longest) == 1
        with pytest.raises(JournalError, match="is too long for the journal"):
            journal.append(longest + b"x")
        await journal.close()

    run(scenario())
    assert recovered(directory) == [(1, longest)]


def test_all_records_of_one_turn_of_the_loop_are_one_write(
    directory: Path, faulty: FaultyDisk
) -> None:
    async def scenario() -> None:
        journal = open_journal(directory, disk=faulty.disk)
        await append_all(journal, *(b"%d" % number for number in range(2_000)))
        assert faulty.writes == 1
        await append_all(journal, b"x", b"y")
        assert faulty.writes == 2
        await journal.close()

    run(scenario())


def test_a_record_has_sixteen_bytes_beside_its_body(directory: Path) -> None:
    async def scenario() -> None:
        journal = open_journal(directory)
        await append_all(journal, b"12345", b"")
        assert (FRAME_BYTES, HEADER_BYTES) == (16, 32)
        assert journal.live_bytes == 2 * 16 + 5
        assert journal.file_bytes == 32 + 2 * 16 + 5
        await journal.close()

    run(scenario())


def test_a_call_that_was_cancelled_leaves_no_record(directory: Path) -> None:
    async def scenario() -> None:
        journal = open_journal(directory)
        cancelled, kept = journal.append(b"cancelled"), journal.append(b"kept")
        cancelled.cancel()
        assert await kept == 1
        assert journal.live_records == 1
        await journal.close()

    run(scenario())
    assert recovered(directory) == [(1, b"kept")]


def test_a_call_that_was_cancelled_while_the_disk_works_is_forgotten(
    directory: Path, faulty: FaultyDisk
) -> None:
    async def scenario() -> None:
        journal = open_journal(directory, fsync="group", disk=faulty.disk)
        faulty.may_synchronise.clear()
        cancelled, kept = journal.append(b"cancelled"), journal.append(b"kept")
        await eventually(lambda: faulty.synchronisations)
        cancelled.cancel()
        faulty.may_synchronise.set()
        assert await kept == 2
        assert journal.live_records == 1
        await journal.close()

    run(scenario())


def test_closing_writes_what_is_queued_and_ends_the_journal(directory: Path) -> None:
    async def scenario() -> None:
        journal = open_journal(directory, fsync="group")
        queued = journal.append(b"last")
        await journal.close()
        assert queued.result() == 1
        with pytest.raises(JournalError, match="closed"):
            journal.append(b"later")
        await journal.close()

    run(scenario())
    assert recovered(directory) == [(1, b"last")]


# Synchronising ------------------------------------------------------------------------------


def test_one_synchronisation_confirms_all_that_was_written_before_it(
    directory: Path, faulty: FaultyDisk
) -> None:
    async def scenario() -> None:
        journal = open_journal(directory, fsync="group", disk=faulty.disk)
        await journal.append(b"first")
        before = faulty.synchronisations
        faulty.may_synchronise.clear()
        early = [journal.append(b"early") for _ in range(100)]
        await eventually(lambda: faulty.synchronisations > before)
        late = []
        for _ in range(10):  # turns of the loop while the disk works
            late += [journal.append(b"late") for _ in range(10)]
            await asyncio.sleep(0)
        assert not any(future.done() for future in (*early, *late))
        faulty.may_synchronise.set()
        await asyncio.gather(*early, *late)
        assert faulty.synchronisations == before + 2
        await journal.close()

    run(scenario())


def test_group_confirms_only_after_the_directory_is_synchronised_too(
    directory: Path, faulty: FaultyDisk
) -> None:
    async def scenario() -> None:
        journal = open_journal(directory, fsync="group", disk=faulty.disk)
        before = faulty.directory_synchronisations
        await journal.append(b"the first of a new file")
        assert faulty.directory_synchronisations == before + 1
        await journal.append(b"the second")
        assert faulty.directory_synchronisations == before + 1
        await journal.close()

    run(scenario())


def test_interval_confirms_at_once_and_synchronises_later(
    directory: Path, faulty: FaultyDisk
) -> None:
    async def scenario() -> None:
        journal = open_journal(directory, fsync="interval", disk=faulty.disk)
        faulty.may_synchronise.clear()
        assert await journal.append(b"a") == 1
        await eventually(lambda: faulty.synchronisations == 1)
        assert await journal.append(b"b") == 2
        faulty.may_synchronise.set()
        await eventually(lambda: faulty.synchronisations == 2, "the synchronisation of the rest")
        await journal.close()
        assert faulty.synchronisations == 2  # nothing was left to do

    run(scenario())


def test_closing_synchronises_what_is_not_yet(directory: Path, faulty: FaultyDisk) -> None:
    async def scenario() -> None:
        journal = open_journal(directory, fsync="interval", disk=faulty.disk)
        await journal.append(b"a")
        await journal.close()
        path = directory / "000000000001.open"
        assert faulty.synced_bytes[path.stat().st_ino] == path.stat().st_size

    run(scenario())


def test_none_never_synchronises(directory: Path, faulty: FaultyDisk) -> None:
    async def scenario() -> None:
        for _ in range(2):
            journal = open_journal(directory, disk=faulty.disk, segment_bytes=64)
            await append_all(journal, b"a" * 64)
            for number, _ in journal.recovered:
                journal.forget(number)
            await journal.tidy()
            await journal.close()
        assert faulty.synchronisations == faulty.directory_synchronisations == 0

    run(scenario())


# Bounds -------------------------------------------------------------------------------------


def test_a_full_journal_refuses_but_has_a_tenth_more_for_what_is_urgent(directory: Path) -> None:
    registry = CollectorRegistry()
    body = bytes(1_000 - FRAME_BYTES)

    async def scenario() -> None:
        journal = open_journal(directory, max_bytes=10_100, registry=registry)
        for _ in range(10):
            await journal.append(body)
        assert not journal.problem
        with pytest.raises(JournalFull, match="is full: 10032 of 10100 bytes"):
            journal.append(body)
        assert journal.problem is not None
        assert "see whether a worker and Postgres run" in journal.problem
        assert await journal.append(body, is_urgent=True) == 11
        with pytest.raises(JournalFull):
            journal.append(body, is_urgent=True)
        await journal.close()

    run(scenario())
    assert registry.get_sample_value("credits_journal_refusals_total") == 2
    assert len(recovered(directory)) == 11


def test_what_is_queued_counts_against_the_bound(directory: Path) -> None:
    async def scenario() -> None:
        journal = open_journal(directory, max_bytes=1_000)
        queued = journal.append(bytes(900))
        with pytest.raises(JournalFull):
            journal.append(bytes(100))
        await queued
        await journal.close()

    run(scenario())


@pytest.mark.parametrize("fsync", ["none", "interval", "group"])
@pytest.mark.parametrize("segment_bytes", [1_000, 10_000])
def test_a_full_journal_takes_records_again_once_some_are_forgotten(
    directory: Path, fsync: str, segment_bytes: int
) -> None:
    async def scenario() -> None:
        journal = open_journal(
            directory, fsync=fsync, max_bytes=10_000, segment_bytes=segment_bytes
        )
        fits = 19 if segment_bytes == 10_000 else 18
        numbers = [await journal.append(bytes(500)) for _ in range(fits)]
        assert journal.segments == (1 if segment_bytes == 10_000 else 9)
        with pytest.raises(JournalFull):
            journal.append(bytes(500))
        for number in numbers:
            journal.forget(number)
        await eventually(lambda: journal.file_bytes < 2_000)
        assert not journal.problem
        assert await append_all(journal, *[bytes(500)] * 13) == list(range(fits + 1, fits + 14))
        await journal.close()

    run(scenario())


def test_forgetting_twice_or_what_never_was_does_nothing(directory: Path) -> None:
    async def scenario() -> None:
        journal = open_journal(directory)
        await append_all(journal, b"a", b"b")
        for number in (1, 1, 0, 3, 99):
            journal.forget(number)
        assert (journal.live_records, journal.live_bytes) == (1, FRAME_BYTES + 1)
        await journal.close()

    run(scenario())


# A disk that refuses ------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, HEADER_BYTES, HEADER_BYTES + FRAME_BYTES + 3])
def test_a_turn_that_the_disk_does_not_take_leaves_nothing(
    directory: Path, faulty: FaultyDisk, room: int
) -> None:
    registry = CollectorRegistry()

    async def scenario() -> None:
        journal = open_journal(directory, disk=faulty.disk, registry=registry)
        with faulty.full_after(room):
            messages = await refused(journal, b"abc", b"def")
            assert all("failed to write: [Errno 28] No space left" in one for one in messages)
            assert journal.problem in messages
            assert journal.live_records == 0
            assert read_journal(directory) == []
        assert await journal.append(b"ghi") == 1
        assert not journal.problem
        await journal.close()

    run(scenario())
    assert recovered(directory) == [(1, b"ghi")]
    assert errors(registry, "write") >= 1


def test_a_write_that_does_nothing_is_a_failure(directory: Path, faulty: FaultyDisk) -> None:
    async def scenario() -> None:
        journal = open_journal(directory, disk=faulty.disk)
        await journal.append(b"a")
        faulty.most_bytes = 0
        assert "nothing was written" in (await refused(journal, b"b"))[0]
        faulty.most_bytes = None
        assert await journal.append(b"c") == 2
        await journal.close()

    run(scenario())
    assert recovered(directory) == [(1, b"a"), (2, b"c")]


def test_a_short_write_is_continued(directory: Path, faulty: FaultyDisk) -> None:
    async def scenario() -> None:
        journal = open_journal(directory, disk=faulty.disk)
        faulty.most_bytes = 7
        await append_all(journal, b"a" * 100, b"b" * 100)
        await journal.close()

    run(scenario())
    assert recovered(directory) == [(1, b"a" * 100), (2, b"b" * 100)]


def test_the_journal_finds_out_by_itself_that_the_disk_is_well_again(
    directory: Path, faulty: FaultyDisk
) -> None:
    async def scenario() -> None:
        journal = open_journal(directory, disk=faulty.disk)
        await journal.append(b"a")
        with faulty.full_after(3):
            await refused(journal, b"b")
            await journal.tidy()
            assert journal.problem is not None
        await eventually(lambda: journal.problem is None)
        await journal.close()

    run(scenario())
    assert recovered(directory) == [(1, b"a")]


def test_a_file_that_cannot_be_made_is_a_failure_that_may_pass(directory: Path) -> None:
    async def scenario() -> None:
        journal = open_journal(directory)
        obstacle = directory / "000000000001.open"
        obstacle.mkdir()
        await refused(journal, b"a")
        obstacle.rmdir()
        assert await journal.append(b"b") == 1
        await journal.close()

    run(scenario())
    assert recovered(directory) == [(1, b"b")]


def test_a_journal_that_cannot_be_cut_back_is_broken(directory: Path, faulty: FaultyDisk) -> None:
    registry = CollectorRegistry()

    async def scenario() -> None:
        journal = open_journal(directory, disk=faulty.disk, registry=registry)
        await journal.append(b"a")
        faulty.fails_truncate = True
        with faulty.full_after(5):
            await refused(journal, b"b")
        writes = faulty.writes
        with pytest.raises(JournalError, match="is broken: it failed to cut back"):
            journal.append(b"c")
        with pytest.raises(JournalError, match="is broken"):
            await journal.tidy()
        assert faulty.writes == writes
        assert journal.problem is not None
        await journal.close()

    run(scenario())
    assert errors(registry, "cut back") == 1
    assert recovered(directory) == [(1, b"a")]


def test_a_failed_synchronisation_fails_what_waits_and_is_never_repeated(
    directory: Path, faulty: FaultyDisk
) -> None:
    registry = CollectorRegistry()

    async def scenario() -> None:
        journal = open_journal(directory, fsync="group", disk=faulty.disk, registry=registry)
        await journal.append(b"a")
        before = faulty.synchronisations
        faulty.fails_synchronise = True
        faulty.may_synchronise.clear()
        early = journal.append(b"b")
        await eventually(lambda: faulty.synchronisations > before)
        size = journal.file_bytes
        late = journal.append(b"c")
        await eventually(lambda: journal.file_bytes > size)
        faulty.may_synchronise.set()
        for future in (early, late):
            with pytest.raises(JournalError, match="is broken: it failed to synchronise"):
                await future
        faulty.fails_synchronise = False
        with pytest.raises(JournalError, match="is broken"):
            journal.append(b"d")
        assert journal.problem is not None
        await journal.close()
        assert faulty.synchronisations == before + 1

    run(scenario())
    assert errors(registry, "synchronise") == 1


def test_interval_is_broken_by_a_failed_synchronisation_too(
    directory: Path, faulty: FaultyDisk
) -> None:
    async def scenario() -> None:
        journal = open_journal(directory, fsync="interval", disk=faulty.disk)
        faulty.fails_synchronise = True
        await journal.append(b"a")
        await eventually(lambda: journal.problem is not None)
        with pytest.raises(JournalError, match="is broken"):
            journal.append(b"b")
        await journal.close()
        assert faulty.synchronisations == 1

    run(scenario())


# The directory ------------------------------------------------------------------------------


def test_only_its_user_can_read_a_journal(directory: Path) -> None:
    async def scenario() -> None:
        journal = open_journal(directory)
        await journal.append(b"a")
        await journal.close()

    run(scenario())
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


def test_a_journal_is_one_sidecars_at_a_time(directory: Path) -> None:
    async def scenario() -> None:
        journal = open_journal(directory)
        with pytest.raises(JournalError, match=r"in use by process \d+: stop that sidecar, or"):
            open_journal(directory)
        await journal.close()
        await open_journal(directory).close()

    run(scenario())


def test_a_directory_that_cannot_be_used_is_refused_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "journal"):
        with pytest.raises(JournalError, match="may write to in CREDITS_JOURNAL_DIR"):
            open_journal(path)


def test_a_journal_that_could_not_be_opened_is_not_locked(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "000000000001.sealed").write_bytes(b"damaged")
    for _ in range(2):
        with pytest.raises(JournalError, match="sidecar-id is missing"):
            open_journal(directory)
    (directory / "000000000001.sealed").unlink()
    run(open_journal(directory).close())


def test_the_metrics_say_how_much_there_is(directory: Path) -> None:
    registry = CollectorRegistry()

    async def scenario() -> None:
        journal = open_journal(directory, registry=registry)
        await append_all(journal, b"a", b"b")
        journal.forget(1)
        assert registry.get_sample_value("credits_journal_records") == 1
        assert registry.get_sample_value("credits_journal_file_bytes") == journal.file_bytes
        assert registry.get_sample_value("credits_journal_append_seconds_count") == 1
        assert names(directory) == ["000000000001.open"]
        assert journal.segments == 1
        await journal.close()

    run(scenario())
