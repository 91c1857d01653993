"""The fake's own control, JSON under `/_fake/`: what Stripe, banks and time would do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Final

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sidecar.dev.fake_stripe import cards, charges, checkout, disputes, payments, refunds, renewals
from sidecar.dev.fake_stripe.delivery import Delivery
from sidecar.dev.fake_stripe.failures import StripeFailure, missing
from sidecar.dev.fake_stripe.faults import Faults
from sidecar.dev.fake_stripe.state import Bank, Object, State, by_itself, public
from sidecar.web import json_answer

Command = Callable[[str, Object], Object]

_DISPUTE_STEPS: Final[dict[str, Callable[[State, Object], Object]]] = {
    "withdraw": disputes.withdraw,
    "reinstate": disputes.reinstate,
    "answer": disputes.answer,
    "win": disputes.win,
    "lose": disputes.lose,
    "appeal": disputes.appeal,
    "close": disputes.close,
}


def routes(state: State, delivery: Delivery, faults: Faults) -> list[Route]:
    """Return the control of a state, of its webhooks and of its faults."""
    commands = _world(state) | _money(state) | _wires(state, delivery, faults)

    def route(path: str, command: Command) -> Route:
        async def handle(request: Request) -> Response:
            return await _answer(state, command, request)

        return Route(f"/_fake/{path}", handle, methods=["GET", "POST"])

    return [route(path, command) for path, command in commands.items()]


def step_dispute(state: State, id: str, step: str) -> Object:
    """Let a dispute go one step on. Raises `StripeFailure`."""
    dispute = state.get("dispute", id)
    if step not in _DISPUTE_STEPS:
        raise StripeFailure(f"A dispute can {', '.join(_DISPUTE_STEPS)}.")
    return _DISPUTE_STEPS[step](state, dispute)


def _world(state: State) -> dict[str, Command]:
    def clock(_: str, body: Object) -> Object:
        state.clock.advance(int(body.get("advance_seconds", 0)))
        return {"now": state.now()}

    def settings(_: str, body: Object) -> Object:
        for name, value in body.items():
            setattr(state.settings, name, value)
        return dataclasses.asdict(state.settings)

    def card(id: str, body: Object) -> Object:
        method = state.get("payment_method", id)
        if body:
            method["_bank"] = _bank(body)
        return {"id": id, **dataclasses.asdict(method["_bank"])}

    def threshold(id: str, body: Object) -> Object:
        subscription = state.get("subscription", id)
        return renewals.bill_threshold(state, subscription, int(body.get("amount", 1_000)))

    return {
        "clock": clock,
        "settings": settings,
        "cards/{id}": card,
        "subscriptions/{id}/threshold-invoice": threshold,
    }


def _money(state: State) -> dict[str, Command]:
    def dispute(_: str, body: Object) -> Object:
        kind = body.get("kind", "chargeback")
        if kind not in ("chargeback", "inquiry"):
            raise StripeFailure("A dispute is a chargeback or an inquiry.", param="kind")
        reason = body.get("reason", "fraudulent")
        return disputes.begin(state, _charge(state, body), kind, body.get("amount"), reason)

    def refund(id: str, body: Object) -> Object:
        found, status = state.get("refund", id), body.get("status", "")
        if status not in refunds.STATUSES:
            raise StripeFailure(f"A refund is {', '.join(refunds.STATUSES)}.", param="status")
        reason = body.get("failure_reason", "unknown")
        return refunds.decide(state, found, status, refunds.cause_of(found), reason)

    def warning(_: str, body: Object) -> Object:
        fraud_type = body.get("fraud_type", "unauthorized_use_of_card")
        return disputes.warn(state, _charge(state, body), fraud_type)

    def settle(id: str, body: Object) -> Object:
        payment = state.get("payment_intent", id)
        return payments.settle(state, payment, is_paid=body.get("paid", True))

    def pay(id: str, body: Object) -> Object:
        session = state.get("checkout.session", id)
        card = body.get("payment_method", cards.DEFAULT_CARD)
        return checkout.pay(state, session, card, by_itself(session))

    steps = {f"disputes/{{id}}/{step}": _step(state, step) for step in _DISPUTE_STEPS}
    return {
        "disputes": dispute,
        **steps,
        "refunds/{id}/status": refund,
        "fraud-warnings": warning,
        "payments/{id}/settle": settle,
        "payments/{id}/authenticate": lambda id, _: payments.authenticate(
            state, state.get("payment_intent", id)
        ),
        "checkout/{id}/pay": pay,
    }


def _wires(state: State, delivery: Delivery, faults: Faults) -> dict[str, Command]:
    def deliver(_: str, body: Object) -> Object:
        delivery.set(body)
        return {"pending": delivery.pending, **dataclasses.asdict(delivery.options)}

    def send_again(_: str, body: Object) -> Object:
        for event in state.events:
            if event["id"] == body.get("event"):
                delivery.send_again(event)
                return event
        raise missing("event", str(body.get("event")))

    def clear(_: str, __: Object) -> Object:
        faults.clear()
        return {}

    return {
        "delivery": deliver,
        "delivery/flush": lambda _, __: {"sent": delivery.flush()},
        "delivery/send-again": send_again,
        "faults": lambda _, body: dataclasses.asdict(faults.add(body)),
        "faults/clear": clear,
    }


async def _answer(state: State, command: Command, request: Request) -> Response:
    try:
        body = json.loads(await request.body() or b"{}")
        answer = command(request.path_params.get("id", ""), body)
    except StripeFailure as failure:
        return json_answer({"error": failure.error}, failure.status)
    except (AttributeError, TypeError, ValueError, httpx.InvalidURL) as error:
        return json_answer({"error": {"message": str(error)}}, 400)
    state.clock.catch_up()
    return json_answer(public(answer))


def _step(state: State, step: str) -> Command:
    return lambda id, _: step_dispute(state, id, step)


def _charge(state: State, body: Object) -> Object:
    return charges.of_payment(state, body.get("charge"), body.get("payment_intent"))


def _bank(body: Object) -> Bank:
    fields: dict[str, Any] = dict(body)
    code = fields.get("decline_code")
    if code is not None:
        fields.setdefault("advice_code", cards.ADVICE.get(code))
    return Bank(**fields)
