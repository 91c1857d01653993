"""One role of the product in a process of its own: started, killed, stopped in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from loadtests.stack import tail
from sidecar.commands.probe import status_of
from sidecar.dev import processes

_READY_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.02


class NotReady(Exception):
    """Raised when a role does not start; the message has the end of its log."""


class Role:
    """`credit-sidecar <role>` with settings of its own, always on the same port.

    `extra` is what its next process has on top of them.
    """

    def __init__(
        self, role: str, name: str, port: int, settings: Mapping[str, str], directory: Path
    ) -> None:
        self.name: Final = name
        self.port: Final = port
        self.log: Final = directory / f"{name}.log"
        self.extra: Mapping[str, str] = {}
        self._role = role
        self._settings = dict(settings)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process, which runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; do not wait for it."""
        assert not self.is_running, f"{self.name} runs already"
        environment = {"PATH": os.defpath, **self._settings, **self.extra}
        command = [sys.executable, "-m", "sidecar", self._role]
        with self.log.open("ab") as out:
            self._process = processes.start(command, stdout=out, environment=environment)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Stop it as SIGSTOP does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to end; kill it when it does not."""
        if self._process is not None and self.is_running:
            self.resume()
            processes.stop(self._process, [signal.SIGTERM], _STOP_SECONDS)

    def is_ready(self) -> bool:
        """Tell whether it says that it can do its work."""
        return status_of(f"127.0.0.1:{self.port}", "/readyz", seconds=2) == 200

    def wait_ready(self) -> None:
        """Wait until it can do its work. Raises `NotReady`."""
        deadline = monotonic() + _READY_SECONDS
        while not self.is_ready():
            if monotonic() > deadline or not self.is_running:
                raise NotReady(f"{self.name} is not ready:\n{tail(self.log)}")
            sleep(_POLL_SECONDS)
