"""Refunds: one row each, whose status only moves forward; credits go back in proportion."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, case, func, literal
from sqlalchemy.dialects.postgresql import insert

from persistence.money_tables import stripe_refunds as refunds
from sidecar.billing.applying import APPLIED, IGNORED, Applying, Handler, Outcome
from sidecar.billing.fields import currency_of, id_of, instant_ms, integer, one_of, optional_id
from sidecar.billing.settling import payment_of, settle

RANKS: Final = {"pending": 0, "requires_action": 1, "succeeded": 2, "failed": 3, "canceled": 3}
"""How far a refund has come. One that succeeded may still fail: the bank sends it back."""


def apply_refund(one: Applying) -> Outcome:
    """Apply what is said of a refund, to the payment that it is of."""
    payment, charge = _record(one)
    ours = payment_of(one.c, payment, charge)
    # One of a payment that is not known yet is kept: it counts when the payment comes.
    return Outcome(APPLIED) if ours is None else settle(one.c, ours, one.now_ms)


def apply_charge_refund(one: Applying) -> Outcome:
    """Apply `charge.refund.updated`, which is about a refund, for it has a status of its own."""
    return apply_refund(one) if one.subject.get("object") == "refund" else Outcome(IGNORED)


def _record(one: Applying) -> tuple[str | None, str | None]:
    """Keep a refund as it is said to be, unless more is known; return its payment and charge."""
    said = one.subject
    row = {
        "refund": id_of(said.get("id"), "its id"),
        "payment_intent": optional_id(said.get("payment_intent")),
        "charge": optional_id(said.get("charge")),
        "amount": integer(said.get("amount"), "amount", least=1),
        "currency": currency_of(said.get("currency")),
        "status": one_of(said.get("status"), frozenset(RANKS), "the refund's status"),
        "created_ms": instant_ms(said.get("created"), "created"),
        "updated_ms": one.now_ms,
    }
    new = insert(refunds).values(row)
    known = refunds.c
    kept = new.on_conflict_do_update(
        index_elements=["refund"],
        set_={
            "status": case(
                (_rank(new.excluded.status) > _rank(known.status), new.excluded.status),
                else_=known.status,
            ),
            "payment_intent": func.coalesce(known.payment_intent, new.excluded.payment_intent),
            "charge": func.coalesce(known.charge, new.excluded.charge),
            "updated_ms": new.excluded.updated_ms,
        },
    )
    found = one.c.execute(kept.returning(known.payment_intent, known.charge)).one()
    return found.payment_intent, found.charge


def _rank(status: ColumnElement[str]) -> ColumnElement[int]:
    return case(*((status == name, literal(rank)) for name, rank in RANKS.items()))


HANDLERS: Final[dict[str, Handler]] = {
    "refund.created": apply_refund,
    "refund.updated": apply_refund,
    "refund.failed": apply_refund,
    "charge.refund.updated": apply_charge_refund,
}
"""`charge.refunded` is stored only: its `amount_refunded` is cumulative."""
