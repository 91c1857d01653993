"""Auto top-up as people see and save it."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection
from starlette.responses import Response

from persistence import accounts
from persistence.database import now_ms
from sidecar.billing import auto_top_up_rows, auto_top_up_settings, offers, orders
from sidecar.billing.auto_top_up_plan import month_of
from sidecar.control.actions import record
from sidecar.control.decode import invalid, set_fields
from sidecar.control.ledger import Ledger, account_not_found
from sidecar.control.money_requests import AutoTopUpBody
from sidecar.control.resources import Call
from sidecar.web import json_answer

_ATTEMPTS: Final = 5

_NONE_YET: Final[dict[str, Any]] = {
    "is_enabled": False,
    "threshold": None,
    "amount": None,
    "monthly_cap": None,
    "paused_reason": None,
    "paused_ms": None,
    "declines": 0,
    "next_ms": 0,
}


class AutoTopUpHandlers:
    """What is done at an account's `/auto-top-up`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def put(self, call: Call[AutoTopUpBody]) -> Response:
        """Save the settings, which also ends a pause."""
        changes = set_fields(call.body)
        if "enabled" in changes:
            changes["is_enabled"] = bool(changes.pop("enabled"))

        def work(c: Connection) -> dict[str, Any]:
            account, at_ms = call.path["account"], now_ms()
            saved = auto_top_up_settings.put_auto_top_up(c, account, changes, at_ms)
            if saved["is_enabled"]:
                _require_for_sale(c, saved["amount"])
            record(c, call, "put_auto_top_up")
            return _shown(c, account, saved, at_ms)

        return json_answer(self._ledger.run(work))

    def get(self, call: Call[bytes]) -> Response:
        """Return the settings, why they are paused, this month's purchases, the last attempts."""

        def work(c: Connection) -> dict[str, Any]:
            account = call.path["account"]
            if accounts.get_account(c, account) is None:
                raise account_not_found()
            known = auto_top_up_settings.get_auto_top_up(c, account)
            return _shown(c, account, known or _NONE_YET, now_ms())

        return json_answer(self._ledger.run(work))


def _require_for_sale(c: Connection, amount: int) -> None:
    rate = offers.rate_for(c)
    if rate is None:
        raise invalid(
            "The price list has no active rate to buy at: make an offer with is_rate first.",
            "enabled",
        )
    orders.check_price(rate, rate.price_of(amount), "amount")


def _shown(c: Connection, account: str, known: dict[str, Any], at_ms: int) -> dict[str, Any]:
    return {
        "account": account,
        "enabled": known["is_enabled"],
        "threshold": known["threshold"],
        "amount": known["amount"],
        "monthly_cap": known["monthly_cap"],
        "paused_reason": known["paused_reason"],
        "paused_ms": known["paused_ms"],
        "declines": known["declines"],
        "next_ms": known["next_ms"] or None,
        "spent_this_month": auto_top_up_rows.bought(c, account, month_of(at_ms)),
        "in_flight": auto_top_up_rows.has_in_flight(c, account),
        "attempts": auto_top_up_settings.list_attempts(c, account, _ATTEMPTS),
    }
