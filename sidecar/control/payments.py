"""Payments and what Stripe kept of them, as operators see them."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection
from starlette.responses import Response

from persistence import accounts
from persistence.cursors import Page
from sidecar.billing import payment_reads
from sidecar.control import queries
from sidecar.control.answers import page_answer, prefers_csv
from sidecar.control.ledger import Ledger, account_not_found
from sidecar.control.resources import Call
from sidecar.domain import MAX_AMOUNT
from sidecar.web import json_answer

PAYMENT_COLUMNS: Final = (
    "payment_intent", "order_id", "checkout_session", "credits", "granted", "clawed_back",
    "is_paid", "paid_minor_units", "currency", "fee", "fee_currency", "fee_percent", "refunded",
    "disputed", "created_ms",
)  # fmt: skip
FEE_COLUMNS: Final = (
    "month", "currency", "payments", "paid", "fee", "fee_percent", "payments_without_fee",
)  # fmt: skip


class PaymentHandlers:
    """What is shown of an account's payments, and of the fees of all of them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def list_page(self, call: Call[bytes]) -> Response:
        """Return a page of the payments of an account."""
        limit, cursor = queries.limit(call.query), call.query.get("cursor")

        def work(c: Connection) -> Page[dict[str, Any]]:
            if accounts.get_account(c, call.path["account"]) is None:
                raise account_not_found()
            return payment_reads.payments_of(c, call.path["account"], limit, cursor)

        return page_answer(self._ledger.run(work), PAYMENT_COLUMNS, call.headers.get("accept"))

    def fees(self, call: Call[bytes]) -> Response:
        """Return the fees by month and currency, and the newest payments with thin margins."""
        limit, share = queries.limit(call.query), queries.percent(call.query, "thin_percent")
        since_ms = queries.instant(call.query, "since_ms") or 0
        until_ms = queries.instant(call.query, "until_ms")
        until_ms = MAX_AMOUNT if until_ms is None else until_ms
        above = payment_reads.THIN_PERCENT if share is None else share

        def work(c: Connection) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
            thin = payment_reads.thin_payments(c, since_ms, until_ms, above, limit)
            return payment_reads.fees(c, since_ms, until_ms), thin

        months, thin = self._ledger.run(work)
        accept = call.headers.get("accept")
        if prefers_csv(accept):
            return page_answer(Page(months, None), FEE_COLUMNS, accept)
        answer = {"data": months, "next_cursor": None, "thin_percent": above, "thin": thin}
        return json_answer(answer)
