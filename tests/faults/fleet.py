"""Several Redis servers: a cluster of masters with replicas, or a master that sentinels watch."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from loadtests.stack import free_ports
from sidecar.dev import processes
from sidecar.dev.binaries import find_redis_server
from tests.faults.network import Address
from tests.faults.redis_node import RedisNode

SERVICE: Final = "credits"

_WAIT_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05
_MIGRATE_KEYS: Final = 100
_NODE_TIMEOUT_MS: Final = 1_000
_DOWN_AFTER_MS: Final = 500


class NotThere(Exception):
    """Raised when servers do not come to what they should be in time."""


class Cluster:
    """Masters that share the slots, each with as many replicas."""

    def __init__(self, directory: Path, *, masters: int = 3, replicas: int = 0) -> None:
        count = masters * (1 + replicas)
        ports = free_ports(2 * count)
        self.nodes: Final = [
            RedisNode(directory / f"cluster-{at}", ports[at], _cluster_options(ports[count + at]))
            for at in range(count)
        ]
        self._buses = ports[count:]
        self._masters = masters

    @property
    def url(self) -> str:
        """Where it is, as roles are told."""
        seeds = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[: self._masters])
        return f"redis+cluster://{seeds}"

    def start(self) -> None:
        """Start all nodes, join them, share out the slots, and wait until all agree."""
        for node in self.nodes:
            node.start()
        first = self.nodes[0]
        for node, bus in zip(self.nodes[1:], self._buses[1:], strict=True):
            _ask(first, "CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        share = 16_384 // self._masters + 1
        for at, node in enumerate(self.nodes[: self._masters]):
            last = min((at + 1) * share, 16_384) - 1
            _ask(node, "CLUSTER", "ADDSLOTSRANGE", at * share, last)
        _wait(self._is_joined, "a cluster of all nodes")
        for at, node in enumerate(self.nodes[self._masters :]):
            _ask(node, "CLUSTER", "REPLICATE", _id(self.nodes[at % self._masters]))
        self.wait_whole()

    def wait_whole(self) -> None:
        """Wait until `is_whole`. Raises `NotThere`."""
        _wait(self.is_whole, "a whole cluster")

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            with contextlib.suppress(ProcessLookupError):
                node.stop()

    def is_whole(self) -> bool:
        """Tell whether every node runs, sees all others and every slot, and replicas are in step.

        A node that just ended and came back is still doubted by others for a while.
        """
        try:
            return all(map(self._is_content, self.nodes))
        except redis.RedisError:
            return False

    def owner(self, slot: int) -> RedisNode:
        """Return the master that has a slot, by most of what nodes say. Raises `NotThere`."""
        for node in self.nodes:
            with contextlib.suppress(redis.RedisError):
                for first, last, master, *_ in _ask(node, "CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        return next(n for n in self.nodes if n.port == master[1])
        raise NotThere(f"nobody has slot {slot}")

    def masters(self) -> list[RedisNode]:
        """Return the nodes that have slots."""
        for node in self.nodes:
            with contextlib.suppress(redis.RedisError):
                ports = {entry[2][1] for entry in _ask(node, "CLUSTER", "SLOTS")}
                return [n for n in self.nodes if n.port in ports]
        raise NotThere("no node of the cluster answers")

    def move(self, slot: int, target: RedisNode) -> int:
        """Move a slot with its keys to another master, as `redis-cli --cluster reshard` does.

        Returns how many keys were moved.
        """
        source = self.owner(slot)
        self.begin_to_move(slot, target)
        moved = 0
        while names := _ask(source, "CLUSTER", "GETKEYSINSLOT", slot, _MIGRATE_KEYS):
            command = ("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *names)
            _ask(source, *command)
            moved += len(names)
        owner = _id(target)
        # The target first, so that there is no moment in which nobody has it.
        others = [node for node in self.masters() if node not in (source, target)]
        for node in (target, source, *others):
            _ask(node, "CLUSTER", "SETSLOT", slot, "NODE", owner)
        return moved

    def begin_to_move(self, slot: int, target: RedisNode) -> Callable[[], None]:
        """Begin to move a slot; return what takes it back."""
        source = self.owner(slot)
        _ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", _id(source))
        _ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", _id(target))

        def end() -> None:
            for node in (source, target):
                _ask(node, "CLUSTER", "SETSLOT", slot, "STABLE")

        return end

    def _is_joined(self) -> bool:
        return all(
            f"cluster_known_nodes:{len(self.nodes)}" in _text(_ask(node, "CLUSTER", "INFO"))
            and "cluster_state:ok" in _text(_ask(node, "CLUSTER", "INFO"))
            for node in self.nodes
        )

    def _is_content(self, node: RedisNode) -> bool:
        if not node.is_running or "cluster_state:ok" not in _text(_ask(node, "CLUSTER", "INFO")):
            return False
        lines = _text(_ask(node, "CLUSTER", "NODES")).splitlines()
        known = [line.split() for line in lines]
        is_seen = len(known) == len(self.nodes) and not any("fail" in w[2] for w in known)
        with node.client() as client:
            role: Any = client.info("replication")
        return is_seen and role.get("master_link_status", "up") == "up"


class Watched:
    """A master and its replica, and three sentinels that watch them."""

    def __init__(self, directory: Path) -> None:
        ports = free_ports(5)
        self.nodes: Final = [RedisNode(directory / f"watched-{at}", ports[at]) for at in range(2)]
        self._sentinels = [
            _Sentinel(directory / f"sentinel-{at}", ports[2 + at]) for at in range(3)
        ]

    @property
    def url(self) -> str:
        """Where it is, as roles are told."""
        seeds = ",".join(f"127.0.0.1:{one.port}" for one in self._sentinels)
        return f"redis+sentinel://{seeds}/{SERVICE}"

    def start(self) -> None:
        """Start all, and wait until sentinels know the master, its replica and each other."""
        for node in self.nodes:
            node.start()
        self.nodes[1].follow(self.nodes[0].address)
        _wait(self.nodes[1].is_following, "the replica's following")
        for sentinel in self._sentinels:
            sentinel.start(self.nodes[0].address)
        _wait(self.is_whole, "sentinels that know each other")

    def stop(self) -> None:
        """End all."""
        for sentinel in self._sentinels:
            sentinel.stop()
        for node in self.nodes:
            node.stop()

    def pause_sentinel(self, number: int) -> None:
        """Stop a sentinel as SIGSTOP does: the others decide without it."""
        self._sentinels[number].send(signal.SIGSTOP)

    def resume_sentinels(self) -> None:
        """Let all of them go on."""
        for sentinel in self._sentinels:
            sentinel.send(signal.SIGCONT)

    def is_whole(self) -> bool:
        """Tell whether there are a master and a replica in step, and all sentinels know of them."""
        with contextlib.suppress(redis.RedisError, KeyError, StopIteration):
            states = [sentinel.state() for sentinel in self._sentinels]
            replica = next(node for node in self.nodes if node is not self.master())
            is_known = all(
                state["flags"] == "master"
                and int(state["num-slaves"]) == 1
                and int(state["num-other-sentinels"]) == 2
                for state in states
            )
            return is_known and replica.is_running and replica.is_following()
        return False

    def master(self) -> RedisNode:
        """Return the master by what most sentinels say. Raises `NotThere`."""
        ports = []
        for sentinel in self._sentinels:
            with contextlib.suppress(redis.RedisError):
                ports.append(int(sentinel.state()["port"]))
        for node in self.nodes:
            if ports.count(node.port) >= 2:
                return node
        raise NotThere("the sentinels do not agree on a master")


class _Sentinel:
    """One sentinel."""

    def __init__(self, directory: Path, port: int) -> None:
        self.port: Final = port
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, master: Address) -> None:
        self._directory.mkdir(parents=True)
        config = self._directory / "sentinel.conf"
        host, port = master
        lines = (
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self._directory}",
            f"sentinel monitor {SERVICE} {host} {port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 2000",
        )
        config.write_text("\n".join(lines) + "\n")
        command = [find_redis_server(), str(config), "--sentinel"]
        with (self._directory / "sentinel.log").open("wb") as out:
            self._process = processes.start(command, stdout=out)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def state(self) -> dict[str, Any]:
        """Return what it says of the master."""
        with redis.Redis(port=self.port, socket_timeout=0.5, retry=Retry(NoBackoff(), 0)) as client:
            answer: Any = client.execute_command("SENTINEL", "MASTER", SERVICE)
        if isinstance(answer, dict):
            return {_text(name): _text(value) for name, value in answer.items()}
        words = [_text(word) for word in answer]
        return dict(zip(words[::2], words[1::2], strict=True))


def _cluster_options(bus_port: int) -> Sequence[str]:
    return (
        "cluster-enabled", "yes",
        "cluster-port", str(bus_port),
        "cluster-node-timeout", str(_NODE_TIMEOUT_MS),
        "cluster-require-full-coverage", "no",
        "cluster-replica-validity-factor", "0",
        "repl-diskless-sync-delay", "0",
    )  # fmt: skip


def _id(node: RedisNode) -> str:
    return _text(_ask(node, "CLUSTER", "MYID"))


def _ask(node: RedisNode, *command: Any) -> Any:
    with node.client() as client:
        ask: Any = client.execute_command
        return ask(*command)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _wait(is_so: Any, what: str) -> None:
    deadline = monotonic() + _WAIT_SECONDS
    while not is_so():
        if monotonic() > deadline:
            raise NotThere(f"no {what} within {_WAIT_SECONDS:.0f} s")
        sleep(_POLL_SECONDS)
