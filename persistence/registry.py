"""Sidecars: which of them may hold acknowledged usage in a journal.

A sidecar acknowledges nothing before Postgres knows it, so that every loss of Redis can wait for
its journal. It is `gone` when it says goodbye, or when it gave no sign of life for so long that it
acknowledges nothing more, and everything that it ever did is in the ledger. One that vanished
together with Redis is waited for, until it is back with its disk or is declared `dead`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import redis
import sqlalchemy as sa
from sqlalchemy import Engine

from persistence import sidecars_sql as sql
from persistence.database import in_transaction, now_ms
from persistence.doubt import is_ledger_doubted
from persistence.errors import RedisChanged, SidecarUnknown
from persistence.fences import RedisProcess, ask_process, process_of
from persistence.recovery import Drained, report_drained
from persistence.sidecars import (
    SidecarRow,
    Target,
    end,
    enter,
    forget_signs,
    heartbeat,
    is_flushed,
    leave,
)
from persistence.streams import entries_added
from sidecar import keys
from sidecar.metrics import WorkerMetrics
from sidecar.nodes import RedisNodes

_log: Final = logging.getLogger(__name__)

_SEEN_EVERY_MS: Final = 5_000

LEAVING: Final = "leaving"


@dataclass(slots=True)
class _Silence:
    """Since when (monotonic seconds) a sidecar's sign of life has not changed."""

    sign: bytes | None
    since: float
    target: Target | None = None


