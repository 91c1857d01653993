"""The page where customers pay a Checkout session."""

from __future__ import annotations

import html
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from sidecar.dev.fake_stripe import cards, checkout
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.forms import Form, parse
from sidecar.dev.fake_stripe.state import Object, State, by_itself
from sidecar.web import json_answer

_PAY: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Pay (fake Stripe)</title>
<style>body{{font:16px/1.5 system-ui;max-width:30rem;margin:4rem auto;padding:0 1rem}}
button,select{{font:inherit;padding:.5rem 1rem;margin:.5rem 0}}</style>
<h1>Pay {amount} {currency}</h1>
<p>This is a fake Stripe on a development machine. No money moves.</p>
<form method="post"><label>Card <select name="payment_method">{cards}</select></label>
<p><button type="submit">Pay</button></p></form>
{cancel}</html>"""


def routes(state: State) -> list[Route]:
    """Return the pages around a state."""

    async def pay(request: Request) -> Response:
        id = request.path_params["id"]
        body = (await request.body()).decode("utf-8", "replace")
        try:
            session = state.get("checkout.session", id)
            if request.method == "GET":
                return HTMLResponse(_pay_page(session))
            card = Form(parse(body)).text("payment_method") or cards.DEFAULT_CARD
            paid = checkout.pay(state, session, card, by_itself(session))
        except StripeFailure as failure:
            return json_answer({"error": failure.error}, failure.status)
        url = paid["success_url"].replace("{CHECKOUT_SESSION_ID}", id)
        return RedirectResponse(url, status_code=303)

    return [Route("/pay/{id}", pay, methods=["GET", "POST"])]


def _pay_page(session: Object) -> str:
    if session["status"] != "open":
        return f"<!doctype html><p>This session is {html.escape(session['status'])}.</p>"
    options = "".join(f"<option>{html.escape(card)}</option>" for card in cards.CARDS)
    cancel_url = session["cancel_url"]
    cancel = f'<p><a href="{html.escape(cancel_url)}">Cancel</a></p>' if cancel_url else ""
    return _PAY.format(
        amount=f"{session['amount_total'] / 100:.2f}",
        currency=html.escape(session["currency"].upper()),
        cards=options,
        cancel=cancel,
    )
