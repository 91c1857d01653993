"""The billing portal: where customers change their card or end a subscription."""

from __future__ import annotations

from sidecar.dev.fake_stripe import cards, customers, lifecycle
from sidecar.dev.fake_stripe.call import Call
from sidecar.dev.fake_stripe.items import next_boundary
from sidecar.dev.fake_stripe.shapes import checkout as shapes
from sidecar.dev.fake_stripe.state import Object, State, by_itself


def create(call: Call) -> Object:
    """Make a session of the portal for a customer."""
    form, state = call.form, call.state
    customer = state.get("customer", form.required("customer"), "customer")
    fields = {"customer": customer["id"], "return_url": form.text("return_url")}
    fields["locale"] = form.text("locale")
    form.ignore("configuration", "flow_data", "on_behalf_of")
    form.finish()
    return state.add(shapes.portal_session(state, call.url_base, call.cause, **fields))


def change_card(state: State, customer: str, card: str) -> Object:
    """Attach a card to a customer and pay with it from now on. Raises `StripeFailure`."""
    cause = by_itself(state.get("customer", customer))
    method = cards.named(state, card, cause, "payment_method")
    cards.attach_to(state, method, customer, cause)
    customers.make_default(state, method, cause)
    for subscription in state.all("subscription", customer=customer):
        if subscription["status"] in lifecycle.LIVE and subscription["default_payment_method"]:
            kind = "customer.subscription.updated"
            state.change(subscription, kind, cause, default_payment_method=method["id"])
    return method


def end_with_period(state: State, subscription: Object) -> Object:
    """Let a subscription end with its period, as the portal's button does."""
    state.change(
        subscription,
        "customer.subscription.updated",
        by_itself(subscription),
        cancel_at=next_boundary(subscription),
        cancel_at_period_end=True,
        canceled_at=state.now(),
    )
    return subscription
