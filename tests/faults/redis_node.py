"""One Redis of the stack: started, killed, stopped, and its append-only file tampered with."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from unittest.mock import patch

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sidecar.dev.embedded import RedisServer
from tests.faults.network import Address

_TIMEOUT_SECONDS: Final = 5.0


class RedisNode:
    """A Redis with an append-only file, synchronised each second, on a port of its own.

    `environment` is what its next process has beside ours.
    """

    def __init__(self, directory: Path, port: int, options: Sequence[str] = ()) -> None:
        self.directory: Final = directory
        self.port: Final = port
        self.environment: dict[str, str] = {}
        self._server = RedisServer(
            directory, port=port, options=("enable-debug-command", "yes", *options)
        )
        self._is_running = False

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self._is_running

    @property
    def address(self) -> Address:
        """Where it listens."""
        return "127.0.0.1", self.port

    @property
    def url(self) -> str:
        """Where it listens, as a URL."""
        return self._server.tcp_url

    def client(self) -> redis.Redis:
        """Return a client of it that repeats nothing."""
        return redis.Redis.from_url(
            self.url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )

    # The process -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start it with what is in its directory, and wait until it answers."""
        with patch.dict(os.environ, self.environment):
            self._server.start()
        self._is_running = True

    def kill(self) -> None:
        """End it as `kill -9` does."""
        if self._is_running:
            self._server.kill()
            self._is_running = False

    def pause(self) -> None:
        """Stop it as SIGSTOP does."""
        self._server.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._server.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it in peace."""
        if self._is_running:
            self.resume()
            self._server.stop()
            self._is_running = False

    # Replication -----------------------------------------------------------------------------

    def follow(self, address: Address) -> None:
        """Become the replica of another."""
        with self.client() as client:
            client.replicaof(*map(str, address))

    def lead(self) -> None:
        """Be a replica no more."""
        with self.client() as client:
            client.replicaof("NO", "ONE")

    def is_following(self) -> bool:
        """Tell whether it is a replica that has caught up once."""
        try:
            with self.client() as client:
                info = client.info("replication")
        except redis.RedisError:
            return False  # it is just loading
        assert isinstance(info, dict)
        return bool(info["role"] == "slave" and info["master_link_status"] == "up")

    # Its file --------------------------------------------------------------------------------

    def file_bytes(self) -> int:
        """Return how long the append-only file is."""
        return self._newest_file().stat().st_size

    def truncate(self, least: int, chance: random.Random) -> int:
        """Cut off the end of the file of a dead Redis, by chance, not below `least` bytes.

        Returns how many bytes are gone.
        """
        path = self._newest_file()
        size = path.stat().st_size
        kept = chance.randint(min(least, size), max(size - 1, 0))
        with path.open("r+b") as file:
            file.truncate(kept)
        return size - kept

    def back_up(self, place: Path) -> None:
        """Copy the append-only file as it is now, running or not."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self._files(), place)

    def restore(self, place: Path) -> None:
        """Put a copy in the place of the file of a dead Redis."""
        shutil.rmtree(self._files())
        shutil.copytree(place, self._files())

    def wipe(self) -> None:
        """Delete all data of a dead Redis."""
        shutil.rmtree(self._files(), ignore_errors=True)
        for dump in self.directory.glob("*.rdb"):
            dump.unlink()

    def _files(self) -> Path:
        return self.directory / "appendonlydir"

    def _newest_file(self) -> Path:
        return max(self._files().glob("*.incr.aof"), key=lambda path: path.stat().st_mtime_ns)
