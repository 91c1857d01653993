"""Sending auto top-ups: one charge an attempt, however often it has to be asked for.

That it is sent is committed before it is, and no transaction is held meanwhile. Without an answer
its outcome is unknown: the same parameters go out again under the same idempotency key, which
charges once, while Stripe keeps the key. After that it is only looked for.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, select

from persistence.database import in_transaction
from persistence.tables import accounts
from persistence.top_up_tables import auto_top_up_attempts as attempts
from sidecar.billing import auto_top_up_rows as rows
from sidecar.billing import declines
from sidecar.billing.auto_top_up_rows import Attempt, Setting
from sidecar.billing.declines import Decline
from sidecar.billing.errors import StripeAway, StripeRefused
from sidecar.billing.stripe_api import Object, StripeApi
from sidecar.domain import AccountStatus
from sidecar.metrics import MoneyMetrics

log: Final = logging.getLogger(__name__)

KEY_KEPT_MS: Final = 23 * 3_600_000
"""How long the same key may be sent: Stripe forgets it after a day, and would charge again."""

IN_THE_AIR_MS: Final = 30_000
"""How long one worker may wait for an answer before another one asks."""

SURELY_OVER_MS: Final = 600_000
"""After this long a request is not on its way any more: what is not found did not happen."""

_PAYMENTS: Final = "/v1/payment_intents"
_BATCH: Final = 20
_LOOKS_AFTER_TRIES: Final = 3
_CLOCKS_SECONDS: Final = 300  # Stripe's clock and ours may differ by this much
_BACK_OFF_MS: Final = (5_000, 30_000, 120_000, 600_000, 1_800_000)
_TAKES_MONEY: Final = ("succeeded", "processing")
_TAKES_NONE: Final = ("requires_payment_method", "requires_action", "requires_confirmation")


class Sender:
    """Sends the attempts that are due. Any number may run at once."""

    def __init__(
        self,
        engine: Engine,
        stripe: StripeApi,
        metrics: MoneyMetrics,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._stripe = stripe
        self._metrics = metrics
        self._now_ms = now_ms

    def run_once(self) -> int:
        """Send, or look for, the attempts that are due, at most 20; return how many."""
        with self._engine.connect() as c:
            due = list(c.scalars(_due(self._now_ms())))
        return sum(self._take_on(id) for id in due)

    def _take_on(self, id: str) -> bool:
        one = in_transaction(self._engine, lambda c: self._take(c, id))
        if one is None:
            return False
        if self._is_key_old(one):
            self._search(one)
        else:
            self._send(one)
        return True

    def _take(self, c: Connection, id: str) -> Attempt | None:
        """Mark an attempt as one whose outcome is unknown, which it is from here on."""
        now_ms = self._now_ms()
        account = c.scalar(select(attempts.c.account).where(attempts.c.id == id))
        setting = rows.lock_setting(c, str(account))
        one = rows.lock_attempt(c, id)
        if one is None or one.status not in ("pending", "unknown") or one.due_ms > now_ms:
            return None
        if one.status == "pending" and not _is_still_wanted(c, setting):
            error = "switched off before it was sent"
            rows.change_attempt(c, id, now_ms, status="canceled", error=error)
            self._count("canceled")
            return None
        tries = one.tries if self._is_key_old(one) else one.tries + 1
        first_try_ms = now_ms if one.first_try_ms is None else one.first_try_ms
        sent = dataclasses.replace(one, status="unknown", tries=tries, first_try_ms=first_try_ms)
        changes = {"status": sent.status, "tries": tries, "first_try_ms": first_try_ms}
        rows.change_attempt(c, id, now_ms, due_ms=now_ms + IN_THE_AIR_MS, **changes)
        return sent

    def _send(self, one: Attempt) -> None:
        try:
            payment = self._stripe.post(
                _PAYMENTS, json.loads(one.parameters), key=f"auto_top_up_{one.id}"
            )
        except StripeAway as error:
            self._stay_unknown(one, str(error))
        except StripeRefused as error:
            self._refused(one, error)
        else:
            self._record(one, payment)

    def _refused(self, one: Attempt, error: StripeRefused) -> None:
        if error.status == 402:
            self._decline(one, declines.of_refusal(error), error.payment_intent)
            return
        fields = {"attempt": one.id, "account": one.account, "error": str(error)}
        log.error("Stripe refuses an auto top-up, not its card", extra=fields)
        if one.tries == 1:
            self._fail(one, str(error))
        elif self._age_ms(one) < SURELY_OVER_MS:
            # A refusal of now says nothing of what an earlier request did.
            self._put_off(one, str(error))
        else:
            self._search(one)

    def _stay_unknown(self, one: Attempt, error: str) -> None:
        """Wait for the next try. Stripe repeats its failures for a key, so look for it, too."""
        if one.tries >= _LOOKS_AFTER_TRIES:
            try:
                payment = self._find(one)
            except (StripeAway, StripeRefused):
                payment = None
            if payment is not None:
                self._record(one, payment)
                return
        self._put_off(one, error)

    def _search(self, one: Attempt) -> None:
        """Look for the payment of an attempt that must not be sent again: it is there or not."""
        try:
            payment = self._find(one)
        except (StripeAway, StripeRefused) as error:
            fields = {"attempt": one.id, "account": one.account, "error": str(error)}
            log.warning("cannot look for an auto top-up whose outcome is unknown", extra=fields)
            self._put_off(one, str(error))
            return
        if payment is None:
            self._fail(one, "nothing came of it: Stripe has no such payment")
        else:
            self._record(one, payment)

    def _find(self, one: Attempt) -> Object | None:
        customer = json.loads(one.parameters)["customer"]
        first = (one.first_try_ms or one.created_ms) // 1000
        since = {"gte": first - _CLOCKS_SECONDS}
        try:
            found = self._listed(one, customer=customer, created=since)
        except StripeRefused as error:
            if error.code != "resource_missing":
                raise
            # Customers can be deleted, and their payments are still there.
            until = {"lte": first + KEY_KEPT_MS // 1000 + _CLOCKS_SECONDS}
            found = self._listed(one, created=since | until)
        return found

    def _listed(self, one: Attempt, **filters: Any) -> Object | None:
        for payment in self._stripe.every(_PAYMENTS, **filters):
            if (payment.get("metadata") or {}).get("order_id") == one.order_id:
                return payment
        return None

    def _record(self, one: Attempt, payment: Object) -> None:
        """Write down what became of a payment. Its credits come by the event that tells of it."""
        status, id = payment.get("status"), str(payment.get("id"))
        if status in _TAKES_MONEY:
            self._finish(one, "charged", lambda c, now_ms: _charged(c, one, id, now_ms))
        elif status in _TAKES_NONE:
            self._decline(one, declines.of_payment(payment), id)
        elif status == "canceled":
            self._fail(one, "the payment was canceled", "canceled")
        else:
            fields = {"attempt": one.id, "payment_intent": id, "status": ascii(status)}
            log.error("an auto top-up has a status that is not known here", extra=fields)
            self._put_off(one, f"its status is {status!a}")

    def _decline(self, one: Attempt, why: Decline, payment: str | None) -> None:
        def write(c: Connection, now_ms: int) -> None:
            rows.decline(c, one, why, now_ms, payment_intent=payment)

        self._finish(one, "declined", write)

    def _fail(self, one: Attempt, error: str, status: str = "failed") -> None:
        self._finish(one, status, lambda c, now: rows.fail(c, one, error, now, status=status))

    def _put_off(self, one: Attempt, error: str) -> None:
        delay_ms = _BACK_OFF_MS[min(max(one.tries, 1), len(_BACK_OFF_MS)) - 1]

        def write(c: Connection, now_ms: int) -> None:
            rows.change_attempt(c, one.id, now_ms, error=error[:500], due_ms=now_ms + delay_ms)

        self._finish(one, "unknown", write)

    def _finish(self, one: Attempt, outcome: str, write: Callable[[Connection, int], None]) -> None:
        """Write an outcome, unless an event told of it before, or another worker."""

        def finish(c: Connection) -> bool:
            rows.lock_setting(c, one.account)
            now = rows.lock_attempt(c, one.id)
            if now is None or now.status != "unknown":
                return False
            if outcome in ("failed", "unknown") and now.tries != one.tries:
                return False  # it was sent again meanwhile: that answer counts
            write(c, self._now_ms())
            return True

        if in_transaction(self._engine, finish):
            self._count(outcome)
            fields = {"attempt": one.id, "account": one.account, "outcome": outcome}
            log.info("tried an auto top-up", extra=fields)

    def _is_key_old(self, one: Attempt) -> bool:
        return self._age_ms(one) >= KEY_KEPT_MS

    def _age_ms(self, one: Attempt) -> int:
        return 0 if one.first_try_ms is None else self._now_ms() - one.first_try_ms

    def _count(self, outcome: str) -> None:
        self._metrics.auto_top_ups.labels(outcome).inc()


def _due(now_ms: int) -> Select[str]:
    is_open = attempts.c.status.in_(("pending", "unknown"))
    query = select(attempts.c.id).where(is_open, attempts.c.due_ms <= now_ms)
    return query.order_by(attempts.c.due_ms).limit(_BATCH)


def _is_still_wanted(c: Connection, setting: Setting | None) -> bool:
    if setting is None or not setting.is_enabled or setting.paused_reason is not None:
        return False
    status = c.scalar(select(accounts.c.status).where(accounts.c.account == setting.account))
    return status not in (AccountStatus.SUSPENDED.value, AccountStatus.CLOSED.value)


def _charged(c: Connection, one: Attempt, payment: str, now_ms: int) -> None:
    values = {"status": "charged", "payment_intent": payment, "error": None}
    rows.change_attempt(c, one.id, now_ms, **values)
