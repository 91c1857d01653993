"""`expand[]`: ids in an answer become the objects that they name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.lists import whole
from sidecar.dev.fake_stripe.state import Object, State, public

_DEPTH: Final = 4


def expand(state: State, answer: Any, paths: list[str]) -> Any:
    """Return the answer with what the paths name in full. Raises `StripeFailure`."""
    for path in paths:
        steps = path.split(".")
        if len(steps) > _DEPTH:
            raise _refusal(path)
        answer = _expand(state, answer, steps, path)
    return answer


def _expand(state: State, value: Any, steps: list[str], path: str) -> Any:
    if isinstance(value, list):
        return [_expand(state, each, steps, path) for each in value]
    if not steps or value is None:
        return value
    if not isinstance(value, dict):
        raise _refusal(path)
    step, rest = steps[0], steps[1:]
    include = _INCLUDED.get((value.get("object", ""), step))
    if include is None and step not in value:
        raise _refusal(path)
    inner = public(include(state, value)) if include else _named(state, value[step])
    return value | {step: _expand(state, inner, rest, path)}


def _named(state: State, value: Any) -> Any:
    if isinstance(value, list):
        return [_named(state, each) for each in value]
    if isinstance(value, str) and value in state.objects:
        return public(state.objects[value])
    return value


def _refusal(path: str) -> StripeFailure:
    return StripeFailure(f"This property cannot be expanded ({path}).", param="expand")


def _refunds(state: State, charge: Object) -> Object:
    found = [*state.all("refund", charge=charge["id"])][::-1]
    return whole(f"/v1/charges/{charge['id']}/refunds", found[:10], len(found) > 10)


def _payments(state: State, invoice: Object) -> Object:
    found = [*state.all("invoice_payment", invoice=invoice["id"])][::-1]
    return whole(f"/v1/invoice_payments?invoice={invoice['id']}", found)


def _secret(state: State, invoice: Object) -> Object:
    payment = state.objects.get(state.objects[invoice["id"]]["_payment_intent"] or "", {})
    return {"client_secret": payment.get("client_secret"), "type": "payment_intent"}


def _line_items(state: State, session: Object) -> Object:
    url = f"/v1/checkout/sessions/{session['id']}/line_items"
    return whole(url, state.objects[session["id"]]["_line_items"])


_INCLUDED: Final[dict[tuple[str, str], Callable[[State, Object], Object]]] = {
    ("charge", "refunds"): _refunds,
    ("invoice", "payments"): _payments,
    ("invoice", "confirmation_secret"): _secret,
    ("checkout.session", "line_items"): _line_items,
}
