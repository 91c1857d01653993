"""What the buttons of the fake's page do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sidecar.dev.fake_stripe import cards, charges, control, disputes, lifecycle, payments, refunds
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.forms import Form
from sidecar.dev.fake_stripe.state import Bank, Object, State, by_itself


def press(state: State, action: str, form: Form) -> None:
    """Do what a button says. Raises `StripeFailure` when it cannot be done."""
    if action not in _BUTTONS:
        raise StripeFailure(f"There is no button {action}.", status=404)
    _BUTTONS[action](state, form)


def _advance(state: State, form: Form) -> None:
    state.clock.advance(form.integer("seconds") or 0)


def _fail(state: State, form: Form) -> None:
    method = state.get("payment_method", form.required("card"))
    method["_bank"] = cards.declining("insufficient_funds")


def _mend(state: State, form: Form) -> None:
    state.get("payment_method", form.required("card"))["_bank"] = Bank()


def _cancel(state: State, form: Form) -> None:
    subscription = state.get("subscription", form.required("subscription"))
    if subscription["status"] in ("canceled", "incomplete_expired"):
        raise StripeFailure("It has ended already.")
    lifecycle.cancel(state, subscription, by_itself(subscription))


def _settle(state: State, form: Form) -> None:
    payments.settle(state, _payment(state, form), is_paid=form.text("paid") == "yes")


def _authenticate(state: State, form: Form) -> None:
    payments.authenticate(state, _payment(state, form))


def _refund(state: State, form: Form) -> None:
    charge = charges.of_payment(state, None, form.required("payment"))
    left = charge["amount_captured"] - charge["amount_refunded"]
    refunds.require_left(state, charge, left, None)
    amount = (left + 1) // 2 if form.text("part") == "half" else left
    refunds.begin(state, charge, amount, by_itself(charge))


def _dispute(state: State, form: Form) -> None:
    charge = charges.of_payment(state, None, form.required("payment"))
    disputes.begin(state, charge, form.required("kind"), None, "fraudulent")


def _step(state: State, form: Form) -> None:
    control.step_dispute(state, form.required("dispute"), form.required("step"))


def _payment(state: State, form: Form) -> Object:
    return state.get("payment_intent", form.required("payment"))


_BUTTONS: Final[dict[str, Callable[[State, Form], None]]] = {
    "advance": _advance,
    "authenticate": _authenticate,
    "cancel": _cancel,
    "dispute": _dispute,
    "dispute-step": _step,
    "fail": _fail,
    "mend": _mend,
    "refund": _refund,
    "settle": _settle,
}
