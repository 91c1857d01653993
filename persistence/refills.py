"""Refills: what the ledger decided, carried out in Redis, each once and in order.

Any number of workers may send the same refill: it is numbered, and the script applies it once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Engine

from persistence.database import in_transaction, now_ms
from persistence.pipelines import Call, call_reachable, is_away
from persistence.recovery import Cause, suspect, suspect_refill_ahead
from persistence.refill_rows import Refill, RefillRows, arguments
from sidecar import keys
from sidecar.metrics import WorkerMetrics
from sidecar.nodes import RedisNodes

_log: Final = logging.getLogger(__name__)

_EXPIRE_ROUNDS: Final = 64

_DONE: Final = frozenset({"applied", "replayed"})
_LOST: Final = {
    "unknown": Cause.ACCOUNT_MISSING,
    "stale": Cause.ACCOUNT_MISSING,
    "fenced": Cause.ACCOUNT_MISSING,
    "behind": Cause.REFILL_BEHIND,
}
"""Statuses of an account that Redis does not have as the ledger lent to it."""


@dataclass(slots=True)
class Sent:
    """What became of the refills of some accounts.

    `lost`: accounts that Redis had and has no more, or has of another life; `stuck`: those whose
    refill it refused.
    """

    applied: int = 0
    lost: set[str] = field(default_factory=set)
    stuck: set[str] = field(default_factory=set)


class RefillSender:
    """Sends pending refills. One instance belongs to one thread."""

    def __init__(self, engine: Engine, nodes: RedisNodes, metrics: WorkerMetrics) -> None:
        self._engine = engine
        self._rows = RefillRows(engine)
        self._nodes = nodes
        self._metrics = metrics
        self._reported: set[str] = set()

    def run_once(self) -> int:
        """Apply the pending refills of some accounts, oldest first; return how many were applied.

        Raises `RedisChanged` and the errors of SQLAlchemy and redis-py; what was applied stays so,
        and is marked when it is sent again.
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
        replies = call_reachable(self._nodes, [self._call(refill) for refill in pending])
        for refill, reply in zip(pending, replies, strict=True):
            if refill.account in failed:
                continue
            status = _status(reply)
            if status in ("gap", "again"):
                status = self._catch_up(refill, status)
            self._metrics.refills.labels(status).inc()
            if status in _DONE:
                done.append(refill)
                self._check_ahead(refill, reply)
                continue
            failed.add(refill.account)
            self._fail(refill, status, reply, sent)
        return done

    def _catch_up(self, refill: Refill, status: str) -> str:
        """Send a refill again after those that Redis lacks before it; return its status."""
        if status == "gap":
            number = self._redis_refill_no(refill)
            if number < refill.applied_refill_no:
                return "behind"
            earlier = self._rows.between(number, refill)
            for reply in call_reachable(self._nodes, [self._call(one) for one in earlier]):
                if _status(reply) not in _DONE:
                    return _status(reply)
        for _ in range(_EXPIRE_ROUNDS):
            call = self._call(refill)
            expire = Call("expire", refill.account, refill.shard, refill.epoch, refill.run_id)
            status = _status(call_reachable(self._nodes, [expire, call])[1])
            if status != "again":
                break
        return status

    def _check_ahead(self, refill: Refill, reply: Any) -> None:
        """Give the shard up when Redis has a later refill than the ledger ever wrote."""
        if _status(reply) != "replayed" or reply[1] <= refill.refill_no:
            return
        account, gen, number = refill.account, refill.gen, int(reply[1])
        # Others may have written and sent more since: what the ledger says now counts.
        if in_transaction(self._engine, lambda c: suspect_refill_ahead(c, account, gen, number)):
            fields = {"account": account, "generation": gen, "refill_no": number}
            _log.critical("Redis has refills that the ledger does not have", extra=fields)

    def _fail(self, refill: Refill, status: str, reply: Any, sent: Sent) -> None:
        if is_away(reply):
            sent.stuck.add(refill.account)
            return  # its node is away: no fault of the refill
        cause = _LOST.get(status)
        (sent.lost if cause else sent.stuck).add(refill.account)
        if cause:
            place = (refill.shard, refill.epoch, cause)
            in_transaction(self._engine, lambda c: suspect(c, *place))
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
        args = (refill.gen, refill.refill_no, *arguments(refill.kind, refill.payload))
        place = (refill.account, refill.shard, refill.epoch, refill.run_id)
        return Call(refill.kind.value, *place, args)

    def _redis_refill_no(self, refill: Refill) -> int:
        name = keys.account_keys(refill.account, refill.shard, refill.epoch)[0]
        value: Any = self._nodes.of(refill.shard).hget(name, "refill_no")
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
