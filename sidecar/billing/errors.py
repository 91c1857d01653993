"""What can be wrong with what Stripe sent."""

from __future__ import annotations

from sidecar.errors import CreditsError


class DeliveryRefused(CreditsError):
    """Raised when a webhook delivery is not to be stored; `outcome` says why, for the counter."""

    def __init__(self, outcome: str, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = message


class EventNotUnderstood(CreditsError):
    """Raised when an event is one of ours, but does not say clearly what to do."""


class StripeAway(CreditsError):
    """Raised when Stripe gave no answer, failed or was busy: what it did is unknown.

    `is_busy`: another request with the same key or on the same object runs just now.
    """

    def __init__(self, message: str, *, is_busy: bool = False) -> None:
        super().__init__(message)
        self.is_busy = is_busy


class StripeRefused(CreditsError):
    """Raised when Stripe refused a request: nothing was done, and the same again is refused too.

    `status` is HTTP's, `kind` the error's type; a bank's refusal (402) has its `decline_code`, and
    the PaymentIntent that was tried.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        kind: str | None = None,
        code: str | None = None,
        decline_code: str | None = None,
        advice_code: str | None = None,
        payment_intent: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.decline_code = decline_code
        self.advice_code = advice_code
        self.payment_intent = payment_intent

    @property
    def is_missing(self) -> bool:
        """Whether Stripe has no such object."""
        return self.status == 404

    @property
    def is_of_key(self) -> bool:
        """Whether our secret key is at fault, whatever was asked."""
        return self.status in (401, 403)
