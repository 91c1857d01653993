"""New cards: they end the pause of an auto top-up that the old one caused."""

from __future__ import annotations

from typing import Final

from sidecar.billing import auto_top_up_hooks
from sidecar.billing.applying import APPLIED, IGNORED, Applying, Handler, Outcome
from sidecar.billing.fields import id_of, optional_id

_DEFAULTS: Final = ("invoice_settings", "default_source")


def apply_payment_method(one: Applying) -> Outcome:
    """Apply a card that was attached, or that its bank renewed."""
    customer = optional_id(one.subject.get("customer"))
    if customer is None:
        return Outcome(IGNORED)
    auto_top_up_hooks.on_new_card(one.c, customer, one.now_ms)
    return Outcome(APPLIED)


def apply_customer(one: Applying) -> Outcome:
    """Apply a customer who has another default card now."""
    if not any(name in one.previous for name in _DEFAULTS):
        return Outcome(IGNORED)
    auto_top_up_hooks.on_new_card(one.c, id_of(one.subject.get("id"), "its id"), one.now_ms)
    return Outcome(APPLIED)


HANDLERS: Final[dict[str, Handler]] = {
    "payment_method.attached": apply_payment_method,
    "payment_method.automatically_updated": apply_payment_method,
    "customer.updated": apply_customer,
}
