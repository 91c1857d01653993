"""Refills: what the ledger decided, carried out in Redis, each once and in order.

Any number of workers may send the same refill: it is numbered, and the script applies it once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import redis
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import ARRAY

from persistence.database import in_transaction, now_ms
from persistence.generations import RefillKind
from persistence.pipelines import Call, call_many
from sidecar import keys
from sidecar.metrics import WorkerMetrics
from sidecar.scripts import Script, Scripts

_log: Final = logging.getLogger(__name__)

BATCH_ACCOUNTS: Final = 200
"""Accounts that one round serves."""

_ACCOUNT_REFILLS: Final = 200
_EXPIRE_ROUNDS: Final = 64

_DONE: Final = frozenset({"applied", "replayed"})


@dataclass(frozen=True, slots=True)
class Refill:
    """One pending or earlier refill, with where its generation lives."""

    account: str
    gen: int
    refill_no: int
    kind: RefillKind
    payload: dict[str, Any]
    shard: int
    epoch: int
    applied_refill_no: int


@dataclass(slots=True)
class Sent:
    """What became of the refills of some accounts.

    `lost`: accounts that Redis had and has no more, or has of another life.
    """

    applied: int = 0
    lost: set[str] = field(default_factory=set)
    stuck: set[str] = field(default_factory=set)


class RefillSender:
    """Sends pending refills. One instance belongs to one thread."""

    def __init__(
        self, engine: Engine, client: redis.Redis, scripts: Scripts, metrics: WorkerMetrics
    ) -> None:
        self._engine = engine
        self._redis = client
        self._scripts = scripts
        self._metrics = metrics
        self._reported: set[str] = set()

    def run_once(self) -> int:
        """Apply the pending refills of some accounts, oldest first; return how many were applied.

        Raises the errors of SQLAlchemy and redis-py; what was applied stays so, and is marked
        when it is sent again.
        """
        applied = 0
        skip: set[str] = set()
        while True:
            accounts = self._waiting(skip)
            if not accounts:
                self._set_lag()
                return applied
            sent = self.send(accounts)
            applied += sent.applied
            skip |= set(accounts)

    def send(self, accounts: Sequence[str]) -> Sent:
        """Apply what is pending of these accounts' present generations."""
        sent = Sent()
        pending = self._pending(accounts)
        while pending:
            marks = self._round(pending, sent)
            sent.applied += self._mark(marks)
            failed = sent.lost | sent.stuck
            more = sorted({refill.account for refill in marks} - failed)
            pending = self._pending(more) if more else []
        self._report(sent, accounts)
        return sent

    def _round(self, pending: list[Refill], sent: Sent) -> list[Refill]:
        """Send refills once, in order; return those that Redis now has."""
        done: list[Refill] = []
        failed: set[str] = set()
        replies = call_many(self._redis, [self._call(refill) for refill in pending])
        for refill, reply in zip(pending, replies, strict=True):
            if refill.account in failed:
                continue
            status = _status(reply)
            if status in ("gap", "again"):
                status = self._catch_up(refill, status)
            self._metrics.refills.labels(status).inc()
            if status in _DONE:
                done.append(refill)
                continue
            failed.add(refill.account)
            self._fail(refill, status, reply, sent)
        return done

    def _catch_up(self, refill: Refill, status: str) -> str:
        """Send a refill again after those that Redis lacks before it; return its status."""
        if status == "gap":
            earlier = self._earlier(refill)
            for reply in call_many(self._redis, [self._call(one) for one in earlier]):
                if _status(reply) not in _DONE:
                    return _status(reply)
        for _ in range(_EXPIRE_ROUNDS):
            call = self._call(refill)
            expire: Call = (self._scripts.expire, refill.account, refill.shard, refill.epoch, ())
            status = _status(call_many(self._redis, [expire, call])[1])
            if status != "again":
                break
        return status

    def _fail(self, refill: Refill, status: str, reply: Any, sent: Sent) -> None:
        is_gone = status in ("unknown", "stale", "fenced")
        (sent.lost if is_gone else sent.stuck).add(refill.account)
        if refill.account in self._reported:
            return
        fields = {
            "account": refill.account,
            "generation": refill.gen,
            "refill_no": refill.refill_no,
            "kind": refill.kind.value,
            "status": status,
            "reply": str(reply)[:200],
        }
        _log.critical("refill refused by Redis; the account waits", extra=fields)

    def _report(self, sent: Sent, accounts: Sequence[str]) -> None:
        """Remember who is in trouble, so that it is logged once and not in each round."""
        self._reported -= set(accounts)
        self._reported |= sent.lost | sent.stuck

    def _call(self, refill: Refill) -> Call:
        script: Script = getattr(self._scripts, refill.kind.value)
        args = (refill.gen, refill.refill_no, *arguments(refill.kind, refill.payload))
        return (script, refill.account, refill.shard, refill.epoch, args)

    def _waiting(self, skip: Iterable[str]) -> list[str]:
        with self._engine.connect() as connection:
            values = {"skip": sorted(skip), "limit": BATCH_ACCOUNTS}
            return list(connection.scalars(_WAITING, values))

    def _pending(self, accounts: Sequence[str]) -> list[Refill]:
        values = {"accounts": list(accounts), "limit": _ACCOUNT_REFILLS}
        with self._engine.connect() as connection:
            return [_refill(row) for row in connection.execute(_PENDING, values)]

    def _earlier(self, refill: Refill) -> list[Refill]:
        values = {
            "account": refill.account,
            "gen": refill.gen,
            "after": self._redis_refill_no(refill),
            "before": refill.refill_no,
        }
        with self._engine.connect() as connection:
            return [_refill(row) for row in connection.execute(_EARLIER, values)]

    def _redis_refill_no(self, refill: Refill) -> int:
        name = keys.account_keys(refill.account, refill.shard, refill.epoch)[0]
        value: Any = self._redis.hget(name, "refill_no")
        return int(value or 0)

    def _mark(self, refills: Sequence[Refill]) -> int:
        """Write down that Redis has these refills."""
        if not refills:
            return 0
        values = {
            "accounts": [refill.account for refill in refills],
            "gens": [refill.gen for refill in refills],
            "numbers": [refill.refill_no for refill in refills],
            "now": now_ms(),
        }

        def mark(connection: Connection) -> int:
            # Generations are locked in the flusher's order; refills hang on them.
            connection.execute(_LOCK_GENERATIONS, values)
            marked = connection.execute(_MARK, values).rowcount
            connection.execute(_MARK_GENERATIONS, values)
            return marked

        return in_transaction(self._engine, mark)

    def _set_lag(self) -> None:
        with self._engine.connect() as connection:
            oldest = connection.scalar(_OLDEST)
        lag_ms = 0 if oldest is None else max(now_ms() - int(oldest), 0)
        self._metrics.refill_lag_seconds.set(lag_ms / 1000)


