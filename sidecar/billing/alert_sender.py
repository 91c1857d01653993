"""The job that sends alerts to the product: at least once each, in no promised order.

An alert is claimed and committed, then sent without a transaction, then what became of it is
written. A worker that dies in between leaves a claim that ends by itself.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx
import msgspec
from sqlalchemy import Connection, Engine

from persistence.database import in_transaction
from sidecar import __version__
from sidecar.billing import alert_rows
from sidecar.billing.alert_rows import Alert
from sidecar.billing.standard_webhooks import headers_of
from sidecar.metrics import MoneyMetrics

log: Final = logging.getLogger(__name__)

TIMEOUT_SECONDS: Final = 10.0
RETRY_SECONDS: Final = (5, 30, 120, 600, 3_600, 10_800, 21_600, 43_200, 86_400)
"""How long after each attempt that failed there is another one; after the last, none."""

NEWS_MS: Final = 24 * 3_600_000
"""How old an alert may be that is sent for the first time: there was no address before."""

_BATCH: Final = 20
_CLAIM_MS: Final = 60_000
_GONE: Final = 410
_GAUGES_EVERY_MS: Final = 15_000

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver answered: an HTTP status, or why there was none."""

    status: int | None
    error: str | None

    @property
    def is_taken(self) -> bool:
        """Whether the alert has arrived."""
        return self.status is not None and 200 <= self.status < 300


class AlertSender:
    """Sends due alerts to one address. Any number may run at once."""

    def __init__(
        self,
        engine: Engine,
        url: str,
        secrets: Sequence[str],
        metrics: MoneyMetrics,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        timeout_s: float = TIMEOUT_SECONDS,
    ) -> None:
        self._engine = engine
        self._url = url
        self._secrets = tuple(secrets)
        self._metrics = metrics
        self._now_ms = now_ms
        self._timeout_s = timeout_s
        self._has_buried = False
        self._gauges_due_ms = 0

    def run_once(self) -> int:
        """Send what is due, at most 20 at once; return how many. Raises `LedgerUnavailable`."""
        if not self._has_buried:
            self._bury_old()
        now_ms = self._now_ms()
        claim = lambda c: alert_rows.claim_due(c, now_ms, _CLAIM_MS, _BATCH)  # noqa: E731
        claimed = in_transaction(self._engine, claim)
        if claimed:
            answers = asyncio.run(self._send_all(claimed))
            in_transaction(self._engine, lambda c: self._keep(c, claimed, answers))
            for one, answer in zip(claimed, answers, strict=True):
                self._report(one, answer)
        self._show()
        return len(claimed)

    async def _send_all(self, claimed: Sequence[Alert]) -> list[Answer]:
        # Connections go by the client's own time-outs, each alert by one for all of it.
        async with httpx.AsyncClient(
            timeout=self._timeout_s, follow_redirects=False, trust_env=False
        ) as client:
            return await asyncio.gather(*(self._send(client, one) for one in claimed))

    async def _send(self, client: httpx.AsyncClient, one: Alert) -> Answer:
        body = body_of(one)
        headers = headers_of(one.id, body, self._secrets, self._now_ms() // 1000) | {
            "Content-Type": "application/json",
            "User-Agent": f"credit-sidecar/{__version__}",
        }
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                client.stream("POST", self._url, content=body, headers=headers) as response,
            ):
                status = response.status_code
        except TimeoutError:
            return Answer(None, f"no answer within {self._timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return Answer(None, ascii(f"{type(error).__name__}: {error}")[1:-1][:300])
        answer = Answer(status, None)
        return answer if answer.is_taken else Answer(status, f"it answered {status}")

    def _keep(self, c: Connection, claimed: Sequence[Alert], answers: Sequence[Answer]) -> None:
        now_ms = self._now_ms()
        for one, answer in zip(claimed, answers, strict=True):
            outcome: dict[str, Any] = {"answer": answer.status, "error": answer.error}
            if answer.is_taken:
                outcome |= {"status": "delivered", "delivered_ms": now_ms}
            elif (wait_s := wait_seconds(one, answer)) is None:
                outcome |= {"status": "dead"}
            else:
                outcome |= {"due_ms": now_ms + wait_s * 1000}
            alert_rows.finish(c, one, **outcome)

    def _report(self, one: Alert, answer: Answer) -> None:
        fields: dict[str, Any] = {"alert": one.id, "kind": one.kind, "account": one.account}
        if one.attempts == 0:
            log.info("alert", extra=fields | {"data": one.data})
        fields |= {"attempt": one.attempts + 1, "answer": answer.status, "error": answer.error}
        if answer.is_taken:
            outcome = "delivered"
        elif wait_seconds(one, answer) is None:
            outcome = "dead"
            log.error("gave an alert up", extra=fields)
        else:
            outcome = "failed"
            log.warning("could not deliver an alert", extra=fields)
        self._metrics.alerts.labels(outcome).inc()

    def _bury_old(self) -> None:
        before_ms = self._now_ms() - NEWS_MS
        buried = in_transaction(self._engine, lambda c: alert_rows.bury_old(c, before_ms))
        if buried:
            log.warning("gave up alerts that are no news any more", extra={"count": len(buried)})
            self._metrics.alerts.labels("dead").inc(len(buried))
        self._has_buried = True

    def _show(self) -> None:
        if self._now_ms() < self._gauges_due_ms:
            return
        with self._engine.connect() as c:
            self._metrics.alerts_pending.set(alert_rows.count_pending(c))
        self._gauges_due_ms = self._now_ms() + _GAUGES_EVERY_MS


def body_of(one: Alert) -> bytes:
    """Return what is sent of an alert: the same bytes each time."""
    at = dt.datetime.fromtimestamp(one.created_ms / 1000, dt.UTC)
    timestamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    data = one.data | {"account": one.account, "alert_id": one.id}
    return _encode({"type": one.kind, "timestamp": timestamp, "data": data})


def wait_seconds(one: Alert, answer: Answer) -> int | None:
    """Return when to try an alert again that did not arrive; None: never."""
    if answer.status == _GONE or one.attempts >= len(RETRY_SECONDS):
        return None
    return RETRY_SECONDS[one.attempts]
