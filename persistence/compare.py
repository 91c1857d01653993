"""Redis against the ledger, exactly and without stopping traffic.

An account's snapshot in Redis carries the `seq` of its last event and its last refill. Once the
ledger has flushed that event, what it says of that very moment can be computed: what was lent up to
the refill, less what events charged up to the event. The two must be equal.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import ARRAY

from persistence.pipelines import Call, call_many
from sidecar.nodes import RedisNodes

CHUNK_ACCOUNTS: Final = 500

_POLL_SECONDS: Final = 0.02
_EXPIRE_ROUNDS: Final = 256


@dataclass(frozen=True, slots=True)
class Place:
    """Where an account's present generation lives: `run_id` is the process that decides for it."""

    account: str
    account_no: int
    gen: int
    shard: int
    epoch: int
    run_id: str
    applied_refill_no: int

    def call(self, verb: str, *args: int) -> Call:
        """Return a script call of the account."""
        return Call(verb, self.account, self.shard, self.epoch, self.run_id, args)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An account as Redis had it at one moment; amounts in microcredits."""

    account: str
    gen: int
    seq: int
    refill_no: int
    available: int
    held: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Difference:
    """An account on which Redis and the ledger do not agree: `redis` less `ledger`, and why."""

    account: str
    problem: str
    redis: int | None
    ledger: int | None

    @property
    def amount(self) -> int:
        """How far apart they are."""
        return abs((self.redis or 0) - (self.ledger or 0))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, and where it differs; `unflushed`: whose events did not arrive in time.

    `ahead`: accounts of which Redis has refills that the ledger never wrote.
    """

    compared: int
    differences: list[Difference]
    unflushed: list[str]
    ahead: list[Place]


class Comparer:
    """Compares accounts that are in Redis: of open shards, and in their present generation.

    `wait_s`: how long the flusher may take.
    """

    def __init__(self, engine: Engine, nodes: RedisNodes, *, wait_s: float = 10.0) -> None:
        self._engine = engine
        self._nodes = nodes
        self._wait_s = wait_s

    def chunks(self, accounts: Sequence[str] | None = None) -> Iterator[Comparison]:
        """Compare all accounts, or those named, some hundreds at a time."""
        after = 0
        while True:
            places = self._places(accounts, after)
            if not places:
                return
            after = places[-1].account_no
            yield self.compare(places)

    def sample(self, count: int, after: int) -> tuple[Comparison, int]:
        """Compare the `count` accounts after an account number; return also where to go on."""
        places = self._places(None, after, count)
        comparison = self.compare(places) if places else Comparison(0, [], [], [])
        return comparison, places[-1].account_no if len(places) == count else 0

    def compare(self, places: Sequence[Place]) -> Comparison:
        """Compare some accounts at what Redis says now.

        Raises `RedisChanged` and the errors of SQLAlchemy and redis-py.
        """
        snapshots, missing = self._snapshots(places)
        flushed, unflushed = self._wait(snapshots)
        known = self._expected(flushed)
        differences, ahead = list(missing), set()
        for one in flushed:
            expected, refill_no = known.get(one.account, (None, 0))
            if expected != one.available + one.held:
                has = one.available + one.held
                differences.append(Difference(one.account, "differs", has, expected))
            if one.refill_no > refill_no:
                ahead.add(one.account)
        compared = len(flushed) + len(missing)
        if differences or unflushed:
            # What was given up or reopened meanwhile is not as it was when it was looked at.
            still = self._still(places)
            differences = [one for one in differences if one.account in still]
            unflushed = [account for account in unflushed if account in still]
        before = [place for place in places if place.account in ahead]
        return Comparison(compared, differences, unflushed, before)

    def _still(self, places: Sequence[Place]) -> set[str]:
        """Return the accounts that are still in the same generation of a trusted Redis."""
        now = self._places([place.account for place in places], 0)
        where = {place.account: (place.gen, place.epoch) for place in now}
        return {p.account for p in places if where.get(p.account) == (p.gen, p.epoch)}

    def _places(
        self, accounts: Sequence[str] | None, after: int, limit: int = CHUNK_ACCOUNTS
    ) -> list[Place]:
        names = None if accounts is None else list(accounts)
        values = {"accounts": names, "after": after, "limit": limit}
        with self._engine.connect() as connection:
            return [Place(*row) for row in connection.execute(_PLACES, values)]

    def _snapshots(self, places: Sequence[Place]) -> tuple[list[Snapshot], list[Difference]]:
        snapshots: list[Snapshot] = []
        missing: list[Difference] = []
        for place, reply in zip(places, self._balances(places), strict=True):
            if not isinstance(reply, Exception) and reply[0] == b"ok":
                snapshots.append(_snapshot(place.account, reply))
                continue
            status = str(reply) if isinstance(reply, Exception) else reply[0].decode()
            # An account that never had a refill has nothing in Redis yet.
            if status != "unknown" or place.applied_refill_no > 0:
                missing.append(Difference(place.account, f"Redis says {status}", None, None))
        return snapshots, missing

    def _balances(self, places: Sequence[Place]) -> list[Any]:
        replies = call_many(self._nodes, [place.call("balance", 0) for place in places])
        for index, place in enumerate(places):
            for _ in range(_EXPIRE_ROUNDS):
                reply = replies[index]
                if isinstance(reply, Exception) or reply[0] != b"again":
                    break
                calls = [place.call("expire"), place.call("balance", 0)]
                replies[index] = call_many(self._nodes, calls)[1]
        return replies

    def _wait(self, snapshots: list[Snapshot]) -> tuple[list[Snapshot], list[str]]:
        """Wait until the ledger has the snapshots' events; return those that it has, and others."""
        deadline = time.monotonic() + self._wait_s
        while True:
            behind = self._behind(snapshots)
            if not behind or time.monotonic() >= deadline:
                break
            time.sleep(_POLL_SECONDS)
        return [s for s in snapshots if s.account not in behind], sorted(behind)

    def _behind(self, snapshots: list[Snapshot]) -> set[str]:
        with self._engine.connect() as connection:
            return set(connection.scalars(_BEHIND, _arrays(snapshots)))

    def _expected(self, snapshots: list[Snapshot]) -> dict[str, tuple[int, int]]:
        """Return what the ledger says of each account at its snapshot, and its last refill."""
        with self._engine.connect() as connection:
            connection.execution_options(isolation_level="REPEATABLE READ")
            rows = connection.execute(_EXPECTED, _arrays(snapshots))
            return {row.account: (int(row.expected), int(row.refill_no)) for row in rows}


