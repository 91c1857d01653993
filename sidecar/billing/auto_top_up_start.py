"""Starting auto top-ups: whoever is due is looked at, and an attempt is written if need be.

Nothing is charged here. The order and the attempt, with all that will be sent, are committed first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from persistence import accounts
from persistence.accounts import AccountRow
from persistence.database import in_transaction
from persistence.errors import TotalExceeded
from sidecar.billing import auto_top_up_rows as rows
from sidecar.billing.alerts import AlertKind, raise_alert
from sidecar.billing.auto_top_up_card import find_card
from sidecar.billing.auto_top_up_hooks import open_claim
from sidecar.billing.auto_top_up_order import parameters_of, write_order
from sidecar.billing.auto_top_up_plan import Month, credits_to_buy, month_of
from sidecar.billing.auto_top_up_rows import INTERVAL_MS, Setting
from sidecar.billing.errors import StripeAway, StripeRefused
from sidecar.billing.stripe_api import StripeApi
from sidecar.billing.watch_standing import Standing, Standings
from sidecar.domain import MAX_AMOUNT, AccountStatus
from sidecar.errors import Refusal
from sidecar.metrics import MoneyMetrics

log: Final = logging.getLogger(__name__)

CLAIM_MS: Final = 30_000
"""How long one worker looks at an account before another one may."""

_BATCH: Final = 20
_STOPPED: Final = (AccountStatus.SUSPENDED, AccountStatus.CLOSED)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was found out before anything was locked.

    `customer` and `card` are empty when there is none; `is_asked` tells whether Stripe was asked.
    """

    standing: Standing
    customer: str = ""
    card: str = ""
    is_asked: bool = False


class Starter:
    """Starts the auto top-ups that are due. Any number may run at once."""

    def __init__(
        self,
        engine: Engine,
        stripe: StripeApi,
        standings: Standings,
        metrics: MoneyMetrics,
        *,
        now_ms: Callable[[], int],
        interval_ms: int = INTERVAL_MS,
    ) -> None:
        self._engine = engine
        self._stripe = stripe
        self._standings = standings
        self._metrics = metrics
        self._now_ms = now_ms
        self._interval_ms = interval_ms

    def run_once(self) -> int:
        """Look at the accounts that are due, at most 20; return how many."""
        for count in range(_BATCH):
            # One by one: a claim that waits behind slow calls to Stripe would end too early.
            claimed = in_transaction(self._engine, self._claim)
            if claimed is None:
                return count
            try:
                self._look_at(claimed)
            except StripeAway as error:
                # The claim ends by itself, and then it is tried again.
                log.warning("Stripe does not name a card", extra={"error": str(error)})
                return count + 1
        return _BATCH

    def _claim(self, c: Connection) -> Setting | None:
        return rows.claim_due(c, self._now_ms(), CLAIM_MS)

    def _look_at(self, claimed: Setting) -> None:
        standing = self._standings.of([claimed.account]).get(claimed.account)
        if standing is None:
            return
        seen = _Seen(standing)
        try:
            if self._is_wanted(claimed, standing):
                seen = self._ask(claimed.account, standing)
            outcome = in_transaction(self._engine, lambda c: self._decide(c, claimed, seen))
        except (StripeRefused, Refusal) as error:
            self._fail(claimed.account, str(error))
            return
        if outcome is not None:
            self._metrics.auto_top_ups.labels(outcome).inc()

    def _is_wanted(self, setting: Setting, standing: Standing) -> bool:
        """Tell whether it is worth asking Stripe; what counts is asked again under the lock."""
        is_on = setting.is_enabled and setting.paused_reason is None
        is_time = setting.next_ms <= self._now_ms()
        return is_on and is_time and standing.available < setting.threshold

    def _ask(self, account: str, standing: Standing) -> _Seen:
        with self._engine.connect() as c:
            row = accounts.get_account(c, account)
        customer = row.stripe_customer if row is not None else None
        card = find_card(self._stripe, customer) if customer else None
        return _Seen(standing, customer or "", card or "", is_asked=True)

    def _fail(self, account: str, error: str) -> None:
        """Wait, for we cannot charge: the price list or the key is wrong, not the card."""
        now_ms = self._now_ms()
        fields = {"account": account, "error": error}
        log.error("an auto top-up cannot be started", extra=fields)
        self._metrics.auto_top_ups.labels("failed").inc()

        def wait(c: Connection) -> None:
            setting = rows.lock_setting(c, account)
            if setting is not None:
                rows.wait_after_failure(c, setting, now_ms)

        in_transaction(self._engine, wait)

    def _decide(self, c: Connection, claimed: Setting, seen: _Seen) -> str | None:
        """Do what is to be done about one account; return what was, or None: nothing."""
        now_ms, account = self._now_ms(), accounts.get_account(c, claimed.account, for_update=True)
        setting = rows.lock_setting(c, claimed.account)
        if account is None or setting is None:
            return None
        rest_ms = self._rest_ms(c, account, setting, seen.standing, now_ms)
        if rest_ms is not None:
            rows.change_setting(c, account.account, now_ms, due_ms=rest_ms or None)
            return None
        claim = open_claim(c, setting)
        if claim is not None:
            rows.pause(c, setting, claim, now_ms)
            return "paused"
        if not _is_as_seen(account, claimed, setting, seen):
            rows.change_setting(c, account.account, now_ms, due_ms=now_ms)
            return None
        if not seen.card:
            rows.pause(c, setting, "no_card", now_ms)
            return "paused"
        return _begin(c, account, setting, seen, now_ms)

    def _rest_ms(
        self, c: Connection, account: AccountRow, setting: Setting, standing: Standing, now_ms: int
    ) -> int | None:
        """Return until when nothing is to be done, 0: until a hint comes; None: now it is."""
        if not setting.is_enabled or setting.paused_reason or account.status in _STOPPED:
            return 0
        if standing.available >= setting.threshold or rows.has_in_flight(c, setting.account):
            return 0
        next_ms = max(setting.next_ms, rows.last_begun_ms(c, setting.account) + self._interval_ms)
        return next_ms if next_ms > now_ms else None


