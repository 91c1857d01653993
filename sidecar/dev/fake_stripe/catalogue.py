"""What is sold: products, prices, coupons."""

from __future__ import annotations

from typing import Any, Final

from sidecar.dev.fake_stripe.call import Call
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.forms import Form
from sidecar.dev.fake_stripe.shapes import catalogue as shapes
from sidecar.dev.fake_stripe.state import Cause, Object, State

INTERVALS: Final = ("month", "year", "week", "day")


def create_product(call: Call) -> Object:
    """Make a product, under an id of the caller's own if one is given."""
    form = call.form
    fields: dict[str, Any] = {"name": form.required("name"), "metadata": form.metadata()}
    fields |= {"description": form.text("description")}
    id = form.text("id")
    form.ignore("active", "images", "tax_code", "unit_label", "url")
    form.finish()
    if id is not None:
        _require_new(call.state, id, "Product")
        fields["id"] = id
    product = call.state.add(shapes.product(call.state, call.cause, **fields))
    call.state.emit("product.created", product, call.cause)
    return product


def create_price(call: Call) -> Object:
    """Make a price of a product, which may be made with it."""
    form, state = call.form, call.state
    currency = form.required("currency").lower()
    fields: dict[str, Any] = {name: form.text(name) for name in ("nickname", "lookup_key")}
    fields["metadata"] = form.metadata()
    form.ignore("active", "billing_scheme", "tax_behavior", "transfer_lookup_key")
    price = _price(state, form, currency, call.cause, fields)
    form.finish()
    state.add(price)
    state.emit("price.created", price, call.cause)
    return price


def price_of(state: State, form: Form, cause: Cause) -> Object:
    """Take `price`, or a price made with `price_data`. Raises `StripeFailure`."""
    id = form.text("price")
    if id is not None:
        return state.get("price", id, form.name_of("price"))
    data = form.part("price_data")
    price = _price(state, data, data.required("currency").lower(), cause, {"active": False})
    data.ignore("tax_behavior")
    data.finish()
    return state.add(price)


def create_coupon(call: Call) -> Object:
    """Make a coupon: a share or an amount off, once, for some months, or for ever."""
    form = call.form
    fields: dict[str, Any] = {
        "amount_off": form.integer("amount_off", least=1),
        "percent_off": form.decimal("percent_off"),
        "currency": form.text("currency"),
        "duration": form.choice("duration", "once", "forever", "repeating"),
        "duration_in_months": form.integer("duration_in_months", least=1),
        "name": form.text("name"),
        "metadata": form.metadata(),
    }
    id = form.text("id")
    form.finish()
    if (fields["amount_off"] is None) == (fields["percent_off"] is None):
        raise StripeFailure("Give either amount_off or percent_off.", param="percent_off")
    if id is not None:
        _require_new(call.state, id, "Coupon")
        fields["id"] = id
    coupon = call.state.add(shapes.coupon(call.state, call.cause, **fields))
    call.state.emit("coupon.created", coupon, call.cause)
    return coupon


def _price(state: State, form: Form, currency: str, cause: Cause, fields: dict[str, Any]) -> Object:
    amount = form.integer("unit_amount")
    if amount is None:
        form.required("unit_amount")
    if form.has("recurring"):
        recurring = form.part("recurring")
        count = recurring.integer("interval_count", least=1) or 1
        fields["recurring"] = shapes.recurring(recurring.choice("interval", *INTERVALS), count)
        fields["type"] = "recurring"
        recurring.ignore("usage_type")
        recurring.finish()
    fields["product"] = _product(state, form, cause)
    return shapes.price(state, amount or 0, currency, cause, **fields)


def _product(state: State, form: Form, cause: Cause) -> str:
    id = form.text("product")
    if id is not None:
        return str(state.get("product", id, form.name_of("product"))["id"])
    data = form.part("product_data")
    name, description = data.required("name"), data.text("description")
    metadata = data.metadata()
    data.ignore("images", "tax_code", "unit_label")
    data.finish()
    fields = {"name": name, "description": description, "metadata": metadata}
    return str(state.add(shapes.product(state, cause, **fields))["id"])


def _require_new(state: State, id: str, what: str) -> None:
    if id in state.objects:
        raise StripeFailure(f"{what} already exists.", code="resource_already_exists", param="id")
