"""A real Redis and a real Postgres for every test that asks: its own data, started in no time.

Each pytest process (under xdist: each worker) has one server of each kind. A test gets the Redis
flushed, and a Postgres database of its own, cloned from a template that was migrated once. A
missing program fails the tests; it never skips them. The servers end with pytest, however it ends.
"""

from __future__ import annotations

import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg import sql
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from persistence import schema
from persistence.database import make_engine
from sidecar.dev.embedded import PostgresServer, RedisServer


def free_port() -> int:
    """Return a TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The Redis of this pytest process."""
    with tempfile.TemporaryDirectory(prefix="credits-test-") as directory:
        options = ["enable-debug-command", "yes"]
        server = RedisServer(Path(directory, "redis"), port=free_port(), options=options)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    """The URL of Redis on its Unix socket."""
    return redis_server.url


@pytest.fixture(scope="session")
def redis_tcp_url(redis_server: RedisServer) -> str:
    """The URL of the same Redis over TCP: for a fault proxy between."""
    return redis_server.tcp_url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A blocking client of an empty Redis, replies as bytes."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        yield client


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of an administrative database of the Postgres of this pytest process."""
    given = os.environ.get("CREDITS_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="credits-test-") as directory:
        server = PostgresServer(Path(directory, "postgres"), is_durable=False)
        try:
            server.start()
            yield server.url("postgres")
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """The name of a migrated, empty database that is only ever cloned."""
    name = f"credits_template_{uuid.uuid4().hex[:12]}"
    _administrate(postgres_server, "CREATE DATABASE {}", name)
    try:
        schema.upgrade(_url_of(postgres_server, name))
        yield name
    finally:
        _administrate(postgres_server, "DROP DATABASE {} WITH (FORCE)", name)


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of a database of the test's own without any schema."""
    yield from _database(postgres_server, "CREATE DATABASE {}")


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """The URL of a freshly migrated database of the test's own."""
    yield from _database(postgres_server, "CREATE DATABASE {} TEMPLATE {}", postgres_template)


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    """An engine on the test's own migrated database."""
    made = make_engine(postgres_url)
    try:
        yield made
    finally:
        made.dispose()


def _database(server: str, statement: str, *others: str) -> Iterator[str]:
    name = f"credits_test_{uuid.uuid4().hex[:12]}"
    _administrate(server, statement, name, *others)
    try:
        yield _url_of(server, name)
    finally:
        _administrate(server, "DROP DATABASE {} WITH (FORCE)", name)


def _administrate(server: str, statement: str, *names: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        identifiers = [sql.Identifier(name) for name in names]
        connection.execute(sql.SQL(statement).format(*identifiers))


def _url_of(server: str, database: str) -> str:
    return make_url(server).set(database=database).render_as_string(hide_password=False)
