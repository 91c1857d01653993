"""Everything that is under test: databases, roles, and the proxies between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from loadtests.stack import Say, free_ports
from persistence import schema
from persistence.database import make_engine
from sidecar.dev.embedded import PostgresServer
from sidecar.nodes import RedisNodes
from tests.faults.fleet import Cluster, Watched
from tests.faults.proxy import Proxy
from tests.faults.redis_node import RedisNode
from tests.faults.role import Role
from tests.faults.traffic import Traffic

ADMIN_TOKEN: Final = "fault-harness"

_REDIS_SECONDS: Final = 5.0


class Redis(StrEnum):
    """How many Redis servers there are: one, one that sentinels watch, or a cluster."""

    ONE = "one"
    WATCHED = "watched"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Shape:
    """How much of everything there is. `is_durable`: Postgres waits for the disk."""

    sidecars: int = 2
    workers: int = 2
    shards: int = 64
    is_durable: bool = True
    redis: Redis = Redis.ONE


class Stack:
    """The running product. Attributes that end in `_proxy` or `_proxies` are what can be cut.

    Sidecars reach Redis by `redis_proxies`, each by its own, clients the sidecars by
    `client_proxies`; workers and control reach Redis by `ledger_proxy`. Of the workers only the
    first runs all the time.
    """

    def __init__(self, directory: Path, traffic: Traffic, shape: Shape) -> None:
        self.directory: Final = directory
        self.traffic: Final = traffic
        self.shape: Final = shape
        ports = free_ports(3 + shape.sidecars + shape.workers)
        self.postgres: Final = PostgresServer(directory / "postgres", is_durable=shape.is_durable)
        self.master: RedisNode = RedisNode(directory / "redis-0", ports.pop())
        self.spare: RedisNode = RedisNode(directory / "redis-1", ports.pop())
        self.ledger_proxy: Final = Proxy(traffic, self.master.address)
        self.replica_proxy: Final = Proxy(traffic, self.master.address)
        self.redis_proxies: Final = [
            Proxy(traffic, self.master.address) for _ in range(shape.sidecars)
        ]
        self.client_proxies: Final[list[Proxy]] = []
        self.sidecars: Final[list[Role]] = []
        self.workers: Final[list[Role]] = []
        self._ports = ports

    def start(self, say: Say) -> None:
        """Start everything, and wait until it is ready."""
        say("starting Redis and Postgres")
        self._start_redis()
        self.postgres.start()
        schema.upgrade(self.postgres.url(), shards=self.shape.shards)
        self.engine: Engine = make_engine(self.postgres.url(), application_name="fault harness")
        self._make_roles()
        say("starting the roles")
        roles = [self.workers[0], *self.sidecars, self.control]
        for role in roles:
            role.start()
        for role in roles:
            role.wait_ready()

    @property
    def proxies(self) -> list[Proxy]:
        """All of them."""
        ours = (self.ledger_proxy, self.replica_proxy)
        return [*ours, *self.redis_proxies, *self.client_proxies]

    @property
    def roles(self) -> list[Role]:
        """All of them."""
        return [*self.sidecars, *self.workers, self.control]

    @property
    def redis_url(self) -> str:
        """Where Redis is, with nothing between."""
        return self.master.url

    def redis_url_of(self, sidecar: int | None) -> str:
        """Where Redis is for a sidecar; without one, for workers and control."""
        proxy = self.ledger_proxy if sidecar is None else self.redis_proxies[sidecar]
        return f"redis://127.0.0.1:{proxy.port}/0"

    @contextlib.contextmanager
    def redis(self) -> Iterator[RedisNodes]:
        """Have Redis, with nothing between."""
        nodes = RedisNodes.of_url(self.redis_url, timeout_s=_REDIS_SECONDS)
        try:
            yield nodes
        finally:
            nodes.close()

    def heal(self) -> None:
        """Let every proxy behave, every process go on, and those run that should."""
        for proxy in self.proxies:
            proxy.heal()
        for role in [*self.sidecars, self.workers[0], self.control]:
            if role.is_running:
                role.resume()
            else:
                role.start()

    def move_to(self, node: RedisNode) -> None:
        """Let sidecars, workers and control talk to another Redis from now on."""
        for proxy in (self.ledger_proxy, *self.redis_proxies):
            proxy.move(node.address)

    def swap_redis(self) -> None:
        """Call the spare Redis the master, and the other way round."""
        self.master, self.spare = self.spare, self.master

    def journal(self, sidecar: int) -> Path:
        """Return the directory of a sidecar's journal."""
        return self.directory / f"journal-{sidecar}"

    def stop(self) -> None:
        """End everything; what cannot be ended in peace is killed."""
        with contextlib.ExitStack() as ending:
            ending.callback(self.postgres.stop)
            self._stop_redis(ending)
            for proxy in self.proxies:
                ending.callback(proxy.stop)
            for role in (*self.workers, *self.sidecars):
                ending.callback(role.kill)
            if hasattr(self, "control"):
                ending.callback(self.control.kill)
            if hasattr(self, "engine"):
                ending.callback(self.engine.dispose)

    def _start_redis(self) -> None:
        self.master.start()
        for proxy in (self.ledger_proxy, self.replica_proxy, *self.redis_proxies):
            proxy.start()

    def _stop_redis(self, ending: contextlib.ExitStack) -> None:
        for node in (self.master, self.spare):
            ending.callback(node.stop)

    def _make_roles(self) -> None:
        for number in range(self.shape.sidecars):
            port = self._ports.pop()
            settings = {
                "CREDITS_REDIS_URL": self.redis_url_of(number),
                "CREDITS_LISTEN": f"127.0.0.1:{port}",
                "CREDITS_JOURNAL_DIR": str(self.journal(number)),
                "CREDITS_SIDECAR_NAME": f"sidecar-{number}",
                "CREDITS_SHUTDOWN_GRACE_MS": "3000",
            }
            self.sidecars.append(self._role("serve", f"sidecar-{number}", port, settings))
            self.client_proxies.append(Proxy(self.traffic, ("127.0.0.1", port), seed=number))
            self.client_proxies[-1].start()
        ledger = {
            "CREDITS_REDIS_URL": self.redis_url_of(None),
            "CREDITS_POSTGRES_URL": self.postgres.url(),
        }
        for number in range(self.shape.workers):
            port = self._ports.pop()
            settings = {"CREDITS_WORKER_LISTEN": f"127.0.0.1:{port}", **ledger}
            self.workers.append(self._role("worker", f"worker-{number}", port, settings))
        port = self._ports.pop()
        settings = {
            "CREDITS_CONTROL_LISTEN": f"127.0.0.1:{port}",
            "CREDITS_ADMIN_TOKEN": ADMIN_TOKEN,
            **ledger,
        }
        self.control = self._role("control", "control", port, settings)

    def _role(self, role: str, name: str, port: int, settings: dict[str, str]) -> Role:
        return Role(role, name, port, settings, self.directory)


