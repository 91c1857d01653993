"""The journal when its process is killed, its disk is full, or its machine loses power."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from sidecar.errors import JournalError, JournalFull
from sidecar.meter.journal import Journal
from sidecar.meter.segments import read_journal
from tests.unit.journal_support import (
    DEADLINE_SECONDS,
    FaultyDisk,
    eventually,
    names,
    open_journal,
    run,
)

_WRITING: Final = """
import asyncio, sys
from pathlib import Path
from tests.unit.journal_support import open_journal

async def main():
    journal = open_journal(Path(sys.argv[1]), fsync=sys.argv[2], segment_bytes=20_000)
    async def call(at):
        while True:
            number = await journal.append(b"%d" % at * (at + 1))
            # What a caller is told goes to the kernel, as an answer to a client would.
            print(number, at, flush=True)
            if number % 10:
                journal.forget(number)
    await asyncio.gather(*(call(at) for at in range(20)))

asyncio.run(main())
"""


@contextlib.contextmanager
def writing(directory: Path, fsync: str) -> Iterator[subprocess.Popen[str]]:
    """Let a process of its own write to a journal until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITING, str(directory), fsync],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("fsync", ["none", "interval", "group"])
def test_what_a_killed_process_reported_is_in_its_journal(tmp_path: Path, fsync: str) -> None:
    told: dict[int, bytes] = {}
    for _ in range(3):
        with writing(tmp_path, fsync) as process:
            assert process.stdout is not None
            for _ in range(2_000 if fsync != "group" else 200):
                number, _, at = process.stdout.readline().strip().partition(" ")
                told[int(number)] = at.encode() * (int(at) + 1)
            process.send_signal(signal.SIGKILL)
            for line in process.stdout.read().splitlines(keepends=True):
                number, _, at = line.strip().partition(" ")
                if line.endswith("\n"):
                    told[int(number)] = at.encode() * (int(at) + 1)
            assert process.wait(DEADLINE_SECONDS) == -signal.SIGKILL
        found = dict(read_journal(tmp_path))
        needed = {number for number in told if number % 10 == 0}
        assert needed <= found.keys()
        assert {number: found[number] for number in told.keys() & found} == {
            number: told[number] for number in told.keys() & found
        }


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    with writing(tmp_path, "none") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        with pytest.raises(JournalError, match=f"in use by process {process.pid}:"):
            open_journal(tmp_path)
        process.kill()
        process.wait(DEADLINE_SECONDS)
    run(open_journal(tmp_path).close())


# A disk that is really full -----------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 256 KiB."""
    with tempfile.TemporaryDirectory(prefix="credits-test-") as directory:
        command = ["mount", "-t", "tmpfs", "-o", "size=256k", "credits-test", directory]
        if subprocess.run(command, check=False, capture_output=True).returncode != 0:
            pytest.skip("this user may not mount; the same is tested with a disk of ours")
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", directory], check=True)


@pytest.mark.parametrize("fsync", ["none", "interval", "group"])
def test_a_full_disk_refuses_without_loss_and_takes_records_again(
    small_disk: Path, fsync: str
) -> None:
    async def scenario() -> dict[int, bytes]:
        journal = open_journal(small_disk / "journal", fsync=fsync, segment_bytes=40_000)
        told = await _fill(journal)
        assert "No space left on device" in str(journal.problem)
        assert dict(read_journal(small_disk / "journal")) == told
        for number in list(told)[:100]:
            journal.forget(number)
            del told[number]
        await journal.tidy()
        told[await journal.append(b"after")] = b"after"
        assert not journal.problem
        await journal.close()
        return told

    told = run(scenario())
    found = read_journal(small_disk / "journal")
    assert [entry for entry in found if entry[0] in told] == sorted(told.items())


async def _fill(journal: Journal) -> dict[int, bytes]:
    told: dict[int, bytes] = {}
    while True:
        body = b"%d" % len(told) * 200
        futures = [journal.append(body) for _ in range(5)]
        results = await asyncio.gather(*futures, return_exceptions=True)
        if isinstance(results[0], BaseException):
            assert all(isinstance(one, JournalError) for one in results)
            return told
        told |= {number: body for number in results if isinstance(number, int)}


# Random histories ---------------------------------------------------------------------------


