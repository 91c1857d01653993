"""Auto top-up: a worker's job that charges a stored card before an account runs dry.

`auto_top_up_start` decides and writes an attempt, `auto_top_up_send` charges it, and the event of
the payment brings the credits, as with every other payment; `auto_top_up_hooks` is told then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import Engine

from sidecar.billing import auto_top_up_rows as rows
from sidecar.billing.auto_top_up_send import Sender
from sidecar.billing.auto_top_up_start import Starter
from sidecar.billing.stripe_api import StripeApi
from sidecar.billing.watch_standing import Standings
from sidecar.metrics import MoneyMetrics

_GAUGES_EVERY_MS: Final = 15_000


class AutoTopUp:
    """Starts and sends auto top-ups. Any number may run at once."""

    def __init__(
        self,
        engine: Engine,
        stripe: StripeApi,
        standings: Standings,
        metrics: MoneyMetrics,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        interval_ms: int = rows.INTERVAL_MS,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._now_ms = now_ms
        self._gauges_due_ms = 0
        self._starter = Starter(
            engine, stripe, standings, metrics, now_ms=now_ms, interval_ms=interval_ms
        )
        self._sender = Sender(engine, stripe, metrics, now_ms=now_ms)

    def run_once(self) -> int:
        """Start what is due and send what is due; return how many of both.

        Raises `LedgerUnavailable`; Stripe's outages are waited for.
        """
        done = self._starter.run_once() + self._sender.run_once()
        if self._now_ms() >= self._gauges_due_ms:
            self._show()
        return done

    def _show(self) -> None:
        with self._engine.connect() as c:
            counts = rows.count_in_flight(c)
        for status, count in counts.items():
            self._metrics.auto_top_ups_in_flight.labels(status).set(count)
        self._gauges_due_ms = self._now_ms() + _GAUGES_EVERY_MS
