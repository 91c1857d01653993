"""The balance: an entry for each time money comes or goes, with its fee."""

from __future__ import annotations

from typing import Final

from sidecar.dev.fake_stripe.shapes import payments as shapes
from sidecar.dev.fake_stripe.state import Object, State, by_itself

DISPUTE_FEE: Final = 1_500


def fee_of(amount: int) -> int:
    """Return what Stripe takes of a payment: 2.9 % and 30 minor units, rounded half up."""
    return (amount * 29 + 500) // 1_000 + 30


def book_later(state: State, charge: Object) -> None:
    """Book a charge a moment later, and tell of it with `charge.updated`."""

    def book() -> None:
        amount = charge["amount_captured"]
        entry = _add(state, charge, "charge", amount, fee_of(amount), "charge")
        fields = {"balance_transaction": entry["id"]}
        state.change(charge, "charge.updated", by_itself(charge), **fields)

    state.clock.at(state.now() + state.settings.fee_seconds, book)


def book_refund(state: State, refund: Object) -> str:
    """Book what a refund takes, and return the entry's id."""
    return str(_add(state, refund, "refund", -refund["amount"], 0, "refund")["id"])


def book_failed_refund(state: State, refund: Object) -> str:
    """Book that what a refund took came back, and return the entry's id."""
    entry = _add(state, refund, "refund_failure", refund["amount"], 0, "refund_failure")
    return str(entry["id"])


def book_dispute(state: State, dispute: Object, *, is_withdrawn: bool) -> Object:
    """Book that a dispute takes its amount and a fee, or gives the amount back."""
    if is_withdrawn:
        return _add(state, dispute, "adjustment", -dispute["amount"], DISPUTE_FEE, "dispute")
    return _add(state, dispute, "adjustment", dispute["amount"], 0, "dispute_reversal")


def _add(state: State, source: Object, kind: str, amount: int, fee: int, category: str) -> Object:
    return state.add(shapes.balance_transaction(state, source, kind, amount, fee, category))
