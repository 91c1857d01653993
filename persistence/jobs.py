"""The worker's jobs: each in its own thread, with back-off, and stopped cleanly."""

from __future__ import annotations

import datetime as dt
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import psycopg
import redis
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from persistence.asks import AccountLoader
from persistence.audit import DriftSampler, count_dead_letters
from persistence.auditing import LOOK_SECONDS, Auditor
from persistence.bell import RefillBell
from persistence.catching_up import BEHIND_SECONDS
from persistence.compare import Comparer
from persistence.database import in_transaction
from persistence.flush import Flusher
from persistence.opening import ShardOpener
from persistence.partitions import ensure_partitions
from persistence.refills import RefillSender
from persistence.registry import Registry
from persistence.reopening import Reopener
from persistence.sweep import Sweeper
from sidecar.errors import CreditsError
from sidecar.metrics import WorkerMetrics
from sidecar.nodes import RedisNodes

_log: Final = logging.getLogger(__name__)

_FIRST_BACK_OFF_S: Final = 0.1
_LAST_BACK_OFF_S: Final = 1.0  # when Redis is back, recovery must not wait for the jobs
_ASK_WAIT_S: Final = 0.5
_REFILL_POLL_S: Final = 0.25
_DRIFT_WAIT_S: Final = 5.0
_LOOK_S: Final = 0.25


class Settings(Protocol):
    """The settings that the jobs read (those of `sidecar.settings`)."""

    @property
    def flush_interval_ms(self) -> int:
        """How long events may wait, in ms."""

    @property
    def flush_batch_events(self) -> int:
        """The most events of one flush."""

    @property
    def stream_keep_seconds(self) -> int:
        """How long flushed events stay in the stream."""

    @property
    def allow_unsafe_redis(self) -> bool:
        """Whether to work on a Redis that may forget."""

    @property
    def sidecar_lost_seconds(self) -> int:
        """How long a sidecar may be silent before it is let go of."""

    @property
    def sidecar_dead_seconds(self) -> int:
        """How long a recovery waits for a silent sidecar; 0 for ever."""

    @property
    def audit_interval_seconds(self) -> int:
        """How often to audit; 0 never."""


