"""Starting and stopping the processes of `dev`, so that none outlives it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import IO, Final

from sidecar.errors import CreditsError

_LEASH: Final = str(Path(__file__).with_name("leash.py"))
_POLL_SECONDS: Final = 0.02


class StartError(CreditsError):
    """Raised when a server or a role of `dev` does not start; the message says why."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process runs as."""

    uid: int
    gid: int


def start(
    command: Sequence[str],
    *,
    stdout: int | IO[bytes],
    stop_signal: signal.Signals = signal.SIGTERM,
    identity: Identity | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own: a Ctrl-C on the terminal reaches `dev` alone.

    `stdout` takes standard error too. `stop_signal` is sent to the process when `dev` dies.
    """
    ids = [str(identity.uid), str(identity.gid)] if identity else ["-", "-"]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", _LEASH, str(int(stop_signal)), *ids, *command],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )


def stop(
    process: subprocess.Popen[bytes], signals: Sequence[signal.Signals], seconds: float
) -> int:
    """Send signals in turn, each with `seconds` to obey, at last SIGKILL; return the status."""
    for number in (*signals, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
    raise StartError(f"Process {process.pid} cannot be killed.")


def wait_until(
    is_ready: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float
) -> bool:
    """Wait until `is_ready`; False when the process ended or the time is over before."""
    deadline = monotonic() + seconds
    while monotonic() < deadline and process.poll() is None:
        if is_ready():
            return True
        sleep(_POLL_SECONDS)
    return False


def stop_orphan(pid: int, directory: Path, number: signal.Signals, seconds: float = 30) -> None:
    """Stop what an earlier `dev` left running on a data directory.

    Only a process whose command line names the directory is touched: a number in an old file may
    by now be anybody's. Raises `StartError` when it does not stop.
    """
    if str(directory) not in _command_line(pid):
        return
    os.kill(pid, number)
    deadline = monotonic() + seconds
    while str(directory) in _command_line(pid):
        if monotonic() > deadline:
            raise StartError(f"Process {pid} of an earlier run still uses {directory}; stop it.")
        sleep(_POLL_SECONDS)


def first_number(path: Path) -> int | None:
    """Return the number in the first line of a pid file, or None."""
    try:
        found = re.match(r"\s*([0-9]{1,9})\b", path.read_text())
    except FileNotFoundError:
        return None
    return int(found[1]) if found else None


def _command_line(pid: int) -> str:
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            return ""
    listed = subprocess.run(
        ["ps", "-o", "args=", "-ww", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout
