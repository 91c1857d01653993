"""A Redis and a Postgres of one's own, in a directory: for `dev` and for the tests."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg
import redis

from sidecar.dev import processes
from sidecar.dev.binaries import find_postgres, find_redis_server
from sidecar.dev.processes import Identity, StartError

DATABASE: Final = "credits"

_START_SECONDS: Final = 60.0
_SOCKET_PATH_BYTES: Final = 103  # the least of the kernels' limits: macOS; Linux has 107
_LONGEST_SOCKET_NAME: Final = ".s.PGSQL.5432.lock"
_POSTGRES_ENVIRONMENT: Final = {"LC_ALL": "C", "PATH": os.defpath, "TZ": "UTC"}


class RedisServer:
    """A Redis that keeps its data in `directory` and listens on a Unix socket.

    It is configured as production must be: append-only file, fsync each second, no eviction.
    `port` adds a TCP listener on loopback; `options` are more pairs of its configuration.
    """

    def __init__(self, directory: Path, *, port: int = 0, options: Sequence[str] = ()) -> None:
        self._directory = directory.resolve()
        self._port = port
        self._options = options
        self._sockets = _SocketDirectory(self._directory)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of the socket."""
        return f"unix://{quote(str(self._socket))}?db=0"

    @property
    def tcp_url(self) -> str:
        """The URL of the TCP listener, if there is one."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running server."""
        assert self._process, "not started"
        return self._process

    @property
    def _socket(self) -> Path:
        return self._sockets.path / "redis.sock"

    def start(self) -> None:
        """Start and wait until it answers, its data loaded. Raises `StartError`."""
        program = find_redis_server()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        pid_file = self._directory / "redis.pid"
        orphan = processes.first_number(pid_file)
        if orphan:
            processes.stop_orphan(orphan, self._directory, signal.SIGTERM)
        self._sockets.make()
        log = self._directory / "redis.log"
        with log.open("wb") as out:
            self._process = processes.start([program, *self._configuration(pid_file)], stdout=out)
        if not processes.wait_until(self._answers, self._process, _START_SECONDS):
            self.stop()
            raise StartError(f"Redis did not start. The end of {log}:\n{_tail(log)}")

    def stop(self) -> None:
        """Stop with all data on disk. Harmless when it does not run."""
        if self._process:
            processes.stop(self._process, [signal.SIGTERM], 30)
        self._sockets.remove()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.process.kill()
        self.process.wait()

    def _configuration(self, pid_file: Path) -> list[str]:
        pairs = [
            "port", str(self._port),
            "bind", "127.0.0.1",
            "unixsocket", str(self._socket),
            "unixsocketperm", "700",
            "dir", str(self._directory),
            "pidfile", str(pid_file),
            "appendonly", "yes",
            "appendfsync", "everysec",
            "save", "",
            "maxmemory-policy", "noeviction",
            # The title would hide the directory, by which an orphan is known.
            "set-proc-title", "no",
            *self._options,
        ]  # fmt: skip
        return [f"--{word}" if at % 2 == 0 else word for at, word in enumerate(pairs)]

    def _answers(self) -> bool:
        with contextlib.closing(redis.Redis.from_url(self.url, socket_timeout=5)) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


