"""What applying a Stripe event works with, and what can become of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from sidecar.billing.errors import EventNotUnderstood, StripeAway
from sidecar.billing.stripe_api import StripeApi

APPLIED: Final = "applied"
IGNORED: Final = "ignored"
FAILED: Final = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event.

    `waits_for_account` names an account that has to be made first. `is_free`: the attempt does not
    count, for the event is not at fault (Stripe is away, or refuses our key).
    """

    status: str
    error: str | None = None
    waits_for_account: str | None = None
    is_free: bool = False


@dataclass(frozen=True, slots=True)
class Applying:
    """One event on its way into the ledger, in the transaction of its effect.

    `subject` is the object that it is about, as it was then, `previous` what changed of it, as it
    was before. `now_ms` is the worker's clock, `received_ms` when the event arrived.
    `takes_metadata_top_ups`: a payment may say by itself what it buys, without an order of ours.
    `is_stripe_away`: it gave no answer a moment ago, and is not asked.
    """

    c: Connection
    stripe: StripeApi | None
    type: str
    subject: dict[str, Any]
    previous: dict[str, Any]
    livemode: bool
    received_ms: int
    now_ms: int
    takes_metadata_top_ups: bool = True
    is_stripe_away: bool = False

    @property
    def api(self) -> StripeApi:
        """The Stripe API.

        Raises `EventNotUnderstood` when no secret key is configured, `StripeAway` when it is away.
        """
        if self.stripe is None:
            raise EventNotUnderstood(
                "CREDITS_STRIPE_SECRET_KEY is not set, so Stripe can't be asked"
            )
        if self.is_stripe_away:
            raise StripeAway("Stripe gave no answer a moment ago")
        return self.stripe


Handler = Callable[[Applying], Outcome]
"""Applies the events of some types. Raises `EventNotUnderstood`, `StripeAway`, `StripeRefused`."""
