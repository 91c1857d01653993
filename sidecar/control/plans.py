"""Plans, and what accounts have subscribed to."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection
from starlette.responses import Response

from persistence import accounts
from persistence.cursors import Page
from persistence.database import now_ms
from sidecar.billing import plan_reads, plans
from sidecar.control import queries
from sidecar.control.actions import record
from sidecar.control.answers import page_answer
from sidecar.control.decode import set_fields
from sidecar.control.ledger import Ledger, account_not_found
from sidecar.control.money_requests import PlanBody
from sidecar.control.resources import Call
from sidecar.web import json_answer

PLAN_COLUMNS: Final = (
    "stripe_price", "allowance", "grace_days", "rollover_cap", "upgrade_allowance",
    "allowance_interval", "trial_allowance", "created_ms", "updated_ms",
)  # fmt: skip
SUBSCRIPTION_COLUMNS: Final = (
    "subscription", "customer", "status", "state", "items", "grace_until_ms", "is_ending",
    "allowances",
)  # fmt: skip


class PlanHandlers:
    """What is done at `/v1/plans`, and shown of an account's subscriptions."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def put(self, call: Call[PlanBody]) -> Response:
        """Make or change what a recurring price gives. What was granted stays as it was."""

        def work(c: Connection) -> dict[str, Any]:
            price, at_ms = call.path["stripe_price"], now_ms()
            before = plans.get_plan(c, price)
            after = plans.put_plan(c, price, set_fields(call.body), at_ms)
            if before is None or before | {"updated_ms": after["updated_ms"]} != after:
                record(c, call, "put_plan")
            return after

        row = self._ledger.run(work)
        return json_answer({column: row[column] for column in PLAN_COLUMNS})

    def list_page(self, call: Call[bytes]) -> Response:
        """Return a page of the plans."""
        limit, cursor = queries.limit(call.query), call.query.get("cursor")
        page = self._ledger.run(lambda c: plans.list_plans(c, limit, cursor))
        return page_answer(page, PLAN_COLUMNS, call.headers.get("accept"))

    def subscriptions(self, call: Call[bytes]) -> Response:
        """Return all subscriptions of an account, each with the allowances that it gave."""

        def work(c: Connection) -> list[dict[str, Any]]:
            if accounts.get_account(c, call.path["account"]) is None:
                raise account_not_found()
            return plan_reads.subscriptions_of(c, call.path["account"])

        page = Page(self._ledger.run(work), None)
        return page_answer(page, SUBSCRIPTION_COLUMNS, call.headers.get("accept"))
