"""An account as the tests of the scripts drive it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec
import redis

from sidecar import keys
from sidecar.domain import NEVER_EXPIRES, burn_order
from sidecar.scripts import ScriptRunner, load_scripts

SHARDS: Final = 64
DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000

Reply = list[Any]
Argument = str | int | bytes

# The fields of a packed record, as lua/prelude.lua numbers them (from 1 there).
KIND, STATE, ANSWER, CHARGED, REFUNDED, CHARGES = 0, 1, 3, 4, 5, 6
AMOUNT, HELD, EXPIRES = 8, 9, 10


class Event(NamedTuple):
    """One usage event, field by field as the ledger reads it; amounts in microcredits."""

    version: int
    account: str
    gen: int
    seq: int
    operation: str
    id: str
    at_ms: int
    amount: int
    total: int
    flags: int
    allocations: list[int]
    context: str
    detail: str

    def parts(self) -> dict[int, int]:
        """Return the allocations by grant number; 0 is the overdraft pool."""
        return pairs(self.allocations)


def pairs(flat: Sequence[int]) -> dict[int, int]:
    """Return a flat list `[grant_no, amount, ...]` as a dictionary. No grant may appear twice."""
    found = dict(zip(flat[::2], flat[1::2], strict=True))
    assert len(found) * 2 == len(flat), f"a grant appears twice in {flat}"
    return found


def begin_stream(client: Any, stream: str) -> None:
    """Let a shard's epoch have its stream, as a worker does before it writes the fence."""
    with contextlib.suppress(redis.ResponseError):
        client.xgroup_create(stream, "ledger", id="0", mkstream=True)