class PostgresServer:
    """A Postgres that keeps its data in `directory` and listens on a Unix socket alone.

    Started by root, it runs as the owner of its data: the user `postgres`, else `nobody`.
    With `is_durable` false it never waits for the disk: for tests.
    """

    def __init__(self, directory: Path, *, is_durable: bool = True) -> None:
        self._directory = directory.resolve()
        self._is_durable = is_durable
        self._sockets = _SocketDirectory(self._directory)
        self._data = self._directory / "data"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running server."""
        assert self._process, "not started"
        return self._process

    def url(self, database: str = DATABASE) -> str:
        """Return the URL of one of its databases."""
        return f"postgresql://postgres@/{database}?host={quote(str(self._sockets.path), safe='')}"

    def start(self) -> None:
        """Start, making the database `credits` the first time. Raises `StartError`."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        identity = _postgres_identity(self._data)
        binaries = find_postgres(self._data)
        if not self._data.exists():
            self._initialise(binaries, identity)
        self._sweep_up()
        self._sockets.make(identity)
        log = self._directory / "postgres.log"
        with log.open("wb") as out:
            self._process = processes.start(
                [str(binaries / "postgres"), *self._configuration()],
                stdout=out,
                stop_signal=signal.SIGINT,
                identity=identity,
                environment=_POSTGRES_ENVIRONMENT,
            )
        if not processes.wait_until(self._answers, self._process, _START_SECONDS):
            self.stop()
            raise StartError(f"Postgres did not start. The end of {log}:\n{_tail(log)}")
        self._make_database()

    def stop(self) -> None:
        """Stop: sessions are ended, everything is on disk. Harmless when it does not run."""
        if self._process:
            processes.stop(self._process, [signal.SIGINT, signal.SIGQUIT], 30)
        self._sockets.remove()

    def _initialise(self, binaries: Path, identity: Identity | None) -> None:
        # Under another name until it is whole: an interrupted first start leaves nothing half-made.
        fresh = self._directory / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        _give(fresh, identity)
        command = [
            str(binaries / "initdb"), "--pgdata", str(fresh), "--username=postgres",
            "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions",
            *([] if self._is_durable else ["--no-sync"]),
        ]  # fmt: skip
        log = self._directory / "initdb.log"
        with log.open("wb") as out:
            made = processes.start(
                command, stdout=out, identity=identity, environment=_POSTGRES_ENVIRONMENT
            )
        if made.wait() != 0:
            raise StartError(f"initdb failed. The end of {log}:\n{_tail(log)}")
        fresh.rename(self._data)

    def _sweep_up(self) -> None:
        # The caller has this directory to itself: what still runs here was left by a crash, and a
        # pid file without its process would only confuse (numbers come again in a container).
        pid_file = self._data / "postmaster.pid"
        orphan = processes.first_number(pid_file)
        if orphan:
            processes.stop_orphan(orphan, self._data, signal.SIGINT)
        pid_file.unlink(missing_ok=True)

    def _configuration(self) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._sockets.path),
            "unix_socket_permissions": "0700",
            "max_connections": "100",
            "log_min_messages": "warning",
        }
        if not self._is_durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        pairs = [f"{name}={value}" for name, value in settings.items()]
        return ["-D", str(self._data), *(word for pair in pairs for word in ("-c", pair))]

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _make_database(self) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            if not connection.execute(query, (DATABASE,)).fetchone():
                connection.execute(f"CREATE DATABASE {DATABASE}")


class _SocketDirectory:
    """`run` beside the data, or a temporary one where that path is too long for a socket."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "run"
        longest = str(self.path / _LONGEST_SOCKET_NAME)
        self._is_temporary = len(os.fsencode(longest)) > _SOCKET_PATH_BYTES

    def make(self, identity: Identity | None = None) -> None:
        if self._is_temporary:
            self.path = Path(tempfile.mkdtemp(prefix="credits-"))
        else:
            self.path.mkdir(mode=0o700, exist_ok=True)
        _give(self.path, identity)

    def remove(self) -> None:
        if self._is_temporary and self.path.name.startswith("credits-"):
            shutil.rmtree(self.path, ignore_errors=True)


def _postgres_identity(data: Path) -> Identity | None:
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return Identity(data.stat().st_uid, data.stat().st_gid)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return Identity(user.pw_uid, user.pw_gid)
    raise StartError("Postgres refuses to run as root, and there is no user postgres or nobody.")


def _give(path: Path, identity: Identity | None) -> None:
    if identity:
        os.chown(path, identity.uid, identity.gid)


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