class Registry:
    """Registers sidecars and notices their end. Several workers may run one."""

    def __init__(
        self,
        engine: Engine,
        nodes: RedisNodes,
        metrics: WorkerMetrics,
        *,
        lost_seconds: float,
        dead_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._nodes = nodes
        self._metrics = metrics
        self._lost_seconds = lost_seconds
        self._dead_seconds = dead_seconds
        self._clock = clock
        self._silences: dict[UUID, _Silence] = {}

    def run_once(self) -> int:
        """Bring the ledger to what Redis shows of sidecars; return how many changed.

        Raises `RedisChanged` and the errors of SQLAlchemy and redis-py.
        """
        if is_ledger_doubted(self._engine, self._nodes):
            return 0  # it may have forgotten whom Redis knows
        # In this order: who is confirmed in Redis was in the ledger before.
        signs, confirmed, process = self._signs()
        rows = {row.id: SidecarRow(*row) for row in self._read(sql.SIDECARS)}
        alive = {id: row for id, row in rows.items() if row.state == "alive"}
        changed = self._register(signs, confirmed, alive, process)
        self._retract(confirmed, alive)
        for row in alive.values():
            beat = heartbeat(signs.get(row.id))
            if beat is not None and beat.boot == row.boot and beat.state == LEAVING:
                changed += self._goodbye(row)
            elif row.id in signs and beat is not None and beat.boot != row.boot:
                self._silences.pop(row.id, None)
            else:
                changed += self._watch(row, signs.get(row.id))
        self._gauge(rows.values())
        return changed

    # Coming -----------------------------------------------------------------------------------

    def _register(
        self,
        signs: Mapping[UUID, bytes],
        confirmed: Mapping[UUID, str],
        alive: Mapping[UUID, SidecarRow],
        process: RedisProcess,
    ) -> int:
        count = 0
        for id, sign in signs.items():
            beat = heartbeat(sign)
            if beat is None or beat.state == LEAVING:
                continue
            confirmation = keys.confirmation(beat.boot, process.run_id, process.replid)
            if confirmed.get(id) == confirmation:
                continue
            # Also when the ledger has it: someone may just be about to let it go.
            in_transaction(self._engine, lambda c, i=id, b=beat: enter(c, i, b))  # type: ignore[misc]
            # Only now does Postgres know it.
            self._confirm(id, confirmation)
            if id not in alive or alive[id].boot != beat.boot:
                _log.info("sidecar registered", extra={"sidecar": beat.name, "id": str(id)})
                count += 1
        return count

    def _retract(self, confirmed: Mapping[UUID, str], alive: Mapping[UUID, SidecarRow]) -> None:
        """Take back confirmations of those that the ledger knows no more."""
        for id in confirmed:
            if id not in alive:
                # With its sign, which may be old: who lives gives another one at once.
                forget_signs(self._nodes.home, id)
                _log.warning("sidecar must register anew", extra={"id": str(id)})

    # Going ------------------------------------------------------------------------------------

    def _goodbye(self, row: SidecarRow) -> int:
        """It had nothing left that is not in the ledger, and acknowledges nothing more."""
        done = self._end(row, "gone", "said goodbye")
        forget_signs(self._nodes.home, row.id)
        return done

    def _watch(self, row: SidecarRow, sign: bytes | None) -> int:
        silence = self._silences.get(row.id)
        if silence is None or silence.sign != sign:
            self._silences[row.id] = _Silence(sign, self._clock())
            if sign is not None:
                self._write_seen(row)
            return 0
        seconds = self._clock() - silence.since
        if row.pending and self._dead_seconds and seconds >= self._dead_seconds:
            reason = f"no sign of life for {seconds:.0f} s while its journal was waited for"
            return self._end(row, "dead", reason) if self._is_still_silent(row.id, sign) else 0
        if seconds < self._lost_seconds or row.pending:
            silence.target = None
            return 0
        return self._let_go(row, silence)

    def _let_go(self, row: SidecarRow, silence: _Silence) -> int:
        """Deregister a silent sidecar when all that the streams have had is in the ledger."""
        if silence.target is None:
            silence.target = self._target()
        target = silence.target
        if target is None or not self._is_reached(target):
            return 0
        if not self._is_still_silent(row.id, silence.sign):
            return 0
        if not in_transaction(self._engine, lambda c: leave(c, row, target)):
            silence.target = None
            return 0
        self._forget(row, "gave no sign of life", [])
        return 1

    def _target(self) -> Target | None:
        """Return what the streams have had by now; None while a shard is not whole."""
        rows = self._read(sql.SHARDS)
        if not rows or not all(row.is_whole for row in rows):
            return None
        target: dict[tuple[int, int], int] = {}
        groups = self._nodes.groups(rows, lambda row: int(row.shard))
        for entries in self._nodes.on_each(groups, _entries_of):
            if isinstance(entries, Exception):
                return None  # a node is away, or another: nobody is let go now
            target |= entries
        is_whole = len(target) == len(rows) and min(target.values()) >= 0
        return target if is_whole else None

    def _is_reached(self, target: Target) -> bool:
        with self._engine.connect() as connection:
            return is_flushed(connection, target)

    def _is_still_silent(self, id: UUID, sign: bytes | None) -> bool:
        """Take the confirmation back; tell whether the sidecar is still silent then.

        If it wakes now, it acknowledges nothing until it is registered again.
        """
        return forget_signs(self._nodes.home, id) == sign

    def _end(self, row: SidecarRow, state: str, reason: str) -> int:
        try:
            drained = in_transaction(self._engine, lambda c: end(c, row.id, state, reason))
        except SidecarUnknown:
            return 0  # another worker did it
        self._forget(row, reason, drained)
        return 1

    def _forget(self, row: SidecarRow, reason: str, drained: Sequence[Drained]) -> None:
        self._silences.pop(row.id, None)
        level = logging.WARNING if row.pending else logging.INFO
        fields = {"sidecar": row.name, "id": str(row.id), "reason": reason}
        _log.log(level, "sidecar is waited for no more", extra=fields)
        report_drained(drained, self._metrics)

    # How --------------------------------------------------------------------------------------

    def _signs(self) -> tuple[dict[UUID, bytes], dict[UUID, str], RedisProcess]:
        pipeline = self._nodes.home.pipeline(transaction=True)
        pipeline.hgetall(keys.REGISTERED)
        pipeline.hgetall(keys.SIDECARS)
        ask_process(pipeline)
        confirmed, signs, *said = pipeline.execute()
        texts = {id: text.decode(errors="replace") for id, text in confirmed.items()}
        return _by_id(signs), _by_id(texts), process_of(*said)

    def _write_seen(self, row: SidecarRow) -> None:
        now = now_ms()
        if now - row.seen_ms >= _SEEN_EVERY_MS:
            in_transaction(
                self._engine, lambda c: c.execute(sql.SEEN, {"id": row.id, "now": now}).rowcount
            )

    def _gauge(self, rows: Any) -> None:
        states = [row.state for row in rows]
        for state in ("alive", "dead"):
            self._metrics.sidecars.labels(state).set(states.count(state))

    def _read(self, query: sa.TextClause) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.execute(query).all())

    def _confirm(self, id: UUID, confirmation: str) -> None:
        client: Any = self._nodes.home
        client.hset(keys.REGISTERED, str(id), confirmation)


def _entries_of(client: redis.Redis, rows: Sequence[Any]) -> dict[tuple[int, int], int]:
    """Return what the streams of one node have had. Raises `RedisChanged`."""
    # One connection, so one process: but it may become a replica in between.
    pipeline = client.pipeline(transaction=False)
    ask_process(pipeline)
    for row in rows:
        pipeline.xinfo_stream(keys.stream(row.shard, row.epoch))
    ask_process(pipeline)
    *said, last_server, last_replication = pipeline.execute(raise_on_error=False)
    server, replication, *infos = said
    for asked in ((server, replication), (last_server, last_replication)):
        process = _checked(process_of, *asked)
        if any(RedisProcess(row.run_id, row.replid) != process for row in rows):
            raise RedisChanged("another Redis process answers than the ledger names")
    places = [(row.shard, row.epoch) for row in rows]
    return dict(zip(places, map(entries_added, infos), strict=True))


def _checked(read: Callable[[Any, Any], RedisProcess], *replies: Any) -> RedisProcess:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return read(*replies)


def _by_id(fields: Mapping[bytes, Any]) -> dict[UUID, Any]:
    """Return a hash's fields by the UUID that each is; what is none is not ours."""
    found = {}
    for name, value in fields.items():
        try:
            found[UUID(name.decode())] = value
        except ValueError:
            continue
    return found
