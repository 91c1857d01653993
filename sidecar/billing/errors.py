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
