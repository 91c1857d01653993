"""How Redis is deployed: one server, one of several that sentinels watch, or a cluster.

Read from a URL, and nothing is connected. A node is a server that decides; which one it is for a
shard is found out by `sidecar/nodes.py` (roles) and `sidecar/meter/nodes.py` (the hot path).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from sidecar import keys

Address = tuple[str, int]
"""Host and port."""

ONLY: Final[Address] = ("", 0)
"""Stands for the address of a single server: its URL says where it is."""

SCOUT_SECONDS: Final = 0.5
"""How long one server may take to say who has what."""

SLOTS: Final = 16_384
"""Slots of a cluster: each has one node, and each shard is in one of them."""


class Kind(StrEnum):
    """How many servers there are, and who says which of them decides."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a URL says of Redis.

    `seeds`: the sentinels, or some nodes of the cluster. `service`: the name by which sentinels
    know the master. `url`: of one server; otherwise of a node, without host and port.
    """

    kind: Kind
    url: str
    seeds: tuple[Address, ...] = ()
    service: str = ""
    sentinel_user: str | None = None
    sentinel_password: str | None = None

    def sentinel_options(self) -> dict[str, Any]:
        """Return how sentinels are connected to: with TLS when nodes are."""
        return {
            "username": self.sentinel_user,
            "password": self.sentinel_password,
            "ssl": self.url.startswith("rediss"),
            "socket_timeout": SCOUT_SECONDS,
            "socket_connect_timeout": SCOUT_SECONDS,
        }

    def node_url(self, address: Address) -> str:
        """Return the URL of one node."""
        if address == ONLY:
            return self.url
        host, port = address
        return self.url.format(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


@dataclass(frozen=True, slots=True)
class SlotMap:
    """Which node has which slots: ranges of them, first and last included."""

    ranges: tuple[tuple[int, int, Address], ...] = ()

    @classmethod
    def everywhere(cls, address: Address) -> SlotMap:
        """Return the map of one node that has all."""
        return cls(((0, SLOTS - 1, address),))

    @classmethod
    def of_cluster(cls, answer: Any, asked: Address) -> SlotMap:
        """Return the map that a node answers to `CLUSTER SLOTS`.

        One that does not know its own address names none: it is the one that was asked.
        """
        ranges = []
        for first, last, master, *_ in answer:
            host = master[0].decode() if isinstance(master[0], bytes) else master[0]
            known = host if host and host != "?" else asked[0]
            ranges.append((int(first), int(last), (known, int(master[1]))))
        return cls(tuple(ranges))

    def owner(self, slot: int) -> Address | None:
        """Return which node has a slot; None when nobody is known to have it."""
        for first, last, address in self.ranges:
            if first <= slot <= last:
                return address
        return None

    @property
    def owners(self) -> list[Address]:
        """Every node that has a slot."""
        return list(dict.fromkeys(address for _, _, address in self.ranges))


def master_of(states: Iterable[Mapping[str, Any]]) -> Address | None:
    """Return the master by what sentinels say of it (`SENTINEL MASTER`), the newest of it.

    One that is cut off goes on to name the master of an older configuration.
    """
    known = [state for state in states if state.get("ip") and state.get("port")]
    if not known:
        return None
    newest = max(known, key=lambda state: int(state.get("config-epoch", 0)))
    return str(newest["ip"]), int(newest["port"])


@lru_cache(maxsize=1_024)
def slot_of(shard: int | None) -> int:
    """Return the cluster's slot of a shard; without one, of the keys that belong to none."""
    from redis.crc import key_slot  # only roles need it, and commands are to start quickly

    return int(key_slot((keys.META if shard is None else keys.fence(shard)).encode()))


def parse(text: str) -> Deployment:
    """Return the deployment of a URL. Raises `ValueError` when it is none of ours.

    `redis://`, `rediss://` and `unix://` are those of redis-py. Several hosts are written
    `redis+cluster://[user:password@]host:port[,host:port…]` and
    `redis+sentinel://[user:password@]host:port[,host:port…]/service[/database]`; `rediss+…` speaks
    TLS. What follows `?` is passed on for each node, but for `sentinel_user` and
    `sentinel_password`.
    """
    parts = urlsplit(text)
    scheme, _, kind = parts.scheme.partition("+")
    if not text.startswith(f"{parts.scheme}://"):
        raise ValueError("no ://")
    if not kind:
        return _single(text)
    if scheme not in ("redis", "rediss"):
        raise ValueError(f"no such scheme: {parts.scheme}")
    credentials, at, hosts = parts.netloc.rpartition("@")
    seeds = tuple(_address(host) for host in hosts.split(","))
    path = [unquote(part) for part in parts.path.split("/")[1:]]
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    sentinel = options.pop("sentinel_user", None), options.pop("sentinel_password", None)
    database = _database(Kind(kind), path)
    query = f"?{urlencode(options)}".replace("{", "{{").replace("}", "}}") if options else ""
    user = f"{credentials}{at}".replace("{", "{{").replace("}", "}}")
    url = f"{scheme}://{user}{{}}/{database}{query}"
    service = path[0] if kind == Kind.SENTINEL else ""
    return Deployment(Kind(kind), url, seeds, service, *sentinel)


def _single(text: str) -> Deployment:
    parts = urlsplit(text)
    _ = parts.port  # reading a wrong port raises ValueError
    if parts.scheme not in ("redis", "rediss", "unix") or not (
        parts.netloc or parts.path or parts.query
    ):
        raise ValueError("not the URL of a Redis")
    return Deployment(Kind.SINGLE, text)


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f"not host:port: {text}")
    return host, int(port)


def _database(kind: Kind, path: list[str]) -> int:
    """Return the number of the database: clusters have only one."""
    rest = [part for part in path if part]
    if kind is Kind.CLUSTER:
        if rest not in ([], ["0"]):
            raise ValueError("a cluster has only the database 0")
        return 0
    if kind is not Kind.SENTINEL or not 1 <= len(rest) <= 2 or path[0] != rest[0]:
        raise ValueError("sentinels know a master by its name: …/service[/database]")
    if len(rest) == 2 and not rest[1].isdigit():
        raise ValueError("not the number of a database")
    return int(rest[1]) if len(rest) == 2 else 0
