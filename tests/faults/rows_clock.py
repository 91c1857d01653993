"""Wall clocks that jump: of Redis, of a sidecar, of the worker.

The processes are started with a small library before them (`clock.c`) that adds an offset, read
from a file, to what the system's clock says.
"""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.faults.cycle import Cycle
from tests.faults.rows_disk import restart
from tests.faults.stack import Stack

_SOURCE: Final = Path(__file__).with_name("clock.c")
_SECOND_NS: Final = 1_000_000_000
_MOST_SECONDS: Final = 240.0  # well below the life of a hold, or all would have expired
_JUMPS: Final = 3


def why_no_clocks() -> str | None:
    """Return why clocks cannot be made to jump, or None."""
    return None if shutil.which("cc") else "no C compiler to build the clock's library with"


@contextlib.contextmanager
def loose_clocks(stack: Stack) -> Iterator[None]:
    """Start Redis, the sidecars and the worker with clocks that can be set."""
    library = stack.directory / "clock.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"],
        check=True,
        capture_output=True,
    )
    for name in _names(stack):
        _set(stack, name, 0.0)
    _restart_with(stack, {name: _preload(stack, library, name) for name in _names(stack)})
    try:
        yield
    finally:
        _restart_with(stack, {})


def jumping_clocks(cycle: Cycle) -> None:
    """One clock after another jumps forth or back, and some come back in the end."""
    for _ in range(_JUMPS):
        name = cycle.chance.choice(_names(cycle.stack))
        _set(cycle.stack, name, cycle.chance.uniform(-_MOST_SECONDS, _MOST_SECONDS))
        cycle.mark()
        cycle.go_on(0.2, 1.0)
    if cycle.chance.random() < 0.5:
        _set(cycle.stack, cycle.chance.choice(_names(cycle.stack)), 0.0)


def _names(stack: Stack) -> list[str]:
    return ["redis", stack.workers[0].name, *(sidecar.name for sidecar in stack.sidecars)]


def _set(stack: Stack, name: str, seconds: float) -> None:
    # In place: the processes have the file mapped.
    path = _file(stack, name)
    path.touch()
    with path.open("r+b") as file:
        file.write(struct.pack("q", int(seconds * _SECOND_NS)))


def _file(stack: Stack, name: str) -> Path:
    return stack.directory / f"clock-{name}"


def _preload(stack: Stack, library: Path, name: str) -> dict[str, str]:
    return {"LD_PRELOAD": str(library), "FAULT_CLOCK": str(_file(stack, name))}


def _restart_with(stack: Stack, environments: dict[str, dict[str, str]]) -> None:
    for role in (stack.workers[0], *stack.sidecars):
        restart([role], environments.get(role.name, {}))
    stack.master.stop()
    stack.master.environment = environments.get("redis", {})
    stack.master.start()
    for role in (stack.workers[0], *stack.sidecars):
        role.wait_ready()
