"""The opener: keeps every shard's fence true, and gives a shard up when its Redis is not trusted.

It looks at Redis and Postgres several times a second without locking anything. When something does
not fit it takes the opening lock, alone, and brings ledger and fences together again: Postgres
first, then the fences, then the word that they are written. `recovery.py` tells the whole story.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
import redis
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import ARRAY

from persistence import fences
from persistence.diagnosis import Plan, Step, diagnose, is_draining, plan_round
from persistence.errors import RedisChanged, RedisMismatch, ShardBusy
from persistence.fences import Fence, RedisProcess, View
from persistence.flush import Flusher
from persistence.generations import OPENING_LOCK
from persistence.recovery import Cause, finish_drains, give_up, report_drained, waiting_for
from sidecar.durable import require_durable
from sidecar.metrics import WorkerMetrics

_log: Final = logging.getLogger(__name__)

_FLUSH_ROUNDS: Final = 1_000
_PATIENCE_ROUNDS: Final = 8  # rounds that a drain may take before those waited for are named


@dataclass(slots=True)
class Opened:
    """The shards by what a round did: `opened` first, `given_up` and why, `kept` as they were."""

    opened: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    given_up: dict[int, Cause] = field(default_factory=dict)


class ShardOpener:
    """Opens shards, keeps their fences and gives them up. Several workers may run one."""

    def __init__(
        self,
        engine: Engine,
        client: redis.Redis,
        flusher: Flusher,
        metrics: WorkerMetrics,
        *,
        is_unsafe_allowed: bool = False,
    ) -> None:
        self._engine = engine
        self._redis = client
        self._flusher = flusher
        self._metrics = metrics
        self._is_unsafe_allowed = is_unsafe_allowed
        self._durable: RedisProcess | None = None
        self._waiting: dict[str, int] = {}
        self._rounds_waited = 0

    def run_once(self) -> int:
        """Look at every shard, and put right what does not fit; return how many were put right.

        Raises `SettingsError` when Redis may forget, `RedisMismatch` when it belongs to another
        ledger, `RedisChanged` when it is a replica, and the errors of SQLAlchemy and redis-py.
        """
        with self._engine.connect() as connection:
            rows = connection.execute(_ROWS).all()
            ledger = connection.execute(_LEDGER).one()
            waited_for = waiting_for(connection) if any(is_draining(row) for row in rows) else {}
        view = self._look(rows, ledger)
        self._gauge(rows, view, waited_for)
        steps = {row.shard: diagnose(row, view)[0] for row in rows}
        is_told = (view.ledger, view.shards) == (str(ledger.ledger_id), ledger.shards)
        if is_told and not any(step is not Step.NOTHING for step in steps.values()):
            return 0
        opened = self.open_shards()
        return len(rows) - len(opened.kept)

    def open_shards(self) -> Opened:
        """Bring ledger and fences together; raises what `run_once` does."""
        flushed = self._flush_suspects()
        with self._opening_alone() as connection:
            with connection.begin():
                rows = connection.execute(_ROWS_LOCKED).all()
                ledger = connection.execute(_LEDGER).one()
                view = self._look(rows, ledger)
                plan = plan_round(rows, view, flushed)
                self._write_plan(connection, plan, view.process)
            # Only now does Postgres have it: a fence must never outlive a rollback.
            self._write_fences(plan, view.process, ledger)
            with connection.begin():
                confirmed = plan.having(Step.OPEN, Step.GIVE_UP, Step.CONFIRM)
                connection.execute(_CONFIRM, {"shards": confirmed})
                drained = finish_drains(connection, list(plan.steps))
            flags = {shard: plan.states[shard] == "draining" for shard in plan.having(Step.FLAG)}
            flags |= {one.shard: False for one in drained}
            fences.write_flags(self._redis, flags, plan.epochs)
        self._report(plan)
        report_drained(drained, self._metrics)
        return Opened(
            opened=plan.having(Step.OPEN),
            kept=plan.having(Step.NOTHING, Step.ADOPT, Step.CONFIRM, Step.FLAG),
            given_up=plan.causes,
        )

    # What the ledger gets ---------------------------------------------------------------------

    def _write_plan(self, connection: Connection, plan: Plan, process: RedisProcess) -> None:
        firsts = plan.having(Step.OPEN)
        values = {
            "shards": firsts,
            "epochs": [plan.epochs[shard] for shard in firsts],
            "run_id": process.run_id,
            "replid": process.replid,
        }
        connection.execute(_OPEN, values)
        # Nothing of these generations was ever in Redis: they begin in the first epoch.
        connection.execute(_ADOPT_GENERATIONS, values)
        connection.execute(_ADOPT_PROCESS, values | {"shards": plan.having(Step.ADOPT)})
        lost = {shard: plan.epochs[shard] for shard in plan.causes}
        if lost:
            give_up(connection, lost, plan.causes, process)

    def _flush_suspects(self) -> set[int]:
        """Flush what Redis still has of suspect shards, before they are given up; return which.

        When the ledger went back in time, events that it lost are nowhere but in the stream: the
        sidecars were told that it had them.
        """
        with self._engine.connect() as connection:
            shards = list(connection.scalars(_SUSPECTS))
        flushed = set()
        for shard in shards:
            try:
                rounds = (self._flusher.flush_shard(shard) for _ in range(_FLUSH_ROUNDS))
                any(not result.is_more for result in rounds)
            except ShardBusy:
                continue
            except (RedisChanged, sa.exc.SQLAlchemyError, psycopg.Error) as error:
                _log.warning("not flushed before it is given up", extra=_about(shard, error))
            flushed.add(shard)
        return flushed

    # What Redis gets and says -----------------------------------------------------------------

    def _look(self, rows: Sequence[sa.Row[Any]], ledger: sa.Row[Any]) -> View:
        view = fences.look(self._redis, [row.shard for row in rows])
        if view.ledger is not None and view.ledger != str(ledger.ledger_id):
            raise RedisMismatch(
                f"Redis holds the accounts of ledger {view.ledger}, but Postgres is ledger"
                f" {ledger.ledger_id}: CREDITS_REDIS_URL and CREDITS_POSTGRES_URL do not belong"
                " together."
            )
        if not self._is_unsafe_allowed and self._durable != view.process:
            require_durable(dict(self._redis.info()))
            self._durable = view.process
        return view

    def _write_fences(self, plan: Plan, process: RedisProcess, ledger: sa.Row[Any]) -> None:
        begun = {
            shard: Fence(plan.epochs[shard], process, is_draining=shard in plan.causes)
            for shard in plan.having(Step.OPEN, Step.GIVE_UP)
        }
        fences.write(self._redis, begun, str(ledger.ledger_id), int(ledger.shards))

    @contextlib.contextmanager
    def _opening_alone(self) -> Iterator[Connection]:
        """Hold the opening lock over several transactions: workers must not mix their fences."""
        with self._engine.connect() as connection:
            connection.execute(sa.text("SELECT pg_advisory_lock(:k)"), {"k": OPENING_LOCK})
            connection.commit()
            try:
                yield connection
            finally:
                connection.rollback()
                connection.execute(sa.text("SELECT pg_advisory_unlock(:k)"), {"k": OPENING_LOCK})
                connection.commit()

    # What people get --------------------------------------------------------------------------

    def _gauge(self, rows: Sequence[sa.Row[Any]], view: View, waited_for: dict[str, int]) -> None:
        fenced = [row for row in rows if diagnose(row, view)[0] in (Step.OPEN, Step.GIVE_UP)]
        self._metrics.fenced_shards.set(len(fenced))
        self._metrics.draining_shards.set(sum(map(is_draining, rows)))
        self._metrics.waiting_for_sidecars.set(len(waited_for))
        self._rounds_waited = self._rounds_waited + 1 if waited_for else 0
        if self._rounds_waited >= _PATIENCE_ROUNDS and waited_for.keys() != self._waiting.keys():
            names = ", ".join(f"{name}: {shards} shards" for name, shards in waited_for.items())
            _log.warning("waiting for the journals of sidecars", extra={"sidecars": names})
            self._waiting = waited_for
        if not waited_for:
            self._waiting = {}

    def _report(self, plan: Plan) -> None:
        opened = plan.having(Step.OPEN)
        if opened:
            _log.info("shards opened", extra={"shards": len(opened)})
        counts = Counter(cause.value for cause in plan.causes.values())
        for cause, count in counts.items():
            self._metrics.recoveries.labels(cause).inc(count)
        if counts:
            fields = {"shards": len(plan.causes), "of": len(plan.steps), "causes": dict(counts)}
            _log.error("shards given up: what Redis has of them is not trusted", extra=fields)


def _about(shard: int, error: Exception) -> dict[str, object]:
    return {"shard": shard, "error": str(error).partition("\n")[0][:300]}


_LEDGER: Final = sa.text("SELECT ledger_id, shards FROM ledger")

_ROWS: Final = sa.text(
    "SELECT shard, epoch, state, cause, run_id, replid, is_fenced FROM shards ORDER BY shard"
)

# One that is being flushed comes the next time: it must not hold up the others.
_ROWS_LOCKED: Final = sa.text(f"{_ROWS.text} FOR NO KEY UPDATE SKIP LOCKED")

_SUSPECTS: Final = sa.text("SELECT shard FROM shards WHERE state = 'suspect' ORDER BY shard")

_SHARD_LIST: Final = sa.bindparam("shards", type_=ARRAY(sa.Integer))
_EPOCH_LIST: Final = sa.bindparam("epochs", type_=ARRAY(sa.Integer))

_OPEN: Final = sa.text(
    """
    UPDATE shards s SET epoch = v.epoch, state = 'open', cursor = '0-0', flushed_events = 0,
        run_id = :run_id, replid = :replid, is_fenced = false, cause = NULL
    FROM unnest(:shards, :epochs) AS v (shard, epoch) WHERE s.shard = v.shard
    """
).bindparams(_SHARD_LIST, _EPOCH_LIST)

_ADOPT_GENERATIONS: Final = sa.text(
    """
    UPDATE generations g SET epoch = s.epoch FROM shards s
    WHERE s.shard = ANY(:shards) AND g.shard = s.shard AND g.state = 'open' AND g.epoch <> s.epoch
    """
).bindparams(_SHARD_LIST)

_ADOPT_PROCESS: Final = sa.text(
    "UPDATE shards SET run_id = :run_id, replid = :replid, is_fenced = true"
    " WHERE shard = ANY(:shards)"
).bindparams(_SHARD_LIST)

_CONFIRM: Final = sa.text(
    "UPDATE shards SET is_fenced = true WHERE shard = ANY(:shards) AND NOT is_fenced"
).bindparams(_SHARD_LIST)
