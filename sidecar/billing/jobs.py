"""The jobs of a worker on Stripe's side: each a round of work, by name, with its pace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Engine

from persistence.database import now_ms
from sidecar.billing.access_job import AccessJob
from sidecar.billing.alert_sender import AlertSender
from sidecar.billing.auto_top_up import AutoTopUp
from sidecar.billing.inbox import InboxJob
from sidecar.billing.plan_job import PlanJob
from sidecar.billing.reconciler import Reconciler
from sidecar.billing.reconciling import ReconcilerJob, RetentionJob
from sidecar.billing.stripe_api import StripeApi, api_of
from sidecar.billing.watch import Watch
from sidecar.billing.watch_standing import Standings
from sidecar.billing.webhook import mode_of
from sidecar.metrics import MoneyMetrics, WorkerMetrics
from sidecar.nodes import RedisNodes
from sidecar.settings import Settings

Job = tuple[str, Callable[[], int], float]
"""A name, what one round does, and how many seconds lie between two that find nothing to do."""

_INBOXES: Final = 2  # one event may wait for Stripe: the others go on meanwhile


def jobs_of(
    engine: Engine,
    nodes: RedisNodes,
    settings: Settings,
    metrics: WorkerMetrics,
    money: MoneyMetrics,
) -> list[Job]:
    """Return the jobs that the settings ask for: without a key nothing is asked of Stripe."""
    api = api_of(settings)
    standings = Standings(engine, nodes)
    jobs: list[Job] = [
        (f"stripe_inbox_{number}", _inbox(engine, settings, metrics, api), 0.25)
        for number in range(1, _INBOXES + 1)
    ]
    jobs += [
        ("access", AccessJob(engine).run_once, 5.0),
        ("plans", PlanJob(engine).run_once, 1.0),
        ("watch", Watch(engine, standings).run_once, 0.5),
        ("retention", RetentionJob(engine, days=settings.stripe_payload_days).run_once, 3600.0),
    ]
    if settings.alert_url:
        sender = AlertSender(engine, settings.alert_url, settings.alert_secret, money)
        jobs.append(("alerts", sender.run_once, 0.5))
    if api is not None:
        jobs += _asking_jobs(engine, api, standings, settings, money)
    return jobs


def _inbox(
    engine: Engine, settings: Settings, metrics: WorkerMetrics, api: StripeApi | None
) -> Callable[[], int]:
    takes_metadata = settings.stripe_metadata_topups
    job = InboxJob(engine, metrics, stripe=api, takes_metadata_top_ups=takes_metadata)
    return job.run_once


def _asking_jobs(
    engine: Engine,
    api: StripeApi,
    standings: Standings,
    settings: Settings,
    money: MoneyMetrics,
) -> list[Job]:
    interval_ms = settings.auto_top_up_interval_seconds * 1000
    top_up = AutoTopUp(engine, api, standings, money, interval_ms=interval_ms)
    livemode = bool(mode_of(settings.stripe_secret_key))
    reconciler = Reconciler(engine, api, now_ms, livemode=livemode)
    return [
        ("auto_top_up", top_up.run_once, 0.5),
        ("reconciler", ReconcilerJob(engine, reconciler, money).run_once, 10.0),
    ]