class Histories(RuleBasedStateMachine):
    """A journal with segments of a few records, against what its callers were told.

    `told` are the records that were confirmed and not forgotten, `safe` those of them that the
    policy promises even when the machine loses power; `ever` is all that was ever confirmed, and
    `refused` what was reported as not written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.parent = Path(tempfile.mkdtemp(prefix="credits-test-"))
        self.directory = self.parent / "0"
        self.lives = 0
        self.bodies = 0
        self.told: set[int] = set()
        self.safe: set[int] = set()
        self.ever: dict[int, bytes] = {}
        self.fsync = "none"

    def do_open(self) -> None:
        self.faulty = FaultyDisk()
        self.journal = self.loop.run_until_complete(self._opened())

    async def _opened(self) -> Journal:
        return open_journal(
            self.directory,
            fsync=self.fsync,
            max_bytes=4_000,
            segment_bytes=300,
            disk=self.faulty.disk,
        )

    def teardown(self) -> None:
        self.loop.run_until_complete(self.journal.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.parent)

    @initialize(fsync=st.sampled_from(["none", "interval", "group"]))
    def begin(self, fsync: str) -> None:
        self.fsync = fsync
        self.do_open()

    @rule(
        sizes=st.lists(st.sampled_from([0, 1, 30, 200, 500]), min_size=1, max_size=6),
        is_urgent=st.booleans(),
        room=st.none() | st.integers(0, 400),
    )
    def append(self, sizes: list[int], is_urgent: bool, room: int | None) -> None:
        self.faulty.room = room
        self.loop.run_until_complete(self._append(sizes, is_urgent=is_urgent))
        self.faulty.room = None

    async def _append(self, sizes: list[int], *, is_urgent: bool) -> None:
        futures = {}
        for size in sizes:
            self.bodies += 1
            body = (b"%08d" % self.bodies) + bytes([self.bodies % 256]) * size
            with contextlib.suppress(JournalFull):
                futures[self.journal.append(body, is_urgent=is_urgent)] = body
        results = await asyncio.gather(*futures, return_exceptions=True)
        for result, body in zip(results, futures.values(), strict=True):
            if isinstance(result, int):
                assert result not in self.told
                self.ever[result] = body
                self.told.add(result)
                if self.fsync == "group":
                    self.safe.add(result)
            else:
                assert isinstance(result, JournalError)

    @precondition(lambda self: self.told)
    @rule(data=st.data(), most=st.integers(1, 12))
    def forget(self, data: st.DataObject, most: int) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.told)), max_size=most))
        self.loop.run_until_complete(self._forget(chosen))

    async def _forget(self, numbers: list[int]) -> None:
        for number in numbers:
            self.journal.forget(number)
            self.told.discard(number)
            self.safe.discard(number)

    @rule(room=st.none() | st.integers(0, 100))
    def tidy(self, room: int | None) -> None:
        self.faulty.room = room
        before = set(self.told)
        self.loop.run_until_complete(self.journal.tidy())
        self.faulty.room = None
        # The housekeeping of its own may be removing a file just now.
        self.loop.run_until_complete(eventually(self._is_as_on_disk))
        if self.fsync != "none":
            self.safe |= before

    def _is_as_on_disk(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            sizes = [(self.directory / name).stat().st_size for name in names(self.directory)]
            return (self.journal.file_bytes, self.journal.segments) == (sum(sizes), len(sizes))
        return False

    @rule()
    def restart(self) -> None:
        self.loop.run_until_complete(self.journal.close())
        self._reopen()
        assert self.told <= dict(self.journal.recovered).keys()

    @rule()
    def kill(self) -> None:
        self._crash()
        assert self.told <= dict(self.journal.recovered).keys()

    @precondition(lambda self: self.fsync != "none")
    @rule(data=st.data())
    def lose_power(self, data: st.DataObject) -> None:
        """Of each file, lose what was not synchronised from some byte on."""
        self._crash(data)
        assert self.safe <= dict(self.journal.recovered).keys()
        self.told &= dict(self.journal.recovered).keys()

    def _crash(self, data: st.DataObject | None = None) -> None:
        left = self.parent / str(self.lives + 1)
        _copy(self.directory, left)
        for name in names(self.directory) if data is not None else ():
            status = (self.directory / name).stat()
            synced = self.faulty.synced_bytes.get(status.st_ino, 0)
            if name.endswith(".open") and synced < status.st_size:
                assert data is not None
                kept = data.draw(st.integers(synced, status.st_size), label=f"bytes of {name}")
                os.truncate(left / name, kept)
                if data.draw(st.booleans(), label="zeros"):
                    os.truncate(left / name, status.st_size)
        self.loop.run_until_complete(self.journal.close())
        self.lives += 1
        self.directory = left
        self._reopen()

    def _reopen(self) -> None:
        self.do_open()
        found = dict(self.journal.recovered)
        assert len(found) == len(self.journal.recovered) == self.journal.live_records
        # Nothing but what was confirmed once, as it was confirmed; in the order of its numbers.
        assert found.items() <= self.ever.items()
        assert list(found) == sorted(found)
        self.loop.run_until_complete(self._forget(sorted(found.keys() - self.told)))
        self.ever = {number: self.ever[number] for number in found}

    @invariant()
    def the_counts_are_right(self) -> None:
        if self.bodies or self.lives:
            assert self.journal.live_records == len(self.told)
            # A compaction may go over the bound for a moment, by half of a segment.
            assert self.journal.file_bytes <= 4_400 + 2_000

    @invariant()
    def what_was_told_can_be_read(self) -> None:
        found = dict(read_journal(self.directory)) if self.bodies else {}
        assert self.told <= found.keys()


def _copy(directory: Path, left: Path) -> None:
    """Copy a directory in which a thread may be renaming and removing files."""
    while True:
        try:
            shutil.copytree(directory, left)
        except (shutil.Error, FileNotFoundError):
            shutil.rmtree(left)
        else:
            return


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_no_history_loses_or_invents_a_record = Histories.TestCase
