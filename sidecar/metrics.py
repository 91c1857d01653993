"""Every metric of every role, in one place: prefix `credits_`, base units, no account labels."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_DECISION_BUCKETS: Final = (
    0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005,
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
)  # fmt: skip
_JOB_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RECOVERY_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
_BATCH_BUCKETS: Final = (1, 10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)


class MeterMetrics:
    """What a sidecar (`serve`) counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.decisions: Final = Counter(
            "credits_decisions_total",
            "Answers of the hot path by operation and status.",
            ("operation", "status"),
            registry=registry,
        )
        self.decision_seconds: Final = Histogram(
            "credits_decision_seconds",
            "Time from the parsed request to its answer.",
            ("operation",),
            buckets=_DECISION_BUCKETS,
            registry=registry,
        )
        self.redis_seconds: Final = Histogram(
            "credits_redis_round_trip_seconds",
            "Time of one script call, as the sidecar sees it.",
            buckets=_DECISION_BUCKETS,
            registry=registry,
        )
        self.redis_errors: Final = Counter(
            "credits_redis_errors_total",
            "Script calls that gave no answer, by kind.",
            ("kind",),
            registry=registry,
        )
        self.account_loads: Final = Counter(
            "credits_account_loads_total",
            "Accounts asked of a worker because Redis did not have them, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.shards_open: Final = Gauge(
            "credits_shards_open",
            "Shards that this sidecar may decide for.",
            registry=registry,
        )
        self.lease_age: Final = Gauge(
            "credits_lease_age_seconds",
            "Time since this sidecar last saw Redis; after 5 s it acknowledges nothing.",
            registry=registry,
        )
        self.registered: Final = Gauge(
            "credits_registered",
            "1 while the ledger knows this sidecar, so that it may acknowledge.",
            registry=registry,
        )
        self.fence_changes: Final = Counter(
            "credits_fence_changes_total",
            "Shards seen in another epoch, or left by the Redis process, by cause.",
            ("cause",),
            registry=registry,
        )
        self.handed_in_events: Final = Counter(
            "credits_handed_in_events_total",
            "Events of the journal that were handed in after a loss.",
            registry=registry,
        )
        self.survivors: Final = Gauge(
            "credits_survivors",
            "Ids that are answered from the journal because Redis has lost them.",
            registry=registry,
        )
        self.holds: Final = Gauge(
            "credits_journal_holds",
            "Holds that the journal keeps until they end.",
            registry=registry,
        )
        self.degraded: Final = Counter(
            "credits_degraded_total",
            "Answers given while Redis was away, by operation.",
            ("operation",),
            registry=registry,
        )
        self.degraded_pending: Final = Gauge(
            "credits_degraded_pending",
            "Calls accepted while Redis was away that are still to be run.",
            registry=registry,
        )
        self.degraded_refused: Final = Counter(
            "credits_degraded_refused_total",
            "Calls accepted while Redis was away that were refused when they were run.",
            ("operation",),
            registry=registry,
        )
        self.redis_memory_ratio: Final = Gauge(
            "credits_redis_memory_ratio",
            "How much of the memory that Redis may have is used.",
            registry=registry,
        )
        self.memory_refusals: Final = Counter(
            "credits_memory_refusals_total",
            "Holds, debits and extends refused because Redis is nearly full.",
            registry=registry,
        )
        self.http_refusals: Final = Counter(
            "credits_http_refusals_total",
            "Requests refused, before a decision or by it, by error code.",
            ("code",),
            registry=registry,
        )


