"""Which cores the processes of a measurement run on, and how much of them others took."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores of what is measured, and those of everything else. Both empty: nothing is pinned.

    A thread hands its cores down to the processes that it starts.
    """

    measured: frozenset[int] = frozenset()
    others: frozenset[int] = frozenset()

    @classmethod
    def halves(cls) -> Cores:
        """Return one half of the cores each, unpinned where that cannot be had.

        Threads of one core stay together, as far as the machine says what they are.
        """
        if not hasattr(os, "sched_getaffinity"):
            return cls()
        cores = sorted(os.sched_getaffinity(0), key=_place)
        half = len(cores) // 2
        return cls(frozenset(cores[:half]), frozenset(cores[half:])) if half else cls()

    def __str__(self) -> str:
        if not self.measured:
            return "not pinned: everything shares all cores"
        return (
            f"probe, serve and Redis on {_list(self.measured)}; "
            f"control, worker, Postgres and senders on {_list(self.others)}"
        )


@contextlib.contextmanager
def on(cores: frozenset[int]) -> Iterator[None]:
    """Keep this thread, and what it starts, on some cores; with none, wherever it was."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Intruders:
    """Tells how much of some cores processes took that are not kept there by this one."""

    def __init__(self, cores: frozenset[int]) -> None:
        self._cores = cores
        self._began = time.monotonic()
        self._taken = _taken_seconds(cores)

    def share(self) -> float | None:
        """Return the share since the beginning, 0 to 1; None of no cores."""
        possible = (time.monotonic() - self._began) * len(self._cores)
        taken = _taken_seconds(self._cores) - self._taken
        return max(0.0, taken / possible) if possible else None


def _taken_seconds(cores: frozenset[int]) -> float:
    """Return what the cores worked less what was our own, in seconds since some instant."""
    if not cores:
        return 0.0
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    by_core = {words[0]: [int(word) for word in words[1:]] for words in lines if words}
    # user, nice, system, and what the host took; interrupts are of nobody.
    ticks = sum(by_core[f"cpu{core}"][column] for core in cores for column in (0, 1, 2, 7))
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    ours = [pid for pid in map(int, children) if os.sched_getaffinity(pid) == cores]
    return (ticks - sum(map(_ticks_of, ours))) / os.sysconf("SC_CLK_TCK") - time.process_time()


def _ticks_of(pid: int) -> int:
    # The name stands in brackets and may have spaces in it.
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def _place(core: int) -> tuple[int, int, int]:
    topology = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        package, own = (
            int((topology / name).read_text()) for name in ("physical_package_id", "core_id")
        )
    except (OSError, ValueError):
        return 0, 0, core
    return package, own, core


def _list(cores: frozenset[int]) -> str:
    return f"core{'s' if len(cores) > 1 else ''} {', '.join(map(str, sorted(cores)))}"