@dataclass
class Account:
    """One account in Redis: its keys, its calls with sensible defaults, and what was lent to it.

    `is_alone` says that nothing else is in Redis.
    """

    client: redis.Redis
    name: str = "acme"
    epoch: int = 1
    gen: int = 1
    lent: dict[int, int] = field(default_factory=dict)
    restored: dict[int, int] = field(default_factory=dict)
    is_alone: bool = True

    def __post_init__(self) -> None:
        self.shard = keys.shard_of(self.name, SHARDS)
        self.keys = keys.account_keys(self.name, self.shard, self.epoch)
        self.redis: Any = self.client  # redis-py types each reply as one that may be awaitable
        self.trail: list[Any] = []
        """The last reply's part for the journal: allowance, stream id, event."""
        self._runner = ScriptRunner(self.client)
        self._scripts = load_scripts()

    def call(self, verb: str, *args: Argument, epoch: int | None = None) -> Reply:
        """Run one script of this account and return its reply, texts decoded."""
        script = getattr(self._scripts, verb)
        reply = self._runner.call(script, self.keys, [epoch or self.epoch, *args])
        self.trail = reply.pop() if isinstance(reply[-1], list) else []
        return [as_text(item) for item in reply]

    # What the sidecar calls ------------------------------------------------------------------

    def hold(
        self,
        id: str,
        amount: int,
        *,
        ttl_ms: int = HOUR_MS,
        partial: int = 0,
        price_version: str = "",
        context: str = "",
        fingerprint: str | None = None,
    ) -> Reply:
        """Hold; by default two calls with the same amount, time to live and partial are alike."""
        same = fingerprint if fingerprint is not None else f"hold {amount} {ttl_ms} {partial}"
        return self.call("hold", id, same, amount, ttl_ms, partial, price_version, context)

    def settle(
        self,
        id: str,
        total: int,
        *,
        final: int = 1,
        price_version: str = "",
        detail: str = "",
        fingerprint: str | None = None,
        lost: bytes = b"",
        is_degraded: bool = False,
    ) -> Reply:
        """Settle; by default two calls with the same total and final are alike."""
        same = fingerprint if fingerprint is not None else f"settle {total} {final}"
        return self.call(
            "settle", id, same, total, final, price_version, detail, lost, int(is_degraded)
        )

    def release(self, id: str) -> Reply:
        """Release a hold."""
        return self.call("release", id)

    def extend(self, id: str, amount: int, ttl_ms: int = 0) -> Reply:
        """Extend a hold; 0 leaves the amount or the time to live."""
        return self.call("extend", id, amount, ttl_ms)

    def debit(
        self,
        id: str,
        amount: int,
        *,
        detail: str = "",
        fingerprint: str | None = None,
        is_degraded: bool = False,
    ) -> Reply:
        """Debit; by default two calls with the same amount are alike."""
        same = fingerprint if fingerprint is not None else f"debit {amount}"
        return self.call("debit", id, same, amount, detail, int(is_degraded))

    def refund(
        self,
        id: str,
        of: str,
        amount: int = 0,
        *,
        detail: str = "",
        fingerprint: str | None = None,
    ) -> Reply:
        """Refund; by default two calls with the same `of` are alike, whatever the amount."""
        same = fingerprint if fingerprint is not None else f"refund {of}"
        return self.call("refund", id, same, of, amount, detail)

    def balance(self, with_grants: int = 1) -> Reply:
        """Read the balance."""
        return self.call("balance", with_grants)

    def expire(self) -> Reply:
        """End what is due."""
        return self.call("expire")

    # What the worker sends: numbered refills -------------------------------------------------

    def use(self, *, epoch: int) -> None:
        """Call with another epoch from now on; the keys stay the same."""
        self.epoch = epoch

    def refill_no(self) -> int:
        """Return the number of the refill that the account had last; 0 when it is not there."""
        return int(self.redis.hget(self.keys[0], "refill_no") or 0)

    def open(
        self,
        *,
        status: str = "active",
        overdraft: int = 0,
        reason: str = "",
        gen: int | None = None,
        allowance: int = 0,
        mark: int = 0,
    ) -> Reply:
        """Open the generation, in an epoch that has begun."""
        begin_stream(self.redis, self.keys[8])
        return self.call("open", gen or self.gen, 1, status, overdraft, reason, allowance, mark)

    def refill(
        self, verb: str, *args: Argument, refill_no: int | None = None, gen: int | None = None
    ) -> Reply:
        """Send a refill: the next one, unless a number is given."""
        number = self.refill_no() + 1 if refill_no is None else refill_no
        return self.call(verb, gen or self.gen, number, *args)

    def grant(
        self,
        grant_no: int,
        amount: int,
        *,
        priority: int = 50,
        category: str = "paid",
        expires_at_ms: int | None = None,
        refill_no: int | None = None,
        gen: int | None = None,
    ) -> Reply:
        """Grant; the id for people is `grant-<grant_no>`."""
        order = burn_order(priority, expires_at_ms, category, grant_no)
        reply = self.refill(
            "grant", grant_no, amount, order, f"grant-{grant_no}", refill_no=refill_no, gen=gen
        )
        if reply[0] == "applied":
            self.lent[grant_no] = self.lent.get(grant_no, 0) + amount
        return reply

    def take(
        self,
        amount: int,
        grant_no: int = 0,
        *,
        refill_no: int | None = None,
        gen: int | None = None,
    ) -> Reply:
        """Take a negative adjustment."""
        return self.refill("take", amount, grant_no, refill_no=refill_no, gen=gen)

    def status(
        self,
        status: str,
        overdraft: int = 0,
        reason: str = "",
        *,
        allowance: int = 0,
        mark: int = 0,
        refill_no: int | None = None,
        gen: int | None = None,
    ) -> Reply:
        """Set status, overdraft, allowance and mark."""
        args = (status, overdraft, reason, allowance, mark)
        return self.refill("status", *args, refill_no=refill_no, gen=gen)

    def restore(
        self, allocations: Sequence[int], *, refill_no: int | None = None, gen: int | None = None
    ) -> Reply:
        """Give back the allocations of a dropped duplicate."""
        packed = msgspec.msgpack.encode(list(allocations))
        reply = self.refill("restore", packed, refill_no=refill_no, gen=gen)
        if reply[0] == "applied":
            for grant_no, amount in pairs(allocations).items():
                self.restored[grant_no] = self.restored.get(grant_no, 0) + amount
        return reply

    def roll(
        self,
        keep: int,
        grants: Sequence[tuple[int, int | None]],
        *,
        priority: int = 50,
        category: str = "paid",
        refill_no: int | None = None,
        gen: int | None = None,
    ) -> Reply:
        """Carry over at most `keep` of grants, each with its new expiry; 0 ends them."""
        flat: list[int | str] = []
        for grant_no, expires_at_ms in grants:
            flat += (grant_no, burn_order(priority, expires_at_ms, category, grant_no))
        packed = msgspec.msgpack.encode(flat)
        return self.refill("roll", keep, packed, refill_no=refill_no, gen=gen)

    # Time ------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Return the clock of Redis."""
        seconds, micros = self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def pass_time(self, passed_ms: int) -> None:
        """Let time pass for this account: every instant that it waits for comes nearer."""
        account_key, expiry_key, sweep_key = self.keys[0], self.keys[4], self.keys[5]
        for member in self.redis.zrange(expiry_key, 0, -1):
            self.redis.zincrby(expiry_key, -passed_ms, member)
        next_expiry = int(self.redis.hget(account_key, "next_expiry") or 0)
        if next_expiry != NEVER_EXPIRES:
            self.redis.hset(account_key, "next_expiry", str(next_expiry - passed_ms))
            self.redis.zincrby(sweep_key, -passed_ms, self.name)

    def due(self, member: str, at_ms: int) -> None:
        """Let something of the expiry set be due at another instant."""
        self.redis.zadd(self.keys[4], {member: at_ms})
        ((_, first_ms),) = self.redis.zrange(self.keys[4], 0, 0, withscores=True)
        self.redis.hset(self.keys[0], "next_expiry", str(int(first_ms)))
        self.redis.zadd(self.keys[5], {self.name: first_ms})

    def expire_grant(self, grant_no: int) -> None:
        """Let the instant come at which a grant expires, and end it; nothing else moves."""
        self.due(f"g:{grant_no}", 1)
        self.expire()

    def pass_midnight(self) -> None:
        """Let a UTC day pass for the stored answers: today's are yesterday's, older ones go."""
        yesterday, today = (self.keys[6 + (self.today() + n) % 2] for n in (1, 0))
        self.redis.delete(yesterday)
        if self.redis.exists(today):
            self.redis.rename(today, yesterday)
            # It keeps the instant at which it goes, less the day that has passed.
            at_ms = int(self.redis.pexpiretime(yesterday))
            self.redis.pexpireat(yesterday, at_ms - DAY_MS)
        day = int(self.redis.hget(self.keys[0], "day") or 0)
        self.redis.hset(self.keys[0], "day", str(day - 1 if day else 0))

    def today(self) -> int:
        """Return the number of the UTC day by the clock of Redis."""
        return self.now_ms() // DAY_MS

    # What is there ---------------------------------------------------------------------------

    def fields(self) -> dict[str, str]:
        """Return the account hash."""
        found = self.redis.hgetall(self.keys[0])
        return {as_text(name): as_text(value) for name, value in found.items()}

    def number(self, name: str) -> int:
        """Return one number of the account hash."""
        return int(self.fields()[name])

    def left(self) -> dict[int, int]:
        """Return what is left of each grant that Redis knows, by grant number."""
        grants = self.redis.hgetall(self.keys[1])
        known = {as_text(name): as_text(value) for name, value in grants.items()}
        left = {int(no): int(known[f"{no}:left"]) for no in known if not no.endswith(":left")}
        head = self.fields()["head"]
        if head:
            left[int(head[19:])] = self.number("head_left")
        return left

    def orders(self) -> dict[int, str]:
        """Return the burn order key of each grant that Redis knows, by grant number."""
        grants = self.redis.hgetall(self.keys[1])
        known = {as_text(name): as_text(value) for name, value in grants.items()}
        return {int(no): known[no][:34] for no in known if not no.endswith(":left")}

    def holds(self) -> dict[str, list[Any]]:
        """Return the records of the open holds, by id."""
        return self._records(self.keys[3])

    def answers(self) -> dict[str, list[Any]]:
        """Return the records of what has ended, by id, today's before yesterday's."""
        today = self.today()
        return self._records(self.keys[6 + (today + 1) % 2]) | self._records(
            self.keys[6 + today % 2]
        )

    def _records(self, key: str) -> dict[str, list[Any]]:
        packed = self.redis.hgetall(key)
        return {as_text(id): msgspec.msgpack.decode(record) for id, record in packed.items()}

    def events(self) -> list[Event]:
        """Return the events of this account in the stream, oldest first."""
        entries = self.redis.xrange(self.keys[8])
        packed = [entry[b"e"] for _, entry in entries if b"e" in entry]
        all_events = [Event(*msgspec.msgpack.decode(event)) for event in packed]
        return [event for event in all_events if event.account == self.name]

    def rings(self) -> int:
        """Return how often this account has told that it has run low."""
        entries = self.redis.xrange(self.keys[8])
        return sum(entry == {b"r": self.name.encode()} for _, entry in entries)

    def dump(self) -> dict[str, tuple[bytes | None, int]]:
        """Return everything that Redis has, key by key, with the instant at which a key goes."""
        names = sorted(as_text(name) for name in self.redis.keys("*"))
        return {name: (self.redis.dump(name), self.redis.pexpiretime(name)) for name in names}


def as_text(value: Any) -> Any:
    """Return a reply with its bytes as text."""
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value
