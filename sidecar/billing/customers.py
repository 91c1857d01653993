"""Customers at Stripe: an account gets one when it first needs it, and only one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, Engine, select, update

from persistence import accounts
from persistence.accounts import AccountRow
from persistence.database import in_transaction, now_ms
from persistence.errors import AccountUnknown
from persistence.stripe_tables import stripe_events
from sidecar.billing.errors import StripeAway
from sidecar.billing.stripe_api import StripeApi

_WAITS_SECONDS: Final = (0.1, 0.2, 0.4, 0.8)

# Stripe keeps an answer for a day under its key, an error of its own too.
_KEY_MS: Final = 60_000


class Customers:
    """Finds and makes customers. Threads may share it."""

    def __init__(
        self, engine: Engine, stripe: StripeApi, *, now_ms: Callable[[], int] = now_ms
    ) -> None:
        self._engine = engine
        self._stripe = stripe
        self._now_ms = now_ms

    def of(self, account: str) -> str:
        """Return the customer of an account; it is made if there is none yet.

        Nothing is locked while Stripe is asked: the key, which is made of the account's name and
        the minute, lets calls at once end with one customer. One that was made and got lost on the
        way has nothing, and is left. Raises `AccountUnknown`, `StripeAway`, `StripeRefused` and
        `LedgerUnavailable`.
        """
        known = in_transaction(self._engine, lambda c: _row(c, account)).stripe_customer
        if known is not None:
            return known
        made = self._make(account)
        return in_transaction(self._engine, lambda c: _keep(c, account, made))

    def _make(self, account: str) -> str:
        # The same parameters each time, as the key demands: no name, for that may change.
        parameters = {"description": account, "metadata": {"account": account}}
        key = f"customer:{account}:{self._now_ms() // _KEY_MS}"
        for wait_s in _WAITS_SECONDS:
            try:
                return str(self._stripe.post("/v1/customers", parameters, key=key)["id"])
            except StripeAway as error:
                if not error.is_busy:
                    raise
            time.sleep(wait_s)
        return str(self._stripe.post("/v1/customers", parameters, key=key)["id"])


def no_account(customer: str) -> str:
    """Return the error of events that wait for the account of a customer."""
    return f"no account has the customer {customer}"


def wake_events(c: Connection, customer: str, now_ms: int) -> None:
    """Make the events due that failed for want of a customer's account, those given up too.

    One that a worker has just now may wait for the account, which the caller may hold: it is left.
    """
    known = stripe_events.c
    waiting = (
        select(known.id)
        .where(known.status.in_(("failed", "dead")), known.error == no_account(customer))
        .with_for_update(skip_locked=True)
    )
    due = update(stripe_events).where(known.id.in_(waiting))
    c.execute(due.values(status="pending", attempts=0, due_ms=now_ms, finished_ms=None))


def _row(c: Connection, account: str, *, for_update: bool = False) -> AccountRow:
    row = accounts.get_account(c, account, for_update=for_update)
    if row is None:
        raise AccountUnknown(account)
    return row


def _keep(c: Connection, account: str, customer: str) -> str:
    known = _row(c, account, for_update=True).stripe_customer
    if known is None:
        accounts.put_account(c, account, {"stripe_customer": customer})
    return known or customer
