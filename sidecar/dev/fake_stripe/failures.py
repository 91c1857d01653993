"""What the fake refuses, in the shape of Stripe's errors."""

from __future__ import annotations

from typing import Any

from sidecar.errors import CreditsError


class StripeFailure(CreditsError):
    """Raised when a request fails; `fields` go into the error object beside the message.

    `is_kept` tells whether the answer belongs to the request's idempotency key: a failed attempt
    does, a request that was never tried does not.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        is_kept: bool = False,
        **fields: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.is_kept = is_kept
        self.error = {"type": kind, "message": message} | fields


def missing(kind: str, id: str, param: str = "id") -> StripeFailure:
    """Return the failure of an object that is not there: 404 for the path's, else 400."""
    return StripeFailure(
        f"No such {kind}: '{id}'",
        status=404 if param == "id" else 400,
        code="resource_missing",
        param=param,
    )


def server_error() -> StripeFailure:
    """Return Stripe's answer when it broke."""
    return StripeFailure("An unknown error occurred", status=500, kind="api_error", is_kept=True)
