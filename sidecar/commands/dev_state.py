"""What a running `dev` leaves in its data directory, so that other commands find it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from sidecar.errors import CreditsError

DEFAULT_DATA_DIRECTORY: Final = Path(".credits-dev")

_STATE: Final = "dev.json"
_LOCK: Final = "lock"


class DevNotRunning(CreditsError):
    """Raised when a data directory has no running `dev`."""


class DevAlreadyRunning(CreditsError):
    """Raised when a data directory is another `dev`'s."""


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Have the data directory to oneself, making it when it is not there.

    The lock is the kernel's, so it ends with the process however that ends. Raises
    `DevAlreadyRunning`.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / _LOCK).open("a+") as lock:
        if not _try_lock(lock.fileno()):
            lock.seek(0)
            raise DevAlreadyRunning(
                f"Another `credit-sidecar dev` (process {lock.read().strip() or '?'}) runs on "
                f"{directory}: stop it, or give this one a --data-dir of its own."
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            (directory / _STATE).unlink(missing_ok=True)


def write(directory: Path, variables: Mapping[str, str]) -> None:
    """Write the variables for other commands; only this user can read them."""
    path = directory / f"{_STATE}.new"
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(dict(variables), file, indent=2)
    path.rename(directory / _STATE)


def read(directory: Path) -> dict[str, str]:
    """Return the variables of the `dev` that runs on a data directory. Raises `DevNotRunning`."""
    try:
        with (directory / _LOCK).open() as lock:
            is_running = not _try_lock(lock.fileno())
        variables = json.loads((directory / _STATE).read_text()) if is_running else None
    except FileNotFoundError:
        variables = None
    if variables is None:
        raise DevNotRunning(f"No `credit-sidecar dev` runs on {directory}.")
    return {str(name): str(value) for name, value in variables.items()}


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
