"""The embedded servers: they keep their data, end when told, and leave nothing behind a crash."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import psutil
import psycopg
import pytest
import redis

from sidecar.dev import binaries
from sidecar.dev.embedded import PostgresServer, RedisServer
from sidecar.dev.processes import StartError


def test_redis_is_configured_not_to_forget(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    server.start()
    try:
        with redis.Redis.from_url(server.url) as client:
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("port") == {"port": "0"}
    finally:
        server.stop()


def test_redis_keeps_what_it_was_told_over_a_restart(tmp_path: Path) -> None:
    for expected in (None, b"100"):
        server = RedisServer(tmp_path / "redis")
        server.start()
        try:
            with redis.Redis.from_url(server.url) as client:
                assert client.get("credits") == expected
                client.set("credits", 100)
        finally:
            server.stop()
        assert server.process.returncode == 0


def test_postgres_keeps_what_it_was_told_over_a_restart(tmp_path: Path) -> None:
    for expected in (0, 1):
        server = PostgresServer(tmp_path / "postgres")
        server.start()
        try:
            with psycopg.connect(server.url()) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS credits (n bigint)")
                count = connection.execute("SELECT count(*) FROM credits").fetchone()
                assert count == (expected,)
                connection.execute("INSERT INTO credits VALUES (100)")
        finally:
            server.stop()
        assert server.process.returncode == 0


def test_a_path_too_long_for_a_socket_is_no_obstacle(tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 60) / ("b" * 60)
    server = RedisServer(deep)
    server.start()
    try:
        assert str(deep) not in server.url
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
    finally:
        server.stop()
    assert not Path(server.url.removeprefix("unix://").partition("?")[0]).parent.exists()


def test_only_this_user_reaches_the_servers_and_their_data(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "postgres", is_durable=False)
    server.start()
    try:
        directory = tmp_path / "postgres"
        for path in (directory, directory / "data", directory / "run"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
    finally:
        server.stop()


def test_a_stale_pid_file_of_postgres_is_no_obstacle(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "postgres", is_durable=False)
    server.start()
    server.process.kill()
    server.process.wait()
    pid_file = tmp_path / "postgres" / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    # As in a container, where the number of a dead process soon is another one's.
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    again = PostgresServer(tmp_path / "postgres", is_durable=False)
    again.start()
    again.stop()
    assert again.process.returncode == 0


def test_an_interrupted_first_start_of_postgres_leaves_nothing_half_made(tmp_path: Path) -> None:
    half_made = tmp_path / "postgres" / "data.new"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")
    server = PostgresServer(tmp_path / "postgres", is_durable=False)
    server.start()
    server.stop()
    assert server.process.returncode == 0


def test_data_of_a_postgres_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(StartError, match="made by Postgres 9, which is not installed"):
        PostgresServer(tmp_path / "postgres").start()


def test_a_redis_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", options=["no-such-option", "1"])
    with pytest.raises(StartError, match="no-such-option"):
        server.start()


def test_a_redis_older_than_7_on_the_path_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert binaries.find_redis_server() != str(old)
    old.write_text("#!/bin/sh\necho 'Redis server v=7.0.15 sha=0'\n")
    assert binaries.find_redis_server() == str(old)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that it is orphaned")
def test_no_server_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = """
import os, pathlib, signal, sys
from sidecar.dev.embedded import PostgresServer, RedisServer
servers = [RedisServer(pathlib.Path(sys.argv[1], "r")),
           PostgresServer(pathlib.Path(sys.argv[1], "p"), is_durable=False)]
for server in servers:
    server.start()
print(*(server.process.pid for server in servers), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, check=False
    )
    assert parent.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in parent.stdout.split()]
    assert len(pids) == 2
    deadline = monotonic() + 30
    while any(_is_running(pid, tmp_path) for pid in pids):
        assert monotonic() < deadline, "a server outlived its parent"
        sleep(0.02)


def _is_running(pid: int, directory: Path) -> bool:
    try:
        return str(directory) in " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False