class Job(threading.Thread):
    """Runs `work` again and again until it is stopped.

    `work` returns how much it did: something, and the next round follows at once; nothing, and the
    job waits `interval_s`. An error is logged, counted and tried again after a growing wait. The
    last round ends before the thread does.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], int],
        metrics: WorkerMetrics,
        *,
        interval_s: float,
        is_eager: bool = False,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        super().__init__(name=f"job-{name}", daemon=True)
        self.job: Final = name
        self._work = work
        self._metrics = metrics
        self._interval_s = interval_s
        self._is_eager = is_eager
        self._stopping = threading.Event()
        self._wait = wait or self._stopping.wait
        self._failures = 0
        self.last_success: float | None = None
        metrics.job_errors.labels(name)

    def run(self) -> None:
        """Work until `stop`."""
        while not self._stopping.is_set():
            pause = self.round()
            if pause and not self._stopping.is_set():
                (self._stopping.wait if self._failures else self._wait)(pause)

    def round(self) -> float:
        """Work once; return how many seconds to wait before the next time."""
        try:
            done = self._work()
        except Exception as error:  # a job must outlive whatever one round meets
            return self._failed(error)
        self._failures = 0
        self.last_success = time.monotonic()
        return 0.0 if done and self._is_eager else self._interval_s

    def stop(self) -> None:
        """Ask the job to end after its present round; `join` waits for it."""
        self._stopping.set()

    @property
    def is_failing(self) -> bool:
        """Whether the last round failed."""
        return self._failures > 0

    def _failed(self, error: Exception) -> float:
        self._metrics.job_errors.labels(self.job).inc()
        self._failures += 1
        fields = {"job": self.job, "failures": self._failures, "error": _first_line(error)}
        # The first failure says all; an outage of an hour need not fill the log.
        if self._failures == 1:
            is_surprise = not isinstance(error, CreditsError)
            _log.error("job failed", extra=fields, exc_info=is_surprise)
        elif self._failures & (self._failures - 1) == 0:
            _log.warning("job still fails", extra=fields)
        longest = min(_FIRST_BACK_OFF_S * 2 ** min(self._failures, 10), _LAST_BACK_OFF_S)
        return random.uniform(longest / 2, longest)


class WorkerJobs:
    """All jobs of a worker: started together, stopped together, drained at the end.

    Every job has its own connections. `others` are more rounds of work by name, such as the Stripe
    inbox: each called about every `interval_s` seconds, at once again while it finds work.
    """

    def __init__(
        self,
        engine: Engine,
        nodes: RedisNodes,
        metrics: WorkerMetrics,
        settings: Settings,
        *,
        others: Sequence[tuple[str, Callable[[], int], float]] = (),
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._bell = RefillBell(engine)
        self._auditor = Auditor(engine, nodes, metrics, interval_s=settings.audit_interval_seconds)
        self._flusher = self._new_flusher(nodes, settings)
        self._opener = ShardOpener(
            engine,
            nodes,
            self._new_flusher(nodes, settings),
            metrics,
            is_unsafe_allowed=settings.allow_unsafe_redis,
        )
        self.jobs: Final = [
            self._job("shards", self._opener.run_once, _LOOK_S),
            self._job("flush", self._flush, settings.flush_interval_ms / 1000, is_eager=True),
            *self._account_jobs(nodes),
            *self._recovery_jobs(nodes, settings),
            self._job("partitions", self._partitions, 3600.0),
            self._job("dead_letters", self._dead_letters, 5.0),
            *(self._job(name, work, wait_s, is_eager=True) for name, work, wait_s in others),
            *self._audit_jobs(settings),
        ]

    def open_shards(self) -> None:
        """Open the shards, before the jobs start; raises what `ShardOpener.open_shards` does."""
        self._opener.open_shards()

    def start(self) -> None:
        """Start every job."""
        for job in self.jobs:
            job.start()

    @property
    def failing(self) -> list[str]:
        """The jobs whose last round failed, and those that died."""
        return [job.job for job in self.jobs if job.is_failing or not job.is_alive()]

    def stop(self, grace_s: float) -> bool:
        """Stop every job, then flush what is in the streams; tell whether all is in the ledger.

        Takes at most about `grace_s` seconds. What is left stays in Redis for the next worker.
        """
        deadline = time.monotonic() + grace_s
        self._auditor.stop()
        for job in self.jobs:
            job.stop()
        audits = [job for job in self.jobs if job.job == "audit"]
        self._join([job for job in self.jobs if job not in audits], deadline)
        self._bell.close()
        try:
            return self._flusher.drain(deadline)
        except (sa.exc.SQLAlchemyError, psycopg.Error, redis.RedisError) as error:
            _log.warning("not drained", extra={"error": _first_line(error)})
            return False
        finally:
            # It only reads, for as long as its present line takes: nothing waits for it but this.
            self._join(audits, deadline)
            self._auditor.close()

    @staticmethod
    def _join(jobs: Sequence[Job], deadline: float) -> None:
        for job in jobs:
            job.join(max(deadline - time.monotonic(), 0.0))

    def _new_flusher(self, nodes: RedisNodes, settings: Settings) -> Flusher:
        return Flusher(
            self._engine,
            nodes,
            self._metrics,
            batch_events=settings.flush_batch_events,
            keep_seconds=settings.stream_keep_seconds,
            behind_seconds=max(BEHIND_SECONDS, 4 * settings.flush_interval_ms / 1000),
        )

    def _recovery_jobs(self, nodes: RedisNodes, settings: Settings) -> list[Job]:
        registry = Registry(
            self._engine,
            nodes,
            self._metrics,
            lost_seconds=settings.sidecar_lost_seconds,
            dead_seconds=settings.sidecar_dead_seconds,
        )
        reopener = Reopener(self._engine, self._metrics)
        return [
            self._job("sidecars", registry.run_once, _LOOK_S),
            self._job("reopen", reopener.run_once, _LOOK_S, is_eager=True),
        ]

    def _audit_jobs(self, settings: Settings) -> list[Job]:
        if not settings.audit_interval_seconds:
            return []
        return [self._job("audit", self._auditor.run_once, LOOK_SECONDS)]

    def _account_jobs(self, nodes: RedisNodes) -> list[Job]:
        engine, metrics = self._engine, self._metrics
        sender, asked = (RefillSender(engine, nodes, metrics) for _ in range(2))
        loader = AccountLoader(engine, nodes, asked, Reopener(engine, metrics), metrics)
        sweeper = Sweeper(engine, nodes, metrics)
        drift = DriftSampler(engine, Comparer(engine, nodes, wait_s=_DRIFT_WAIT_S), metrics)
        return [
            self._job("refills", sender.run_once, _REFILL_POLL_S, wait=self._bell.wait),
            # Waiting for asks is its work: it is never idle.
            self._job("asks", lambda: loader.answer_asks(_ASK_WAIT_S) + 1, 0.0, is_eager=True),
            self._job("sweep", sweeper.run_once, 1.0, is_eager=True),
            self._job("drift", drift.run_once, 5.0),
        ]

    def _job(
        self,
        name: str,
        work: Callable[[], int],
        interval_s: float,
        *,
        is_eager: bool = False,
        wait: Callable[[float], object] | None = None,
    ) -> Job:
        return Job(name, work, self._metrics, interval_s=interval_s, is_eager=is_eager, wait=wait)

    def _flush(self) -> int:
        """Flush every shard once; events that came meanwhile wait for the interval."""
        return sum(result.is_more for result in self._flusher.run_once())

    def _partitions(self) -> int:
        def ensure(connection: Connection) -> int:
            return len(ensure_partitions(connection, dt.datetime.now(dt.UTC).date()))

        return in_transaction(self._engine, ensure)

    def _dead_letters(self) -> int:
        with self._engine.connect() as connection:
            self._metrics.dead_letters.set(count_dead_letters(connection))
        return 0


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"