def arguments(kind: RefillKind, payload: dict[str, Any]) -> tuple[str | int | bytes, ...]:
    """Return what a refill's script takes after epoch, generation and number."""
    if kind is RefillKind.GRANT:
        return payload["grant_no"], payload["amount"], payload["order"], payload["id"]
    if kind is RefillKind.TAKE:
        return payload["amount"], payload["grant_no"]
    if kind is RefillKind.RESTORE:
        return (msgspec.msgpack.encode(payload["allocations"]),)
    return payload["status"], payload["overdraft"], payload["reason"]


def _status(reply: Any) -> str:
    if isinstance(reply, Exception):
        return "error"
    status: bytes = reply[0]
    return status.decode()


def _refill(row: sa.Row[Any]) -> Refill:
    return Refill(
        row.account,
        row.gen,
        int(row.refill_no),
        RefillKind(row.kind),
        row.payload,
        row.shard,
        row.epoch,
        int(row.applied_refill_no),
    )


# Only what may go to Redis now: present, open generations of open shards, of the shard's epoch.
_SENDABLE: Final = """
    FROM refills r
    JOIN accounts a ON a.account = r.account AND a.generation = r.gen
    JOIN generations g ON g.account = r.account AND g.gen = r.gen AND g.state = 'open'
    JOIN shards s ON s.shard = g.shard AND s.state = 'open' AND s.epoch > 0 AND s.epoch = g.epoch
"""

_COLUMNS: Final = """
    r.account, r.gen, r.refill_no, r.kind, r.payload, g.shard, g.epoch, g.applied_refill_no
"""

_WAITING: Final = sa.text(
    f"""
    SELECT r.account {_SENDABLE}
    WHERE r.applied_ms IS NULL AND r.account <> ALL(:skip)
    GROUP BY r.account ORDER BY min(r.created_ms) LIMIT :limit
    """
).bindparams(sa.bindparam("skip", type_=ARRAY(sa.Text)))

_PENDING: Final = sa.text(
    f"""
    SELECT {_COLUMNS} {_SENDABLE}
    WHERE r.applied_ms IS NULL AND r.account = ANY(:accounts)
        AND r.refill_no <= g.applied_refill_no + :limit
    ORDER BY r.account, r.refill_no
    """
).bindparams(sa.bindparam("accounts", type_=ARRAY(sa.Text)))

_EARLIER: Final = sa.text(
    f"""
    SELECT {_COLUMNS} {_SENDABLE}
    WHERE r.account = :account AND r.gen = :gen AND r.refill_no > :after
        AND r.refill_no < :before
    ORDER BY r.refill_no
    """
)

_OLDEST: Final = sa.text(f"SELECT min(r.created_ms) {_SENDABLE} WHERE r.applied_ms IS NULL")

_ARRAYS: Final = (
    sa.bindparam("accounts", type_=ARRAY(sa.Text)),
    sa.bindparam("gens", type_=ARRAY(sa.Integer)),
)
_VALUES: Final = "unnest(:accounts, :gens, :numbers) AS v (account, gen, refill_no)"
_NUMBERS: Final = sa.bindparam("numbers", type_=ARRAY(sa.BigInteger))

_LOCK_GENERATIONS: Final = sa.text(
    """
    SELECT FROM generations g
    WHERE (g.account, g.gen) IN (SELECT * FROM unnest(:accounts, :gens))
    ORDER BY g.account, g.gen FOR NO KEY UPDATE
    """
).bindparams(*_ARRAYS)

_MARK: Final = sa.text(
    f"""
    UPDATE refills r SET applied_ms = :now FROM {_VALUES}
    WHERE r.account = v.account AND r.gen = v.gen AND r.refill_no = v.refill_no
        AND r.applied_ms IS NULL
    """
).bindparams(*_ARRAYS, _NUMBERS)

_MARK_GENERATIONS: Final = sa.text(
    f"""
    UPDATE generations g SET applied_refill_no = greatest(g.applied_refill_no, v.refill_no)
    FROM (SELECT account, gen, max(refill_no) AS refill_no FROM {_VALUES}
        GROUP BY account, gen) AS v
    WHERE g.account = v.account AND g.gen = v.gen
    """
).bindparams(*_ARRAYS, _NUMBERS)
