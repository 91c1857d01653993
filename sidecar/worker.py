"""`credit-sidecar worker`: the composition root of the jobs between Redis, ledger and Stripe."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Final

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from persistence import schema
from persistence.database import make_engine
from persistence.errors import RedisChanged
from persistence.jobs import WorkerJobs
from sidecar import server
from sidecar.billing.jobs import jobs_of
from sidecar.metrics import MoneyMetrics, WorkerMetrics
from sidecar.nodes import RedisNodes
from sidecar.settings import Settings
from sidecar.web import json_answer

log: Final = logging.getLogger(__name__)

_CONNECTIONS: Final = 24  # to Postgres: about one for each job
_REDIS_SECONDS: Final = 5.0

# Without these no sidecar may begin, no account is loaded, no refill arrives, no usage reaches the
# ledger and nothing comes back after a loss.
_ESSENTIAL: Final = ("shards", "sidecars", "refills", "asks", "flush", "reopen")


def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then flush what is in the streams and return.

    Raises `SettingsError`, `LedgerUnavailable` and `SchemaMismatch` when it cannot begin, and
    `RedisMismatch` when Redis and Postgres do not belong together. Call in the main thread.
    """
    settings.require("postgres_url")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    registry = CollectorRegistry()
    with _jobs(settings, registry) as jobs:
        _open_shards(jobs)
        with _listening(probes(jobs, registry), settings):
            jobs.start()
            log.info("working", extra={"listen": settings.worker_listen})
            stopping.wait()
            log.info("stopping: flushing what is left")
            is_drained = jobs.stop(settings.shutdown_grace_ms / 1000)
    if not is_drained:
        log.warning("events are left in Redis for the next worker")


def probes(jobs: WorkerJobs, registry: CollectorRegistry) -> Starlette:
    """Return the application with /healthz, /readyz and /metrics."""

    async def healthz(_: Request) -> Response:
        dead = [job.job for job in jobs.jobs if not job.is_alive()]
        return _answer("ok", f"dead jobs: {', '.join(dead)}" if dead else None)

    async def readyz(_: Request) -> Response:
        return _answer("ready", _problem(jobs))

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
        ]
    )


def _answer(word: str, problem: str | None) -> Response:
    if problem is None:
        return json_answer({"status": word})
    return json_answer({"status": f"not {word}", "reason": problem}, 503, {"Retry-After": "1"})


def _problem(jobs: WorkerJobs) -> str | None:
    essential = [job for job in jobs.jobs if job.job in _ESSENTIAL]
    failing = [job.job for job in essential if job.is_failing or not job.is_alive()]
    if failing:
        return f"failing jobs: {', '.join(failing)}"
    waiting = [job.job for job in essential if job.last_success is None]
    return f"jobs in their first round: {', '.join(waiting)}" if waiting else None


@contextlib.contextmanager
def _jobs(settings: Settings, registry: CollectorRegistry) -> Iterator[WorkerJobs]:
    engine = make_engine(
        settings.postgres_url, application_name="credit-sidecar worker", pool_size=_CONNECTIONS
    )
    # Longer than the blocking read of one job.
    nodes = RedisNodes.of_url(settings.redis_url, timeout_s=_REDIS_SECONDS)
    metrics = WorkerMetrics(registry)
    try:
        schema.check(engine)
        money = jobs_of(engine, nodes, settings, metrics, MoneyMetrics(registry))
        yield WorkerJobs(engine, nodes, metrics, settings, others=money)
    finally:
        nodes.close()
        engine.dispose()


def _open_shards(jobs: WorkerJobs) -> None:
    try:
        jobs.open_shards()
    except (RedisError, RedisChanged, OSError) as error:
        # One of the jobs opens them as soon as it can; until then this worker is not ready.
        log.warning("Redis is not there yet", extra={"error": str(error)})


@contextlib.contextmanager
def _listening(app: ASGIApp, settings: Settings) -> Iterator[None]:
    """Serve the probes in a thread of their own, so that no job keeps them waiting."""
    sock = server.listen(settings.worker_listen, "CREDITS_WORKER_LISTEN")
    served = uvicorn.Server(server.configuration(app, 1_000))
    thread = threading.Thread(target=served.run, args=([sock],), name="probes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        served.should_exit = True
        thread.join(5)
        sock.close()
