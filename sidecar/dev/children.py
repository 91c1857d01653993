"""The roles as child processes of `dev`: their logs, their readiness, their end."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Final

import click

from sidecar.commands.probe import status_of
from sidecar.dev import processes

_COLOURS: Final = {"serve": "cyan", "worker": "green", "control": "magenta", "stripe": "yellow"}
_NAME_WIDTH: Final = max(map(len, _COLOURS))

_printing: Final = threading.Lock()


class Child:
    """One role in a process of its own; its log is printed line by line behind its name."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        address: str,
        environment: Mapping[str, str],
        *,
        ready_path: str = "/readyz",
    ) -> None:
        self.name = name
        self.address = address
        self._ready_path = ready_path
        self.process = processes.start(
            [sys.executable, "-m", *arguments], stdout=subprocess.PIPE, environment=environment
        )
        assert self.process.stdout
        reader = threading.Thread(
            target=_print_lines, args=(name, self.process.stdout), name=f"log of {name}"
        )
        reader.daemon = True  # a grandchild that kept the pipe open must not keep us
        self._reader = reader
        reader.start()

    def is_ready(self) -> bool:
        """Tell whether the role says that it can do its work."""
        return status_of(self.address, self._ready_path, seconds=2) == 200

    def stop(self, seconds: float) -> int:
        """Ask it to end, wait, and kill it when it does not. Returns its exit status."""
        status = processes.stop(self.process, [signal.SIGTERM], seconds)
        self._reader.join(2)
        return status


def say(text: str) -> None:
    """Print a line of `dev` itself."""
    with _printing:
        click.echo(text)


def _print_lines(name: str, lines: IO[bytes]) -> None:
    prefix = click.style(f"{name:>{_NAME_WIDTH}} │ ", fg=_COLOURS.get(name))
    with lines:
        for line in lines:
            say(prefix + line.decode(errors="replace").rstrip())
