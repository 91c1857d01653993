"""Processes that keep cores busy with nothing: what a flood costs that has nothing to do with it.

On a machine that is not ours alone, whatever is busy on the other cores drives strangers over to
the measured ones. This does the same, and touches neither Redis nor Postgres nor the webhook.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

from loadtests import cores
from loadtests.flooder import Flooded
from sidecar.dev import processes

_STOP_SECONDS: Final = 10.0


class Burner:
    """Stands in for a flood: `count` processes on some cores, from `begin` to `end`."""

    def __init__(self, count: int, on: frozenset[int]) -> None:
        self._count = count
        self._cores = on
        self._running: list[subprocess.Popen[bytes]] = []
        self._began = 0.0

    def begin(self) -> None:
        """Start them."""
        self._began = time.perf_counter()
        command = [sys.executable, "-I", "-S", "-c", "while True: pass"]
        with cores.on(self._cores):
            for _ in range(self._count):
                self._running.append(processes.start(command, stdout=subprocess.DEVNULL))

    def end(self) -> Flooded:
        """End them; nothing was delivered."""
        while self._running:
            processes.stop(self._running.pop(), [signal.SIGTERM], _STOP_SECONDS)
        return Flooded(seconds=time.perf_counter() - self._began)


@contextlib.contextmanager
def burning(count: int, on: frozenset[int]) -> Iterator[Burner]:
    """Have them, not started; none outlives the block."""
    burner = Burner(count, on)
    try:
        yield burner
    finally:
        burner.end()
