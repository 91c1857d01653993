"""The pages of the fake: where customers pay, their portal, and the fake's own page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from sidecar.dev.fake_stripe import buttons, cards, checkout, page, portal
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.forms import Form, parse
from sidecar.dev.fake_stripe.markup import Markup, button, choice, document, join, table, tag
from sidecar.dev.fake_stripe.state import Object, State, by_itself
from sidecar.web import json_answer

_NOTE: Final = "This is a fake Stripe on a development machine. No money moves."


class Pages:
    """The handlers of the pages, around one state."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        """Return what is answered."""
        both = ["GET", "POST"]
        return [
            Route("/", self._home, methods=["GET"]),
            Route("/do/{action}", self._do, methods=["POST"]),
            Route("/pay/{id}", self._pay, methods=both),
            Route("/portal/{id}", self._portal, methods=both),
        ]

    async def _home(self, _: Request) -> Response:
        self._state.clock.catch_up()
        return HTMLResponse(page.render(self._state))

    async def _do(self, request: Request) -> Response:
        """Do what a button says, and show the page again with what came of a failure."""
        form = await _form(request)
        try:
            buttons.press(self._state, request.path_params["action"], form)
        except StripeFailure as failure:
            return HTMLResponse(page.render(self._state, str(failure)), failure.status)
        self._state.clock.catch_up()
        return RedirectResponse("/", status_code=303)

    async def _pay(self, request: Request) -> Response:
        id = request.path_params["id"]

        def answer(form: Form) -> Response:
            session = self._state.get("checkout.session", id)
            if request.method == "GET":
                return HTMLResponse(_pay_page(session))
            card = form.text("payment_method") or cards.DEFAULT_CARD
            try:
                paid = checkout.pay(self._state, session, card, by_itself(session))
            except StripeFailure as failure:
                return HTMLResponse(_pay_page(session, str(failure)), failure.status)
            url = paid["success_url"].replace("{CHECKOUT_SESSION_ID}", id)
            return RedirectResponse(url, status_code=303)

        return await _guarded(request, answer)

    async def _portal(self, request: Request) -> Response:
        state, id = self._state, request.path_params["id"]

        def answer(form: Form) -> Response:
            session = state.get("billing_portal.session", id)
            card, ending = form.text("card"), form.text("subscription")
            if card is not None:
                portal.change_card(state, session["customer"], card)
            if ending is not None:
                portal.end_with_period(state, _own(state, session, ending))
            return HTMLResponse(_portal_page(state, session))

        return await _guarded(request, answer)


async def _guarded(request: Request, answer: Callable[[Form], Response]) -> Response:
    form = await _form(request)
    try:
        return answer(form)
    except StripeFailure as failure:
        return json_answer({"error": failure.error}, failure.status)


async def _form(request: Request) -> Form:
    return Form(parse((await request.body()).decode("utf-8", "replace")))


def _own(state: State, session: Object, id: str) -> Object:
    subscription = state.get("subscription", id)
    if subscription["customer"] != session["customer"]:
        raise StripeFailure("This subscription is another customer's.", status=403)
    return subscription


def _pay_page(session: Object, message: str = "") -> str:
    if session["status"] != "open":
        return document("Pay (fake Stripe)", tag("p", f"This session is {session['status']}."))
    amount = page.money(session["amount_total"], session["currency"])
    cancel = session["cancel_url"]
    return document(
        f"Pay {amount}",
        tag("p", _NOTE),
        tag("p", tag("strong", message)) if message else "",
        tag("div", choice("Pay", "", "payment_method", cards.CARDS)),
        tag("p", tag("a", "Cancel", href=cancel)) if _is_web(cancel) else "",
    )


def _portal_page(state: State, session: Object) -> str:
    customer, back = session["customer"], session["return_url"]
    methods = state.all("payment_method", customer=customer)
    return document(
        "Your billing (fake Stripe)",
        tag("p", _NOTE),
        tag("h2", "Cards"),
        table(("Card",), ((method["_name"],) for method in methods)),
        tag("div", choice("Pay with this card from now on", "", "card", cards.CARDS)),
        tag("h2", "Subscriptions"),
        table(
            ("Subscription", "Status", "Period ends", ""),
            (_portal_row(each) for each in state.all("subscription", customer=customer)),
        ),
        tag("p", tag("a", "Back", href=back)) if _is_web(back) else "",
    )


def _portal_row(subscription: Object) -> tuple[object, ...]:
    ends = page.moment(min(i["current_period_end"] for i in subscription["items"]["data"]))
    can_end = subscription["status"] == "active" and not subscription["cancel_at_period_end"]
    end: Markup = join(
        [button("end it then", "", subscription=subscription["id"])] if can_end else []
    )
    return tag("code", subscription["id"]), subscription["status"], ends, end


def _is_web(url: str | None) -> bool:
    """Return whether a link may be shown: one that is no script."""
    return bool(url) and str(url).startswith(("http://", "https://"))
