"""The product under load: real processes on loopback, gone with the run however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console

from persistence import schema
from sidecar.dev import processes
from sidecar.dev.embedded import PostgresServer, RedisServer

_READY_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0

Say = Callable[[str], None]


class NotReady(Exception):
    """Raised when a part of the stack does not start; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Where everything is: the URLs of Redis, Postgres and the sidecars."""

    redis_url: str
    postgres_url: str
    sidecars: tuple[str, ...]

    def environment(self) -> dict[str, str]:
        """Return the environment of a role or command: nothing of the caller's own."""
        return {
            "PATH": os.defpath,
            "CREDITS_REDIS_URL": self.redis_url,
            "CREDITS_POSTGRES_URL": self.postgres_url,
            "CREDITS_LOG_LEVEL": "warning",
        }

    def audit(self, *, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run `credit-sidecar audit --json`."""
        return subprocess.run(
            [sys.executable, "-m", "sidecar", "audit", "--json"],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )


@contextlib.contextmanager
def embedded_servers(directory: Path, say: Say) -> Iterator[tuple[str, str]]:
    """Start a Redis (append-only) and a durable, migrated Postgres; yield their URLs."""
    redis, postgres = RedisServer(directory / "redis"), PostgresServer(directory / "postgres")
    try:
        say("starting Redis")
        redis.start()
        say("starting Postgres")
        postgres.start()
        say("migrating the ledger")
        schema.upgrade(postgres.url())
        yield redis.url, postgres.url()
    finally:
        redis.stop()
        postgres.stop()


@contextlib.contextmanager
def roles(
    directory: Path, redis_url: str, postgres_url: str, *, sidecars: int, workers: int, say: Say
) -> Iterator[Stack]:
    """Start workers and sidecars on free ports; yield the stack when all of them are ready."""
    ports = free_ports(sidecars + workers)
    urls = tuple(f"http://127.0.0.1:{port}" for port in ports)
    stack = Stack(redis_url, postgres_url, urls[workers:])
    started: list[subprocess.Popen[bytes]] = []
    try:
        for at, port in enumerate(ports):
            role = "worker" if at < workers else "serve"
            say(f"starting {role} on port {port}")
            started.append(_start_role(role, port, directory, stack.environment()))
        for at, process in enumerate(started):
            _wait_ready(process, urls[at], directory)
        yield stack
    finally:
        _stop_all(started)


@contextlib.contextmanager
def running_role(
    role: str, directory: Path, environment: Mapping[str, str], say: Say
) -> Iterator[str]:
    """Start one role on a free port; yield its URL when it is ready. Raises `NotReady`."""
    (port,) = free_ports(1)
    say(f"starting {role} on port {port}")
    process = _start_role(role, port, directory, environment)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_ready(process, url, directory)
        yield url
    finally:
        _stop_all([process])


def sayer(console: Console) -> Say:
    """Return what prints a line of progress, with the seconds since now before it."""
    started = time.monotonic()

    def say(text: str) -> None:
        console.print(
            f"{time.monotonic() - started:6.1f} s  {text}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    return say


def free_ports(count: int) -> list[int]:
    """Return TCP ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def tail(path: Path, lines: int = 20) -> str:
    """Return the last lines of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _start_role(
    role: str, port: int, directory: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sidecar", role, "--listen", f"127.0.0.1:{port}"]
    own = {"CREDITS_JOURNAL_DIR": str(directory / f"journal-{port}")}
    with (directory / f"{role}-{port}.log").open("wb") as out:
        return processes.start(command, stdout=out, environment={**environment, **own})


def _wait_ready(process: subprocess.Popen[bytes], url: str, directory: Path) -> None:
    with httpx.Client(trust_env=False, timeout=5) as client:

        def is_ready() -> bool:
            try:
                return client.get(f"{url}/readyz").status_code == 200
            except httpx.HTTPError:
                return False

        if not processes.wait_until(is_ready, process, _READY_SECONDS):
            (log,) = directory.glob(f"*-{httpx.URL(url).port}.log")
            raise NotReady(f"{url} is not ready. The end of {log.name}:\n{tail(log)}")


def _stop_all(started: Sequence[subprocess.Popen[bytes]]) -> None:
    # Sidecars first: what they still answer, the workers can flush.
    deadline = time.monotonic() + _STOP_SECONDS
    for process in reversed(started):
        seconds = max(1.0, deadline - time.monotonic())
        processes.stop(process, [signal.SIGTERM], seconds)
