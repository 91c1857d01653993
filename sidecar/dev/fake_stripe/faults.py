"""Faults: what goes wrong with the next requests that match, told through the control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sidecar.dev.fake_stripe.cards import declining
from sidecar.dev.fake_stripe.failures import StripeFailure, server_error
from sidecar.dev.fake_stripe.state import Bank

KINDS: Final = (
    "error_before",
    "error_after",
    "timeout_after",
    "conflict",
    "rate_limit",
    "decline",
    "drop",
)

FOREVER: Final = 10**9


@dataclass(slots=True)
class Fault:
    """One thing that goes wrong with the next `count` requests of a method and a path's begin.

    After `timeout_after` nothing is answered for `seconds`; with `is_in_use` the idempotency key
    stays in use until then.
    """

    kind: str
    method: str | None = None
    path: str = "/v1/"
    count: int = 1
    seconds: float = 30.0
    is_in_use: bool = False
    decline_code: str = "generic_decline"
    advice_code: str | None = None

    def matches(self, method: str, path: str) -> bool:
        """Return whether a request meets this fault."""
        return self.count > 0 and self.method in (None, method) and path.startswith(self.path)

    def refusal(self) -> StripeFailure | None:
        """Return the answer instead of any effect; None if the request takes its course."""
        if self.kind == "error_before":
            failure = server_error()
            failure.is_kept = False
            return failure
        if self.kind == "conflict":
            return StripeFailure(
                "This object cannot be accessed right now because another API request or Stripe "
                "process is currently accessing it.",
                status=409,
                code="lock_timeout",
            )
        if self.kind == "rate_limit":
            return StripeFailure("Too many requests.", status=429, code="rate_limit")
        return None

    def bank(self) -> Bank | None:
        """Return what every bank answers to the request, if that is the fault."""
        return declining(self.decline_code, self.advice_code) if self.kind == "decline" else None


class Faults:
    """The faults that are still to happen; the oldest one that matches a request happens."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fields: dict[str, Any]) -> Fault:
        """Plan a fault. Raises `StripeFailure` for a kind that does not exist."""
        if fields.get("kind") not in KINDS:
            raise StripeFailure(f"A fault is one of {', '.join(KINDS)}.", param="kind")
        fault = Fault(**fields)
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Plan nothing any more."""
        self._faults.clear()

    def next(self, method: str, path: str) -> Fault | None:
        """Return the fault that a request meets, and count it."""
        for fault in self._faults:
            if fault.matches(method, path):
                fault.count -= 1
                return fault
        return None
