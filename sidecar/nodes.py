"""The Redis nodes of a deployment, for roles that may wait: which of them has which shard.

Who has what is asked anew every half second, so a fail-over or a slot that moved is found by
itself. Nothing here decides whether a node may be trusted: the fences do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from sidecar.deployment import ONLY, Address, Deployment, Kind, SlotMap, parse, slot_of

T = TypeVar("T")

FAULTS: Final = (RedisError, OSError)
"""What a call to a node may raise."""

_ASK_AGAIN_SECONDS: Final = 0.5
_SCOUT_SECONDS: Final = 1.0  # who has what must not take as long as what it is needed for


class NoNode(redis.ConnectionError):
    """Raised when nobody says which node has a shard."""


class RedisNodes:
    """Clients of the nodes, each made when it is first needed. Threads may share it."""

    def __init__(self, deployment: Deployment, *, timeout_s: float) -> None:
        self._deployment = deployment
        self._timeout_s = timeout_s
        self._clients: dict[Address, redis.Redis] = {}
        self._scouts: dict[Address, redis.Redis] = {}
        is_single = deployment.kind is Kind.SINGLE
        self._map = SlotMap.everywhere(ONLY) if is_single else SlotMap()
        self._asked_at = float("inf") if is_single else float("-inf")
        self._lock = threading.Lock()
        self._sentinel: Sentinel | None = None

    @classmethod
    def of_url(cls, url: str, *, timeout_s: float) -> RedisNodes:
        """Return the nodes of a URL that `sidecar.deployment.parse` reads."""
        return cls(parse(url), timeout_s=timeout_s)

    @classmethod
    def over(cls, client: redis.Redis) -> RedisNodes:
        """Return the single node that a client talks to."""
        nodes = cls(Deployment(Kind.SINGLE, ""), timeout_s=0.0)
        nodes._clients[ONLY] = client
        return nodes

    @property
    def home(self) -> redis.Redis:
        """The node that has what belongs to no shard. Raises `NoNode`."""
        return self._at(slot_of(None))

    def of(self, shard: int) -> redis.Redis:
        """Return the node that has a shard. Raises `NoNode`."""
        return self._at(slot_of(shard))

    def all(self) -> list[redis.Redis]:
        """Return every node that has anything; at least the home. Raises `NoNode`."""
        home = self.home
        others = [self._client(address) for address in self._map.owners]
        return list(dict.fromkeys([home, *others]))

    def groups(
        self, items: Iterable[T], shard: Callable[[T], int]
    ) -> list[tuple[redis.Redis, list[T]]]:
        """Return items by the node that has their shard, those of a node in their order.

        Items of a shard that no node has are left out. Raises `NoNode` when that is all of them.
        """
        found: dict[redis.Redis, list[T]] = {}
        missing: NoNode | None = None
        for item in items:
            try:
                found.setdefault(self.of(shard(item)), []).append(item)
            except NoNode as error:
                missing = error
        if missing is not None and not found:
            raise missing
        return list(found.items())

    def ask(
        self, items: Sequence[T], shard: Callable[[T], int], queue: Callable[[Any, T], object]
    ) -> list[Any]:
        """Send one command for each item to its node; return its reply, or its error, in order.

        `queue` puts the command of an item into a pipeline. Raises the driver's error when no node
        answers at all.
        """
        if not items:
            return []
        replies: list[Any] = [NoNode("no node has the shard")] * len(items)
        failures: list[Exception] = []
        groups = self.groups(range(len(items)), lambda at: shard(items[at]))
        for client, places in groups:
            pipeline = client.pipeline(transaction=False)
            for at in places:
                queue(pipeline, items[at])
            try:
                answers = pipeline.execute(raise_on_error=False)
            except FAULTS as error:
                failures.append(error)
                answers = [error] * len(places)
            for at, answer in zip(places, answers, strict=True):
                replies[at] = answer
        if failures or any(isinstance(reply, MovedError) for reply in replies):
            self.doubt()
        if failures and len(failures) == len(groups):
            raise failures[0]
        return replies

    def doubt(self) -> None:
        """Ask anew who has what before anything else is asked."""
        if self._deployment.kind is not Kind.SINGLE:
            self._asked_at = float("-inf")

    def close(self) -> None:
        """Close all connections."""
        for client in [*self._clients.values(), *self._scouts.values()]:
            client.close()

    # Who has what -----------------------------------------------------------------------------

    def _at(self, slot: int) -> redis.Redis:
        # One thread asks; the others go on with what was known, if anything was.
        is_old = time.monotonic() - self._asked_at >= _ASK_AGAIN_SECONDS
        if is_old and self._lock.acquire(blocking=not self._map.ranges):
            try:
                # When nobody answers, what was known stays: its nodes may be there all the same.
                self._map = self._ask() or self._map
                self._asked_at = time.monotonic()
            finally:
                self._lock.release()
        owner = self._map.owner(slot)
        if owner is None:
            raise NoNode(f"no node of the {self._deployment.kind} has slot {slot} now")
        return self._client(owner)

    def _ask(self) -> SlotMap | None:
        if self._deployment.kind is Kind.CLUSTER:
            return self._ask_cluster()
        return self._ask_sentinels()

    def _ask_sentinels(self) -> SlotMap | None:
        if self._sentinel is None:
            options = sentinel_options(self._deployment) | {"retry": Retry(NoBackoff(), 0)}
            make = cast(Callable[..., Sentinel], Sentinel)  # it has no types
            self._sentinel = make(self._deployment.seeds, sentinel_kwargs=options)
        discover = cast(Callable[[str], Address], self._sentinel.discover_master)
        try:
            host, port = discover(self._deployment.service)
        except FAULTS:
            return None
        return SlotMap.everywhere((str(host), int(port)))

    def _ask_cluster(self) -> SlotMap | None:
        # Another one first each time: one that is cut off tells what was true once.
        known = list(dict.fromkeys([*self._map.owners, *self._deployment.seeds]))
        first = int(time.monotonic() / _ASK_AGAIN_SECONDS) % len(known)
        for address in known[first:] + known[:first]:
            try:
                scout: Any = self._scout(address)
                answer = scout.execute_command("CLUSTER SLOTS")
            except FAULTS:
                continue
            if answer:
                return SlotMap.of_cluster(answer, address)
        return None

    def _client(self, address: Address) -> redis.Redis:
        client = self._clients.get(address)
        if client is None:
            made = self._make(address, self._timeout_s)
            client = self._clients.setdefault(address, made)
        return client

    def _scout(self, address: Address) -> redis.Redis:
        if address not in self._scouts:
            self._scouts[address] = self._make(address, _SCOUT_SECONDS)
        return self._scouts[address]

    def _make(self, address: Address, timeout_s: float) -> redis.Redis:
        return redis.Redis.from_url(
            self._deployment.node_url(address),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),  # repeats are the callers' own
        )


def sentinel_options(deployment: Deployment) -> dict[str, Any]:
    """Return how sentinels are connected to."""
    return {
        "username": deployment.sentinel_user,
        "password": deployment.sentinel_password,
        "ssl": deployment.is_tls,
        "socket_timeout": _SCOUT_SECONDS,
        "socket_connect_timeout": _SCOUT_SECONDS,
    }