class JournalMetrics:
    """What a sidecar's journal counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.records: Final = Gauge(
            "credits_journal_records",
            "Records of the journal that are still needed: the ledger has not confirmed them.",
            registry=registry,
        )
        self.file_bytes: Final = Gauge(
            "credits_journal_file_bytes",
            "Size of the journal on disk.",
            registry=registry,
        )
        self.append_seconds: Final = Histogram(
            "credits_journal_append_seconds",
            "Time until the records of one turn of the event loop were as safe as was asked for.",
            buckets=_DECISION_BUCKETS,
            registry=registry,
        )
        self.errors: Final = Counter(
            "credits_journal_errors_total",
            "Failures of the journal's disk, by what was done.",
            ("kind",),
            registry=registry,
        )
        self.refusals: Final = Counter(
            "credits_journal_refusals_total",
            "Records refused because the journal was full.",
            registry=registry,
        )


class WorkerMetrics:
    """What a worker counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.flushed_events: Final = Counter(
            "credits_flushed_events_total",
            "Events read from the streams, by what became of them.",
            ("outcome",),
            registry=registry,
        )
        self.flush_seconds: Final = Histogram(
            "credits_flush_seconds",
            "Time of one flush transaction.",
            buckets=_JOB_BUCKETS,
            registry=registry,
        )
        self.flush_batch_events: Final = Histogram(
            "credits_flush_batch_events",
            "Events in one flush transaction.",
            buckets=_BATCH_BUCKETS,
            registry=registry,
        )
        self.flush_lag_seconds: Final = Gauge(
            "credits_flush_lag_seconds",
            "Age of the oldest event that is not in the ledger yet; 0 when all are.",
            registry=registry,
        )
        self.unflushed_events: Final = Gauge(
            "credits_unflushed_events",
            "Events in the streams that are not in the ledger yet.",
            registry=registry,
        )
        self.catch_up_seconds: Final = Gauge(
            "credits_flush_catch_up_seconds",
            "Estimate of when the ledger has all events, at the present rate; 0 when not behind.",
            registry=registry,
        )
        self.refills: Final = Counter(
            "credits_refills_total",
            "Refills sent to Redis, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.refill_lag_seconds: Final = Gauge(
            "credits_refill_lag_seconds",
            "Age of the oldest refill that Redis does not have yet; 0 when all are there.",
            registry=registry,
        )
        self.swept_accounts: Final = Counter(
            "credits_swept_accounts_total",
            "Accounts visited by the expiry sweep.",
            registry=registry,
        )
        self.account_loads: Final = Counter(
            "credits_worker_account_loads_total",
            "Accounts loaded into Redis because a sidecar asked, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.drift: Final = Gauge(
            "credits_drift_microcredits",
            "Sum of |ledger - (Redis + unflushed)| over the accounts compared last; must be 0.",
            registry=registry,
        )
        self.drift_accounts: Final = Gauge(
            "credits_drift_compared_accounts",
            "Accounts in the last comparison of Redis with the ledger.",
            registry=registry,
        )
        self.drift_checked_at: Final = Gauge(
            "credits_drift_checked_timestamp_seconds",
            "When Redis was last compared with the ledger.",
            registry=registry,
        )
        self.audit_last_clean: Final = Gauge(
            "credits_audit_last_clean_timestamp_seconds",
            "When this worker's last audit began of which every line was zero; 0 before the first.",
            registry=registry,
        )
        self.audit_age: Final = Gauge(
            "credits_audit_age_seconds",
            "Time since the last clean audit, or since this worker began or another one audits.",
            registry=registry,
        )
        self.audit_discrepancies: Final = Gauge(
            "credits_audit_discrepancies",
            "What the last audit of this worker found wrong, by line; must be 0.",
            ("line",),
            registry=registry,
        )
        self.audit_seconds: Final = Gauge(
            "credits_audit_seconds",
            "Time that the last audit of this worker took.",
            registry=registry,
        )
        self.dead_letters: Final = Gauge(
            "credits_dead_letters",
            "Events that the ledger could not take.",
            registry=registry,
        )
        self.fenced_shards: Final = Gauge(
            "credits_fenced_shards",
            "Shards whose Redis state is not trusted.",
            registry=registry,
        )
        self.recoveries: Final = Counter(
            "credits_recoveries_total",
            "Shards whose Redis state was given up, by cause.",
            ("cause",),
            registry=registry,
        )
        self.recovery_seconds: Final = Histogram(
            "credits_recovery_seconds",
            "Time from a shard's loss being noticed until every journal was in the ledger.",
            buckets=_RECOVERY_BUCKETS,
            registry=registry,
        )
        self.draining_shards: Final = Gauge(
            "credits_draining_shards",
            "Shards that wait for journals of sidecars.",
            registry=registry,
        )
        self.waiting_for_sidecars: Final = Gauge(
            "credits_waiting_for_sidecars",
            "Sidecars whose journals shards wait for.",
            registry=registry,
        )
        self.sidecars: Final = Gauge(
            "credits_sidecars",
            "Sidecars by state: alive, and dead ones that never came back.",
            ("state",),
            registry=registry,
        )
        self.reopened_accounts: Final = Counter(
            "credits_reopened_accounts_total",
            "Accounts whose lost generation was closed and the next one opened.",
            registry=registry,
        )
        self.superseded_generations: Final = Gauge(
            "credits_superseded_generations",
            "Accounts whose generation was lost and is not closed yet.",
            registry=registry,
        )
        self.job_errors: Final = Counter(
            "credits_job_errors_total",
            "Rounds of a worker's job that failed and will be tried again, by job.",
            ("job",),
            registry=registry,
        )
        self.inbox_applied: Final = Counter(
            "credits_stripe_events_applied_total",
            "Stripe events that the worker finished, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.inbox_events: Final = Gauge(
            "credits_stripe_inbox_events",
            "Stored Stripe events that are not applied, by status: pending, failed, dead.",
            ("status",),
            registry=registry,
        )
        self.inbox_newest: Final = Gauge(
            "credits_stripe_newest_event_timestamp_seconds",
            "When the newest Stripe event was received; 0 when there is none.",
            registry=registry,
        )


