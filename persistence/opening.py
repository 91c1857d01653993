"""The opener: keeps every shard's fence true, and gives a shard up when its Redis is not trusted.

It looks at Redis and Postgres several times a second without locking anything. When something does
not fit it takes the opening lock, alone, and brings ledger and fences together again: Postgres
first, then the fences, then the word that they are written. `recovery.py` tells the whole story.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
import redis
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from persistence import fences
from persistence import opening_sql as sql
from persistence.database import timeline
from persistence.diagnosis import Plan, Step, diagnose, is_draining, plan_round
from persistence.doubt import enter_again
from persistence.errors import RedisChanged, RedisMismatch, ShardBusy
from persistence.fences import Fence, LedgerName, RedisProcess, View
from persistence.flush import Flusher
from persistence.generations import OPENING_LOCK
from persistence.patience import Patience
from persistence.recovery import (
    Cause,
    finish_drains,
    give_up,
    report_drained,
    suspect_all,
    waiting_for,
)
from sidecar.durable import require_durable
from sidecar.metrics import WorkerMetrics
from sidecar.nodes import FAULTS, RedisNodes

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
        nodes: RedisNodes,
        flusher: Flusher,
        metrics: WorkerMetrics,
        *,
        is_unsafe_allowed: bool = False,
    ) -> None:
        self._engine = engine
        self._nodes = nodes
        self._flusher = flusher
        self._metrics = metrics
        self._is_unsafe_allowed = is_unsafe_allowed
        self._durable: set[RedisProcess] = set()
        self._waiting: dict[str, int] = {}
        self._rounds_waited = 0
        self._patience = Patience()

    def run_once(self) -> int:
        """Look at every shard, and put right what does not fit; return how many were put right.

        Raises `SettingsError` when Redis may forget, `RedisMismatch` when it belongs to another
        ledger, `RedisChanged` when it is a replica, and the errors of SQLAlchemy and redis-py.
        """
        with self._engine.connect() as connection:
            rows = connection.execute(sql.ROWS).all()
            ledger = _ledger(connection)
            waited_for = waiting_for(connection) if any(is_draining(row) for row in rows) else {}
        view = self._look(rows, ledger)
        self._gauge(rows, view, waited_for)
        steps = {row.shard: diagnose(row, view)[0] for row in rows if row.shard in view.fences}
        if view.names(ledger) and not any(step is not Step.NOTHING for step in steps.values()):
            return 0
        opened = self.open_shards()
        return len(view.fences) - len(opened.kept)

    def open_shards(self) -> Opened:
        """Bring ledger and fences together; raises what `run_once` does."""
        self._doubt_a_promoted_ledger()
        told, flushed = self._flush_suspects()
        with self._opening_alone() as connection:
            with connection.begin():
                rows = connection.execute(sql.ROWS_LOCKED).all()
                ledger = _ledger(connection)
                view = self._look(rows, ledger)
                if told != ledger.timeline:
                    flushed = {}  # it went back in time since
                plan = plan_round(self._patience.ready(rows), view, flushed)
                self._write_plan(connection, plan, view)
            # Only now does Postgres have it: a fence must never outlive a rollback.
            written = self._write_fences(plan, view, ledger)
            with connection.begin():
                confirmed = [*written, *plan.having(Step.CONFIRM)]
                epochs = [plan.epochs[shard] for shard in confirmed]
                connection.execute(sql.CONFIRM, {"shards": confirmed, "epochs": epochs})
                drained = finish_drains(connection, list(plan.steps))
            flags = {shard: plan.states[shard] == "draining" for shard in plan.having(Step.FLAG)}
            flags |= {one.shard: False for one in drained}
            fences.write_flags(self._nodes, flags)
        self._report(plan)
        report_drained(drained, self._metrics)
        return Opened(
            opened=plan.having(Step.OPEN),
            kept=plan.having(Step.NOTHING, Step.ADOPT, Step.CONFIRM, Step.FLAG),
            given_up=plan.causes,
        )

    # What the ledger gets ---------------------------------------------------------------------

    def _write_plan(self, connection: Connection, plan: Plan, view: View) -> None:
        firsts = plan.having(Step.OPEN)
        connection.execute(sql.OPEN, _values(firsts, plan, view))
        # Nothing of these generations was ever in Redis: they begin in the first epoch.
        connection.execute(sql.ADOPT_GENERATIONS, {"shards": firsts})
        claimed = {shard: plan.epochs[shard] for shard in plan.having(Step.ADOPT)}
        adopted = sorted(fences.claim_streams(self._nodes, claimed))
        connection.execute(sql.ADOPT_PROCESS, _values(adopted, plan, view))
        behind = plan.having(Step.CATCH_UP)
        cause = {"cause": Cause.LEDGER_BEHIND.value}
        connection.execute(sql.CATCH_UP, _values(behind, plan, view) | cause)
        lost = {shard: plan.epochs[shard] for shard in plan.causes}
        if lost:
            give_up(connection, lost, plan.causes, view.processes)

    def _doubt_a_promoted_ledger(self) -> None:
        """Make every shard suspect when Postgres was promoted or restored since the last look.

        Commits may be lost that Redis knows of, and then numbers of refills, generations and
        epochs would be given a second time, for something else.
        """
        with self._engine.connect() as connection:
            ledger = _ledger(connection)
        if not self._look([], ledger).doubts(ledger):
            return
        with self._opening_alone() as connection:
            with connection.begin():
                ledger = _ledger(connection)
                if self._look([], ledger).doubts(ledger):
                    # Those too are waited for whom the ledger forgot: they may have a journal.
                    forgotten = enter_again(connection, self._nodes)
                    count = suspect_all(connection, Cause.LEDGER_PROMOTED)
                    fields = {"shards": count, "forgotten sidecars": forgotten}
                    _log.critical("Postgres was promoted or restored", extra=fields)
            # Not before it is committed: Redis must not agree with a ledger that is not in doubt.
            fences.write_name(self._nodes, ledger)

    def _flush_suspects(self) -> tuple[str, dict[int, int]]:
        """Flush what Redis still has of suspect shards, before they are given up.

        Returns Postgres's timeline, and which shards, each with the epoch that was flushed.

        When the ledger went back in time, events that it lost are nowhere but in the stream: the
        sidecars were told that it had them.
        """
        with self._engine.connect() as connection:
            told = timeline(connection)
            suspects = {row.shard: int(row.epoch) for row in connection.execute(sql.SUSPECTS)}
        flushed = {}
        for shard, epoch in suspects.items():
            try:
                rounds = (self._flusher.flush_shard(shard) for _ in range(_FLUSH_ROUNDS))
                any(not result.is_more for result in rounds)
            except ShardBusy:
                continue
            except FAULTS as error:
                _log.warning("its node of Redis is away", extra=_about(shard, error))
                continue  # it waits, and no other with it
            except RedisChanged as error:
                _log.warning("not flushed before it is given up", extra=_about(shard, error))
            except (sa.exc.SQLAlchemyError, psycopg.Error) as error:
                _log.warning("not flushed yet", extra=_about(shard, error))
                continue  # the next round; what it has may be nowhere else
            flushed[shard] = epoch
        return told, flushed

    # What Redis gets and says -----------------------------------------------------------------

    def _look(self, rows: Sequence[sa.Row[Any]], ledger: LedgerName) -> View:
        view = fences.look(self._nodes, [row.shard for row in rows])
        if view.ledger is not None and view.ledger != ledger.id:
            raise RedisMismatch(
                f"Redis holds the accounts of ledger {view.ledger}, but Postgres is ledger"
                f" {ledger.id}: CREDITS_REDIS_URL and CREDITS_POSTGRES_URL do not belong"
                " together."
            )
        if not self._is_unsafe_allowed and not self._durable.issuperset(view.processes.values()):
            for client, _ in self._nodes.groups(view.fences, int):
                require_durable(_info(client))
            self._durable = set(view.processes.values())
        return view

    def _write_fences(self, plan: Plan, view: View, ledger: LedgerName) -> set[int]:
        """Write what begins; return which shards have their fence."""
        begun = {
            shard: Fence(plan.epochs[shard], view.processes[shard], shard in plan.causes)
            for shard in plan.having(Step.OPEN, Step.GIVE_UP)
        }
        # A promotion that came just now is not passed over: the next round sees to it.
        seen = view.timeline if view.doubts(ledger) else None
        name = dataclasses.replace(ledger, timeline=seen or ledger.timeline)
        try:
            # What is old goes first: Redis may be too full even for a name.
            written = fences.write(self._nodes, begun)
        except FAULTS:
            self._patience.failed(begun)
            raise
        self._patience.failed(begun.keys() - written)
        self._patience.worked(written)
        fences.write_name(self._nodes, name)
        return written

    @contextlib.contextmanager
    def _opening_alone(self) -> Iterator[Connection]:
        """Hold the opening lock over several transactions: workers must not mix their fences.

        It has a transaction of its own, which Postgres ends when this worker hangs. What it writes
        when it goes on fits no newer epoch, and the next one sees to that.
        """
        with self._engine.begin() as guard, self._engine.connect() as connection:
            guard.execute(sa.text("SELECT pg_advisory_xact_lock(:k)"), {"k": OPENING_LOCK})
            yield connection

    # What people get --------------------------------------------------------------------------

    def _gauge(self, rows: Sequence[sa.Row[Any]], view: View, waited_for: dict[str, int]) -> None:
        seen = [row for row in rows if row.shard in view.fences]
        fenced = [row for row in seen if diagnose(row, view)[0] in _FENCED]
        self._metrics.fenced_shards.set(len(rows) - len(seen) + len(fenced))
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


def _ledger(connection: Connection) -> LedgerName:
    row = connection.execute(sql.LEDGER).one()
    return LedgerName(str(row.ledger_id), int(row.shards), timeline(connection))


def _values(shards: Sequence[int], plan: Plan, view: View) -> dict[str, Any]:
    processes = [view.processes[shard] for shard in shards]
    return {
        "shards": list(shards),
        "epochs": [plan.epochs[shard] for shard in shards],
        "run_ids": [process.run_id for process in processes],
        "replids": [process.replid for process in processes],
    }


def _info(client: redis.Redis) -> dict[str, Any]:
    info: Any = client.info()
    return dict(info)


def _about(shard: int, error: Exception) -> dict[str, object]:
    return {"shard": shard, "error": str(error).partition("\n")[0][:300]}


_FENCED: Final = (Step.OPEN, Step.CATCH_UP, Step.GIVE_UP)
