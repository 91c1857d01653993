"""The Stripe webhook, and the inbox as operators see it."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from sqlalchemy import Connection
from starlette.responses import Response

from persistence.database import now_ms
from sidecar.billing import inbox_rows
from sidecar.billing.errors import DeliveryRefused
from sidecar.billing.stripe_api import has_known_shape
from sidecar.billing.webhook import StripeEvent, WebhookReader
from sidecar.control import queries
from sidecar.control.actions import record
from sidecar.control.answers import page_answer
from sidecar.control.decode import invalid
from sidecar.control.ledger import Ledger
from sidecar.control.resources import Call
from sidecar.errors import ErrorCode, Refusal
from sidecar.metrics import ControlMetrics
from sidecar.web import json_answer

log: Final = logging.getLogger(__name__)

_SILENT_SECONDS: Final = 60.0

EVENT_COLUMNS: Final = (
    "id",
    "type",
    "object_id",
    "livemode",
    "created_ms",
    "received_ms",
    "status",
    "attempts",
    "error",
    "source",
)


class StripeHandlers:
    """What is done at `/stripe/webhook` and `/v1/stripe`."""

    def __init__(self, ledger: Ledger, reader: WebhookReader, metrics: ControlMetrics) -> None:
        self._ledger = ledger
        self._reader = reader
        self._metrics = metrics
        self._silent_until: dict[str, float] = {}

    def receive(self, call: Call[bytes]) -> Response:
        """Check and store one delivery. Answered 200 only when it is stored."""
        try:
            event = self._reader.read(call.body, call.headers.get("stripe-signature"))
        except DeliveryRefused as refused:
            return self._refuse(refused)
        try:
            is_new = self._ledger.run(lambda c: inbox_rows.store(c, event, now_ms()))
        except Refusal:
            self._metrics.webhooks.labels("ledger_away").inc()
            raise
        self._metrics.webhooks.labels(self._outcome(event, is_new=is_new)).inc()
        return json_answer({"id": event.id, "received": True})

    def list_page(self, call: Call[bytes]) -> Response:
        """Return a page of the stored events, of any status or of one."""
        limit, cursor = queries.limit(call.query), call.query.get("cursor")
        status = queries.status(call.query, inbox_rows.STATUSES)
        page = self._ledger.run(lambda c: inbox_rows.list_events(c, limit, cursor, status))
        return page_answer(page, EVENT_COLUMNS, call.headers.get("accept"))

    def replay(self, call: Call[bytes]) -> Response:
        """Have a worker apply an event again; what it did already is not done twice."""

        def work(c: Connection) -> dict[str, Any]:
            if inbox_rows.is_blanked(c, call.path["id"]):
                raise invalid("The event's body is not kept any more: reconcile instead.", "id")
            row = inbox_rows.replay(c, call.path["id"], now_ms())
            if row is None:
                raise Refusal(ErrorCode.NOT_FOUND, "There is no such Stripe event.", param="id")
            record(c, call, "replay_stripe_event")
            return dict(row)

        return json_answer(self._ledger.run(work))

    def _outcome(self, event: StripeEvent, *, is_new: bool) -> str:
        if not is_new:
            return "duplicate"
        if has_known_shape(event.api_version):
            return "stored"
        self._warn("webhook events come in another API version", "other_version")
        return "other_version"

    def _refuse(self, refused: DeliveryRefused) -> Response:
        self._metrics.webhooks.labels(refused.outcome).inc()
        self._warn("refused webhook deliveries", refused.outcome)
        is_json = refused.outcome != "unparsable"
        code = ErrorCode.INVALID_REQUEST if is_json else ErrorCode.INVALID_JSON
        # Always 400, as the contract says of this path, where other paths answer 422.
        return json_answer(Refusal(code, refused.message).body(), 400)

    def _warn(self, message: str, outcome: str) -> None:
        """Say so, once a minute: anybody may send here, and must not fill the log."""
        now = time.monotonic()
        if now < self._silent_until.get(outcome, 0.0):
            return
        self._silent_until[outcome] = now + _SILENT_SECONDS
        log.warning(message, extra={"outcome": outcome})