class FleetStack(Stack):
    """The same on several Redis servers, to which everyone talks with nothing between."""

    def __init__(self, directory: Path, traffic: Traffic, shape: Shape) -> None:
        super().__init__(directory, traffic, shape)
        is_cluster = shape.redis is Redis.CLUSTER
        self.fleet: Final[Cluster | Watched] = (
            Cluster(directory, replicas=1) if is_cluster else Watched(directory)
        )

    @property
    def proxies(self) -> list[Proxy]:
        """All of them."""
        return list(self.client_proxies)

    @property
    def redis_url(self) -> str:
        """Where Redis is."""
        return self.fleet.url

    def redis_url_of(self, sidecar: int | None) -> str:
        """Where Redis is for everyone."""
        return self.fleet.url

    def _start_redis(self) -> None:
        self.fleet.start()

    def _stop_redis(self, ending: contextlib.ExitStack) -> None:
        ending.callback(self.fleet.stop)


@contextlib.contextmanager
def running_stack(directory: Path, traffic: Traffic, shape: Shape, say: Say) -> Iterator[Stack]:
    """Yield a stack that is ready; everything of it ends with the block."""
    make = Stack if shape.redis is Redis.ONE else FleetStack
    stack = make(directory, traffic, shape)
    try:
        stack.start(say)
        yield stack
    finally:
        stack.stop()
