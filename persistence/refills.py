"""Refills: what the ledger decided, carried out in Redis, each once and in order.

Any number of workers may send the same refill: it is numbered, and the script applies it once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis
from sqlalchemy import Engine

from persistence.database import now_ms
from persistence.pipelines import Call, call_many
from persistence.refill_rows import Refill, RefillRows, arguments
from sidecar import keys
from sidecar.metrics import WorkerMetrics
from sidecar.scripts import Script, Scripts

_log: Final = logging.getLogger(__name__)

_EXPIRE_ROUNDS: Final = 64

_DONE: Final = frozenset({"applied", "replayed"})


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
        self._rows = RefillRows(engine)
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
            accounts = self._rows.waiting(skip)
            if not accounts:
                self._set_lag()
                return applied
            sent = self.send(accounts)
            applied += sent.applied
            skip |= set(accounts)

    def send(self, accounts: Sequence[str]) -> Sent:
        """Apply what is pending of these accounts' present generations."""
        sent = Sent()
        pending = self._rows.pending(accounts)
        while pending:
            done = self._round(pending, sent)
            marked = self._rows.mark(done)
            sent.applied += marked
            # Nothing to mark: another worker sends the same and goes on with what follows.
            more = sorted({refill.account for refill in done} - sent.lost - sent.stuck)
            pending = self._rows.pending(more) if more and marked else []
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
            earlier = self._rows.between(self._redis_refill_no(refill), refill)
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

    def _redis_refill_no(self, refill: Refill) -> int:
        name = keys.account_keys(refill.account, refill.shard, refill.epoch)[0]
        value: Any = self._redis.hget(name, "refill_no")
        return int(value or 0)

    def _set_lag(self) -> None:
        oldest = self._rows.oldest_ms()
        lag_ms = 0 if oldest is None else max(now_ms() - oldest, 0)
        self._metrics.refill_lag_seconds.set(lag_ms / 1000)


def _status(reply: Any) -> str:
    if isinstance(reply, Exception):
        return "error"
    status: bytes = reply[0]
    return status.decode()
