"""Which cores the processes of a measurement run on, so that one part cannot take another's."""

from __future__ import annotations

import contextlib
import os
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