class ControlMetrics:
    """What the control role counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests: Final = Counter(
            "credits_control_requests_total",
            "Requests to the control listener by route and HTTP status.",
            ("route", "status"),
            registry=registry,
        )
        self.request_seconds: Final = Histogram(
            "credits_control_request_seconds",
            "Time of one control request.",
            ("route",),
            buckets=_JOB_BUCKETS,
            registry=registry,
        )
        self.webhooks: Final = Counter(
            "credits_stripe_webhooks_total",
            "Webhook deliveries by outcome.",
            ("outcome",),
            registry=registry,
        )


class MoneyMetrics:
    """What a worker counts of Stripe's side: the reconciler, auto top-up, alerts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reconciler_succeeded: Final = Gauge(
            "credits_reconciler_succeeded_timestamp_seconds",
            "When a pass of the reconciler last came to its end, by pass; 0: never.",
            ("pass",),
            registry=registry,
        )
        self.reconciler_found: Final = Counter(
            "credits_reconciler_found_total",
            "What the reconciler found that no webhook had brought, by pass.",
            ("pass",),
            registry=registry,
        )
        self.reconciler_late: Final = Counter(
            "credits_reconciler_late_total",
            "What it found more than ten minutes after it happened: webhooks do not arrive.",
            ("pass",),
            registry=registry,
        )
        self.auto_top_ups: Final = Counter(
            "credits_auto_top_ups_total",
            "Steps of auto top-ups, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.auto_top_ups_in_flight: Final = Gauge(
            "credits_auto_top_ups_in_flight",
            "Charges of auto top-ups that may take money or gave no credits yet, by status.",
            ("status",),
            registry=registry,
        )
        self.alerts: Final = Counter(
            "credits_alerts_total",
            "Attempts to deliver alerts, by outcome; dead ones were given up.",
            ("outcome",),
            registry=registry,
        )
        self.alerts_pending: Final = Gauge(
            "credits_alerts_pending",
            "Alerts that are not delivered yet.",
            registry=registry,
        )