def _snapshot(account: str, reply: Sequence[Any]) -> Snapshot:
    available, held, gen, seq, refill_no, at_ms = (int(reply[i]) for i in (2, 3, 5, 6, 7, 8))
    return Snapshot(account, gen, seq, refill_no, available, held, at_ms)


def _arrays(snapshots: list[Snapshot]) -> dict[str, list[Any]]:
    return {
        "accounts": [s.account for s in snapshots],
        "gens": [s.gen for s in snapshots],
        "seqs": [s.seq for s in snapshots],
        "refills": [s.refill_no for s in snapshots],
        "times": [s.at_ms for s in snapshots],
    }


_PLACES: Final = sa.text(
    """
    SELECT a.account, a.account_no, g.gen, g.shard, g.epoch, s.run_id, g.applied_refill_no
    FROM accounts a
    JOIN generations g ON g.account = a.account AND g.gen = a.generation AND g.state = 'open'
    JOIN shards s ON s.shard = g.shard AND s.epoch = g.epoch AND s.state = 'open' AND s.is_fenced
    WHERE a.account_no > :after
        AND (CAST(:accounts AS text[]) IS NULL OR a.account = ANY(:accounts))
    ORDER BY a.account_no LIMIT :limit
    """
).bindparams(sa.bindparam("accounts", type_=ARRAY(sa.Text)))

_SNAPSHOTS: Final = """
    unnest(:accounts, :gens, :seqs, :refills, :times) AS v (account, gen, seq, refill_no, at_ms)
"""
_ARRAYS: Final = (
    sa.bindparam("accounts", type_=ARRAY(sa.Text)),
    sa.bindparam("gens", type_=ARRAY(sa.Integer)),
    sa.bindparam("seqs", type_=ARRAY(sa.BigInteger)),
    sa.bindparam("refills", type_=ARRAY(sa.BigInteger)),
    sa.bindparam("times", type_=ARRAY(sa.BigInteger)),
)

_BEHIND: Final = sa.text(
    f"""
    SELECT v.account FROM {_SNAPSHOTS}
    JOIN generations g ON g.account = v.account AND g.gen = v.gen
    WHERE g.seq < v.seq
    """
).bindparams(*_ARRAYS)

# What the ledger knows now, less what came after the snapshot's refill and event. The hour's bound
# on the instant is for the index; the clock of Redis may step back, but not by that much.
_EXPECTED: Final = sa.text(
    f"""
    SELECT v.account,
        g.lent + g.restored - g.spent - g.expired - g.returned - g.suspended - g.dropped
        - (SELECT coalesce(sum(r.amount + CASE r.kind
                WHEN 'restore' THEN (r.payload ->> 'amount')::bigint ELSE 0 END), 0)
            FROM refills r
            WHERE r.account = v.account AND r.gen = v.gen AND r.refill_no > v.refill_no)
        + (SELECT coalesce(sum(e.amount), 0) FROM usage_events e
            WHERE e.account = v.account AND e.generation = v.gen AND e.seq > v.seq
                AND e.at_ms >= v.at_ms - 3600000 AND g.seq > v.seq)
        + (SELECT coalesce(sum(d.amount), 0) FROM duplicate_events d
            WHERE d.account = v.account AND d.generation = v.gen AND d.seq > v.seq)
        + (SELECT coalesce(sum(l.amount), 0) FROM dead_letters l
            WHERE l.account = v.account AND l.generation = v.gen AND l.seq > v.seq)
        AS expected,
        g.refill_no
    FROM {_SNAPSHOTS}
    JOIN generations g ON g.account = v.account AND g.gen = v.gen
    """
).bindparams(*_ARRAYS)
