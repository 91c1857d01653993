"""Faults of a sidecar's disk: full, too small, or gone together with Redis."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Final

import psutil

from persistence.sidecars import declare_dead
from tests.faults.cycle import Cycle
from tests.faults.flood import Flood
from tests.faults.history import NO_ANSWER
from tests.faults.role import Role
from tests.faults.stack import Stack

_FLOOD_RATE: Final = 4_000.0
_DISK_MB: Final = 4
_LEFT_BYTES: Final = 20_000
_CHUNK: Final = 4_096
_UNLIMITED: Final = (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY)


# A journal that may not grow ------------------------------------------------------------------


@contextlib.contextmanager
def small_journals(stack: Stack) -> Iterator[None]:
    """Give sidecars other journals, of 1 MB."""
    size = {"CREDITS_JOURNAL_MAX_MB": "1", "CREDITS_JOURNAL_SEGMENT_MB": "1"}
    for number, sidecar in enumerate(stack.sidecars):
        place = stack.directory / f"small-journal-{number}"
        restart([sidecar], size | {"CREDITS_JOURNAL_DIR": str(place)})
    try:
        yield
    finally:
        restart(stack.sidecars, {})


def full_journal(cycle: Cycle) -> None:
    """The ledger confirms nothing, until the journals have no room for new calls."""
    stack = cycle.stack
    flood = Flood(
        stack.traffic,
        [proxy.port for proxy in stack.client_proxies],
        cycle.history,
        cycle.accounts[:3],
        rate=_FLOOD_RATE,
        seed=cycle.chance.getrandbits(32),
    )
    stack.workers[0].pause()
    flood.start()
    cycle.wait_until(lambda: flood.refused > 0, "a full journal", 60.0)
    cycle.go_on(0.5, 1.5)
    stack.workers[0].resume()
    cycle.mark()
    flood.stop()


# A disk without room --------------------------------------------------------------------------


@contextlib.contextmanager
def small_disks(stack: Stack) -> Iterator[None]:
    """Give sidecars journals on disks of their own, in memory, or none where that is forbidden."""
    with contextlib.ExitStack() as ending:
        for number, sidecar in enumerate(stack.sidecars):
            place = stack.directory / f"disk-{number}"
            ending.enter_context(_disk(place))
            restart([sidecar], {"CREDITS_JOURNAL_DIR": str(place / "journal")})
        ending.callback(restart, stack.sidecars, {})
        yield


def why_no_disks() -> str | None:
    """Return why there cannot be disks of one's own, or None."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return "only root may mount a small disk"
    place = Path("/tmp", f"credits-disk-{uuid.uuid4().hex}")
    try:
        with _disk(place):
            return None
    except subprocess.CalledProcessError as error:
        return f"a small disk could not be mounted: {error}"


def full_disk(cycle: Cycle) -> None:
    """Somebody else fills the disk of a sidecar's journal, and goes away again."""
    number = cycle.chance.randrange(len(cycle.stack.sidecars))
    ballast = cycle.stack.directory / f"disk-{number}" / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(_CHUNK))
    since = monotonic()
    with contextlib.suppress(FileNotFoundError):
        os.truncate(ballast, max(ballast.stat().st_size - _LEFT_BYTES, 0))
    cycle.wait_until(lambda: _is_refusing(cycle, number, since), "a full disk", 60.0)
    cycle.go_on(0.2, 1.0)
    ballast.unlink()
    cycle.mark()


def failing_writes(cycle: Cycle) -> None:
    """No file of a sidecar may grow for a while: every write to its journal fails."""
    number = cycle.chance.randrange(len(cycle.stack.sidecars))
    process = psutil.Process(cycle.stack.sidecars[number].pid)
    since = monotonic()
    process.rlimit(psutil.RLIMIT_FSIZE, (1, psutil.RLIM_INFINITY))
    cycle.wait_until(lambda: _is_refusing(cycle, number, since), "a failed write", 30.0)
    cycle.go_on(0.2, 1.0)
    process.rlimit(psutil.RLIMIT_FSIZE, _UNLIMITED)
    cycle.mark()


# A host that is gone --------------------------------------------------------------------------


def lost_host(cycle: Cycle) -> None:
    """A sidecar, its disk and Redis are lost in one moment; an operator declares it dead."""
    stack = cycle.stack
    number = cycle.chance.randrange(len(stack.sidecars))
    sidecar, journal = stack.sidecars[number], stack.journal(number)
    dead = uuid.UUID((journal / "sidecar-id").read_text().strip())
    sidecar.kill()
    stack.master.kill()
    cycle.mark()
    cycle.dead = (number, monotonic())
    shutil.rmtree(journal)
    stack.master.wipe()
    stack.master.start()
    cycle.go_on(0.0, 1.0)
    with stack.master.client() as client:
        declare_dead(stack.engine, client, dead, "its host burned down", is_forced=True)
    sidecar.start()


def restart(roles: list[Role], extra: dict[str, str]) -> None:
    """Stop roles in peace and start them with other settings."""
    for role in roles:
        role.stop()
        role.extra = extra
        role.start()
    for role in roles:
        role.wait_ready()


def _is_refusing(cycle: Cycle, sidecar: int, since: float) -> bool:
    return any(
        attempt.is_bad and attempt.sidecar == sidecar and attempt.http != NO_ANSWER
        for _, attempt in cycle.history.attempts(since)
    )


@contextlib.contextmanager
def _disk(place: Path) -> Iterator[None]:
    place.mkdir()
    options = f"size={_DISK_MB}m,mode=0700"
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
                       check=True, capture_output=True)  # fmt: skip
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True, capture_output=True)
    finally:
        place.rmdir()
