"""The Redis nodes of a deployment, for roles that may wait: which of them has which shard.

Who has what is asked anew every half second, so a fail-over or a slot that moved is found by
itself. Nothing here decides whether a node may be trusted: the fences do.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ExecAbortError,
    MovedError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.retry import Retry

from sidecar.deployment import (
    ONLY,
    SCOUT_SECONDS,
    Address,
    Deployment,
    Kind,
    SlotMap,
    master_of,
    parse,
    slot_of,
)

T = TypeVar("T")
R = TypeVar("R")

FAULTS: Final = (RedisError, OSError)
"""What a call to a node may raise."""

MOVING: Final = (AskError, TryAgainError, ClusterDownError, ReadOnlyError, ExecAbortError)
"""What a node answers, having done nothing, for a slot that it has not, or not now.

`MovedError` is an `AskError`.
"""

_ASK_AGAIN_SECONDS: Final = 0.5
_MANY_SECONDS: Final = 2.0  # of several nodes one may hang, and the others wait for its answer
_AWAY_SECONDS: Final = 3.0  # so long nobody waits again for one that hung
_THREADS: Final = 16


class NodeChanged(Exception):
    """Raised when another Redis process answers than the one that is meant, or a replica."""


class NoNode(redis.ConnectionError):
    """Raised when nobody says which node has a shard."""


class RedisNodes:
    """Clients of the nodes, each made when it is first needed. Threads may share it."""

    def __init__(self, deployment: Deployment, *, timeout_s: float) -> None:
        self._deployment = deployment
        is_single = deployment.kind is Kind.SINGLE
        self._timeout_s = timeout_s if is_single else min(timeout_s, _MANY_SECONDS)
        self._clients: dict[Address, redis.Redis] = {}
        self._scouts: dict[Address, redis.Redis] = {}
        self._map = SlotMap.everywhere(ONLY) if is_single else SlotMap()
        self._asked_at = float("inf") if is_single else float("-inf")
        self._lock = threading.Lock()
        self._sentinels = list(deployment.seeds)
        self._away: dict[redis.Redis, float] = {}
        self._threads: ThreadPoolExecutor | None = None

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
        groups = self.groups(range(len(items)), lambda at: shard(items[at]))

        def send(client: redis.Redis, places: list[int]) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for at in places:
                queue(pipeline, items[at])
            return pipeline.execute(raise_on_error=False)

        answers = self.on_each(groups, send)
        for (_, places), answer in zip(groups, answers, strict=True):
            mine = [answer] * len(places) if isinstance(answer, Exception) else answer
            for at, reply in zip(places, mine, strict=True):
                replies[at] = reply
        if any(isinstance(reply, MovedError) for reply in replies):
            self.doubt()
        raise_if_all_failed(answers)
        return replies

    def on_each(
        self,
        groups: Sequence[tuple[redis.Redis, list[T]]],
        work: Callable[[redis.Redis, list[T]], R],
    ) -> list[R | Exception]:
        """Do something at each node, at once; return the result of each, or what it raised.

        `FAULTS` and `NodeChanged` are results here, everything else is raised. One that has just
        kept us waiting for nothing is left out for some seconds, while there are others.
        """
        if len(groups) == 1:
            ((client, mine),) = groups
            return [_try(client, mine, work)]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="redis")
        begun = [
            self._threads.submit(self._try_unless_away, client, mine, work)
            for client, mine in groups
        ]
        return [one.result() for one in begun]

    def _try_unless_away(
        self, client: redis.Redis, mine: list[T], work: Callable[[redis.Redis, list[T]], R]
    ) -> R | Exception:
        if time.monotonic() < self._away.get(client, 0.0):
            return NoNode("the node did not answer a moment ago")
        result = _try(client, mine, work)
        if isinstance(result, redis.TimeoutError):
            self._away[client] = time.monotonic() + _AWAY_SECONDS
        if isinstance(result, FAULTS):
            self.doubt()
        return result

    def doubt(self) -> None:
        """Ask anew who has what before anything else is asked."""
        if self._deployment.kind is not Kind.SINGLE:
            self._asked_at = float("-inf")

    def close(self) -> None:
        """Close all connections."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)
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
        # All of them, those that answered last time first; when most have, the others may hang.
        states: dict[Address, Any] = {}
        for address in self._sentinels:
            client: Any = self._sentinel(address)
            with contextlib.suppress(*FAULTS):
                states[address] = client.sentinel_master(self._deployment.service)
            if 2 * len(states) > len(self._sentinels):
                break
        self._sentinels = sorted(self._sentinels, key=lambda address: address not in states)
        master = master_of(states.values())
        return None if master is None else SlotMap.everywhere(master)

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
            self._scouts[address] = self._make(address, SCOUT_SECONDS)
        return self._scouts[address]

    def _sentinel(self, address: Address) -> redis.Redis:
        if address not in self._scouts:
            host, port = address
            options = self._deployment.sentinel_options()
            self._scouts[address] = redis.Redis(
                host=host, port=port, retry=Retry(NoBackoff(), 0), **options
            )
        return self._scouts[address]

    def _make(self, address: Address, timeout_s: float) -> redis.Redis:
        return redis.Redis.from_url(
            self._deployment.node_url(address),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),  # repeats are the callers' own
        )


def raise_if_all_failed(results: Sequence[Any]) -> None:
    """Raise the first error of `on_each` when there is nothing else."""
    if results and all(isinstance(result, Exception) for result in results):
        raise results[0]


def _try(
    client: redis.Redis, mine: list[T], work: Callable[[redis.Redis, list[T]], R]
) -> R | Exception:
    try:
        return work(client, mine)
    except (*FAULTS, NodeChanged) as error:
        return error