def _is_as_seen(account: AccountRow, claimed: Setting, setting: Setting, seen: _Seen) -> bool:
    """Tell whether what was found out still counts: no credits came, no other card or wish."""
    return (
        seen.is_asked
        and account.granted_total == seen.standing.granted_total
        and (account.stripe_customer or "") == seen.customer
        and setting.resumed_ms == claimed.resumed_ms
    )


def _begin(c: Connection, account: AccountRow, setting: Setting, seen: _Seen, now_ms: int) -> str:
    month = month_of(now_ms)
    left = None
    if setting.monthly_cap is not None:
        left = setting.monthly_cap - rows.bought(c, setting.account, month)
    credits = credits_to_buy(seen.standing.available, setting.threshold, setting.amount, left)
    if not credits:
        _stop_for_the_month(c, setting, month, now_ms)
        return "capped"
    if account.granted_total + credits > MAX_AMOUNT:
        raise TotalExceeded(account.account)
    try:
        with c.begin_nested():
            order = write_order(c, account.account, credits, now_ms)
            parameters = parameters_of(order, seen.customer, seen.card)
            rows.add_attempt(c, account.account, order.id, parameters, now_ms)
    except IntegrityError:
        # Another one is in flight, whatever we believed: the index has the last word.
        rows.change_setting(c, account.account, now_ms, due_ms=None)
        return "overtaken"
    rows.change_setting(c, account.account, now_ms, due_ms=None)
    return "started"


def _stop_for_the_month(c: Connection, setting: Setting, month: Month, now_ms: int) -> None:
    rows.change_setting(c, setting.account, now_ms, next_ms=month.end_ms, due_ms=month.end_ms)
    data = {"reason": "monthly_cap", "monthly_cap": setting.monthly_cap, "until_ms": month.end_ms}
    raise_alert(
        c,
        AlertKind.AUTO_TOP_UP_PAUSED,
        setting.account,
        data,
        key=f"monthly_cap:{month.name}",
        now_ms=now_ms,
    )
