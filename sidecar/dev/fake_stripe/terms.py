"""What a new subscription is to be, as a request or a Checkout session says."""

from __future__ import annotations

from dataclasses import dataclass, field

from sidecar.dev.fake_stripe import discounts
from sidecar.dev.fake_stripe.clock import DAY
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.forms import Form
from sidecar.dev.fake_stripe.items import Wish
from sidecar.dev.fake_stripe.state import Object, State

MISSING_METHOD = ("create_invoice", "pause", "cancel")


@dataclass(slots=True)
class Terms:
    """A subscription that is not there yet; the trial ends at an instant, or after some days."""

    items: list[Wish] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    coupons: list[Object] = field(default_factory=list)
    description: str | None = None
    method: str | None = None
    trial_end: int | None = None
    trial_days: int | None = None
    missing_method: str = MISSING_METHOD[0]
    payment_behavior: str = "allow_incomplete"
    cancel_at_period_end: bool = False
    cancel_at: int | None = None

    def trial_end_at(self, now: int) -> int | None:
        """Return when the trial ends; None without one."""
        if self.trial_days:
            return now + self.trial_days * DAY
        return self.trial_end if self.trial_end and self.trial_end > now else None


def take(state: State, form: Form) -> Terms:
    """Take what subscriptions and Checkout's `subscription_data` have in common."""
    return Terms(
        metadata=form.metadata(),
        description=form.text("description"),
        trial_end=trial_end(state, form),
        trial_days=form.integer("trial_period_days", least=1),
        missing_method=missing_method(form) or MISSING_METHOD[0],
        coupons=discounts.take(state, form) or [],
    )


def trial_end(state: State, form: Form) -> int | None:
    """Take `trial_end`, an instant or `now`. Raises `StripeFailure` for one in the past."""
    if form.peek("trial_end") == "now":
        form.ignore("trial_end")
        return state.now()
    end = form.integer("trial_end")
    if end is not None and end <= state.now():
        raise StripeFailure(
            "Invalid timestamp: must be an integer Unix timestamp in the future.",
            param="trial_end",
        )
    return end


def missing_method(form: Form) -> str | None:
    """Take what happens when a trial ends without a payment method."""
    settings = form.part("trial_settings")
    end = settings.part("end_behavior")
    given = end.choice("missing_payment_method", *MISSING_METHOD) if not end.is_empty else None
    end.finish()
    settings.finish()
    return given
